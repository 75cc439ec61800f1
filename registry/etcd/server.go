package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"golang.org/x/sys/unix"
)

// ErrInUse is returned by Open when another process has the data directory.
var ErrInUse = errors.New("in use by another process")

const (
	socketName    = "etcd/sock"
	maxSocketPath = 107 // sun_path holds 108 bytes, the last of them 0

	// A single member elects itself after one to six ticks. Shorter ones start faster but wake an
	// idle process more often: at 40 ms it takes twice the CPU time, 0.9 % of a core.
	tickMs     = 100
	electionMs = 500

	compactAfter  = "5m"    // old revisions are dropped every so often
	snapshotCount = 5000    // entries kept in the log: bounds the replay at start
	defragAtStart = 16      // MiB to win for doing it at start, when nobody waits
	defaultQuota  = 2 << 30 // bytes

	defaultInstances = 250_000 // some 400 MB of heap in the store
	startTimeout     = 60 * time.Second
)

// Options says where the registry lives and what it may hand out.
type Options struct {
	// Cluster is the etcd to use; nil: one that is embedded, whose files are in Dir and Run.
	Cluster *Cluster
	// Dir holds the data. It is created, with its parents, for root only.
	Dir string
	// Run gets a subdirectory etcd, for root only, with the unix socket in it: etcd itself asks
	// nobody who he is.
	Run string
	// ServiceCIDRs are the ranges that VIPs come from, in order of preference; a service that does
	// not say otherwise gets the family of the first.
	ServiceCIDRs []netip.Prefix
	// NodePorts is the range that node ports come from; the zero value is 30000-32767.
	NodePorts PortRange
	// ContainerCIDRs are the ranges that containers get their addresses from: no service gets one of these.
	ContainerCIDRs []netip.Prefix
	// Quota bounds the database in bytes; 0 is 2 GiB. At the quota writes fail, reads go on.
	Quota int64
	// Expiry bounds how many instances of a service whose leases have lapsed go at once; zero fields: the default's.
	Expiry ExpiryLimit
	// MaxInstances is how many may be registered; 0: 250 000. Some more get in when many register at once.
	MaxInstances int
	keep         bool // of tests: what has lapsed stays
	// Logger: nil discards.
	Logger *slog.Logger
}

// Store is the registry. Its methods may be called concurrently.
type Store struct {
	log    *slog.Logger
	lock   *os.File // nil with a cluster, as is server
	server *embed.Etcd
	client *clientv3.Client
	ranges []vipRange
	quota  int64 // bytes

	nodePortRange PortRange
	containers    []netip.Prefix // ranges of their addresses
	reals         *realAddresses
	wroteReal     atomic.Int64 // highest revision that a write of ours made to endpoints or nodes

	instances *instanceIndex
	news      news
	owed      *owed
	streams   renewStreams // with a cluster
	expiry    ExpiryLimit
	most      int          // instances
	renewals  atomic.Int64 // asked for, ever
	expired   atomic.Int64 // instances that this agent ended, ever

	background context.Context    // of what works until Close
	stop       context.CancelFunc // ends the background work
	running    sync.WaitGroup
	closing    atomic.Bool
	written    atomic.Int64 // highest revision that a write of ours made
	damaged    atomic.Int64 // values that could not be read, ever
	seen       atomic.Int64 // highest revision that a watch or a write has told
}

