package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// Options says where and how a Loader works.
type Options struct {
	// BPFFS is the directory for pins. It belongs to one agent alone and lies on a bpf filesystem;
	// it is made when missing.
	BPFFS string
	// Cgroup is the cgroup2 directory whose processes the socket programs serve.
	Cgroup string
	// SocketTranslation attaches the socket programs. Without, tc translates everything.
	SocketTranslation bool
	// Sizes of the maps. A field that is 0 has its default.
	Sizes Sizes
	// Lifetimes of flows. A field that is 0 has its default.
	Lifetimes Lifetimes
	// Attach says how programs are attached to interfaces.
	Attach AttachMode
	// Node is this node's name in the registry.
	Node string
	// PolicyAudit makes every policy, and every closed network, report what it would drop and drop
	// nothing.
	PolicyAudit bool
	// EventRate is how many events a second each CPU reports at most; 0: 1000. The others are counted.
	EventRate uint32
	// EventSample reports the verdict on one of so many new flows; 0: on none.
	EventSample uint32
	// Algorithm is that of services that name none; the default is random.
	Algorithm registry.Algorithm
	// MaglevTableSize is how many slots each Maglev table has at least, one of MaglevTableSizes; 0:
	// DefaultMaglevTableSize. Those of many backends have more, up to 16381.
	MaglevTableSize uint32
	// Namespaces returns paths of the network namespaces in which processes may use services; one may
	// be there twice, and some lead nowhere. Sockets in these and in the agent's own are ended when their
	// backend is gone. What is returned beside an error counts. nil: no sockets are ended.
	Namespaces func() ([]string, error)
	// Logger may be nil.
	Logger *slog.Logger

	compiler func(node string) compiler

	grace time.Duration // how long ids and slots rest; 0: defaultGrace
	now   func() time.Time
	edit  func(*ebpf.CollectionSpec) // called with what is about to be loaded
	step  stepFunc                   // called before each step that changes something; an error ends Open there
}

// AttachMode is a way to attach programs to an interface.
type AttachMode string

// The ways there are. Auto is clsact also where the kernel has tcx: for each program that is attached
// or detached, tcx waits for an RCU grace period with the rtnl lock held. Measured on a 6.18 kernel
// with HZ=250: Attach 22 ms and DetachInterface 24 ms by tcx, 0.4 ms each by clsact.
const (
	AttachAuto   AttachMode = ""
	AttachTCX    AttachMode = "tcx"    // kernel 6.6
	AttachClsact AttachMode = "clsact" // every kernel
)

// defaultEventRate is what a terminal and a log collector can still take in.
const defaultEventRate = 1000

// defaultGrace is far longer than any program runs, and short enough that even with a thousand
// changes a second only a small part of the slots is at rest.
const defaultGrace = 3 * time.Second

type stepFunc func(name string) error

func (o Options) withDefaults() (_ Options, err error) {
	if !filepath.IsAbs(o.BPFFS) {
		return o, fmt.Errorf("bpffs directory %q: want an absolute path", o.BPFFS)
	}
	if o.SocketTranslation && o.Cgroup == "" {
		return o, errors.New("socket translation needs a cgroup2 directory")
	}
	if o.Sizes, err = o.Sizes.withDefaults(); err != nil {
		return o, err
	}
	if o.Lifetimes, err = o.Lifetimes.withDefaults(); err != nil {
		return o, err
	}
	switch o.Attach {
	case AttachAuto, AttachTCX, AttachClsact:
	default:
		return o, fmt.Errorf("attach mode %q: want tcx or clsact", o.Attach)
	}
	if o.Algorithm == registry.AlgorithmDefault {
		o.Algorithm = registry.AlgorithmRandom
	}
	if all := registry.Algorithms(); !slices.Contains(all, o.Algorithm) {
		return o, fmt.Errorf("algorithm %q: want one of %v", o.Algorithm, all)
	}
	if o.MaglevTableSize == 0 {
		o.MaglevTableSize = DefaultMaglevTableSize
	}
	if err := checkMaglevTableSize(o.MaglevTableSize); err != nil {
		return o, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.compiler == nil {
		o.compiler = func(node string) compiler { return policy.New(node) }
	}
	if o.EventRate == 0 {
		o.EventRate = defaultEventRate
	}
	if o.grace == 0 {
		o.grace = defaultGrace
	}
	if o.now == nil {
		o.now = time.Now
	}
	if o.edit == nil {
		o.edit = func(*ebpf.CollectionSpec) {}
	}
	if o.step == nil {
		o.step = func(string) error { return nil }
	}
	return o, nil
}

// choice is how runs are filled.
func (o Options) choice() choice { return newChoice(o.Algorithm, o.MaglevTableSize) }