// Open starts the registry, or recovers it after whatever ended the last run. A cluster need not be there yet: until it
// is, requests fail with registry.ErrUnavailable and watches wait. The caller closes the store.
func Open(ctx context.Context, o Options) (s *Store, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ranges, err := newRanges(o.ServiceCIDRs)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	if o.MaxInstances == 0 {
		o.MaxInstances = defaultInstances
	}
	if o.Quota == 0 {
		o.Quota = defaultQuota
	}
	if o.NodePorts == (PortRange{}) {
		o.NodePorts = DefaultNodePorts()
	}
	if err := o.NodePorts.validate(); err != nil {
		return nil, fmt.Errorf("open registry: node ports: %w", err)
	}
	o.Expiry = o.Expiry.orDefault()
	if err := o.Expiry.Validate(); err != nil {
		return nil, fmt.Errorf("open registry: expiry: %w", err)
	}
	s = &Store{
		log: o.Logger, ranges: ranges, quota: o.Quota,
		nodePortRange: o.NodePorts, containers: o.ContainerCIDRs, reals: newRealAddresses(),
		instances: newInstanceIndex(), owed: newOwed(), expiry: o.Expiry, most: o.MaxInstances,
	}
	s.instances.tell = s.news.tell
	if o.Cluster == nil {
		err = s.embed(ctx, o)
	} else if err = s.dial(o.Cluster); err != nil {
		err = fmt.Errorf("open registry: etcd cluster: %w", err)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	s.client.KV = patient{s.client.KV}
	background, cancel := context.WithCancel(context.Background())
	s.background, s.stop = background, cancel
	s.running.Go(func() { s.followReal(background) })
	s.running.Go(func() { s.followInstances(background) })
	s.running.Go(func() { s.settle(background) })
	if s.server != nil {
		if !o.keep {
			s.running.Go(func() { newExpirer(s).run(background) }) // no other agent has this store
		}
		s.running.Go(func() { s.maintain(background) })
		s.warnOfRanges(ctx)
	} else {
		s.streams.client = s.client
		s.running.Go(func() { s.expireElected(background) })
		s.running.Go(func() { s.compactCluster(background) })
		s.running.Go(func() { s.warnOfRanges(background) })
	}
	return s, nil
}

// Embedded tells whether this is the node's own registry, that no other node uses.
func (s *Store) Embedded() bool { return s.server != nil }

// embed starts an etcd of our own.
func (s *Store) embed(ctx context.Context, o Options) error {
	cfg, err := config(o, &s.closing)
	if err != nil {
		return fmt.Errorf("open registry: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(o.Run, filepath.Dir(socketName)), 0o700); err != nil {
		return fmt.Errorf("open registry: make directory of its socket: %w", err)
	}
	if s.lock, err = lockDir(o.Dir); err != nil {
		return fmt.Errorf("open registry %s: %w", o.Dir, err)
	}
	if s.server, err = start(cfg); err != nil {
		return fmt.Errorf("open registry %s: %w", o.Dir, err)
	}
	if err = s.ready(ctx); err != nil {
		return fmt.Errorf("open registry %s: %w", o.Dir, err)
	}
	s.client = v3client.New(s.server.Server)
	return nil
}

// start makes an error of files that are beyond repair, where etcd panics.
func start(cfg *embed.Config) (e *embed.Etcd, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("etcd cannot read its data (its messages may say more): %v", p)
		}
	}()
	// etcd opens its database in a goroutine of its own, where no one can recover.
	file := databaseFile(cfg.Dir)
	if _, err := os.Stat(file); err == nil {
		db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: startTimeout})
		if err != nil {
			return nil, fmt.Errorf("read database %s: %w", file, err)
		}
		if err := db.Close(); err != nil {
			return nil, fmt.Errorf("read database %s: %w", file, err)
		}
	}
	return embed.StartEtcd(cfg)
}

// ready waits until etcd serves.
func (s *Store) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("etcd not ready after %s", startTimeout))
	defer cancel()
	select {
	case <-s.server.Server.ReadyNotify():
		return nil
	case <-s.server.Server.StopNotify():
		return errors.New("etcd stopped while starting; its log says why")
	case err := <-s.server.Err():
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lockDir makes sure of being alone: etcd would wait for the other process without end.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Clean(dir)+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

func config(o Options, closing *atomic.Bool) (*embed.Config, error) {
	socket := filepath.Join(o.Run, socketName)
	if len(socket) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s has %d bytes, the kernel allows %d: choose a shorter run directory",
			socket, len(socket), maxSocketPath)
	}
	if !filepath.IsAbs(socket) {
		return nil, fmt.Errorf("run directory %q is not an absolute path", o.Run)
	}
	unixURL := url.URL{Scheme: "unix", Path: socket}
	cfg := embed.NewConfig()
	cfg.Name = "sluice"
	cfg.Dir = o.Dir
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(o.Logger, closing))
	cfg.ListenClientUrls = []url.URL{unixURL}
	cfg.AdvertiseClientUrls = []url.URL{unixURL}
	// No other member will ever dial: the peer URL is a name only. It must not change from one
	// start to the next, as the run directory may.
	cfg.ListenPeerUrls = nil
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Path: "sluice"}}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.EnableGRPCGateway = false
	cfg.AuthToken = ""
	cfg.TickMs = tickMs
	cfg.ElectionMs = electionMs
	cfg.SnapshotCount = snapshotCount
	cfg.SnapshotCatchUpEntries = snapshotCount / 2
	cfg.AutoCompactionMode = embed.CompactorModePeriodic
	cfg.AutoCompactionRetention = compactAfter
	cfg.BootstrapDefragThresholdMegabytes = defragAtStart
	cfg.QuotaBackendBytes = o.Quota
	cfg.MaxTxnOps = maxTogether
	cfg.MaxRequestBytes = 2 * maxTogetherBytes // keys come twice, and each operation has its own head
	return cfg, nil
}

// Close stops the registry. Watches end.
func (s *Store) Close() error {
	s.closing.Store(true)
	if s.stop != nil {
		s.stop()
	}
	s.running.Wait()
	if s.client != nil {
		s.client.Close()
	}
	if s.server != nil {
		s.server.Close()
	}
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}
