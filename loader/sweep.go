package loader

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/sluice-net/sluice/registry"
	"golang.org/x/sys/unix"
)

// A socket that a hook has translated sends to its backend itself: when that goes, nothing that tc sees
// can lead it elsewhere, and a socket that only waits for an answer would wait for ever. So sockets are
// destroyed (SOCK_DESTROY) that were translated to
//
//   - a backend that left its service: connected UDP ones. Their next connect reaches a live backend;
//   - a container whose interface was detached: TCP ones, too. (Streams to a backend that has left its
//     service, but lives, may finish.)
//
// They are found in two steps. Maps sock_peers and sock_origin tell which sockets may be concerned; mostly
// none, and then that is all: some milliseconds for a full map. Else each network namespace is asked for the sockets that
// have one of the backends as their peer, for which the kernel walks its tables of TCP and UDP sockets
// once a namespace and family: a sweep costs 1 to 10 ms for each namespace, however many backends went.
// Only a socket that these have an entry of is destroyed: never one that was connected to the same
// address directly, nor another agent's.
//
// All that went while a sweep was under way is worked off by the next; sweeps are sweepPause times as long
// apart as the last one took.
const sweepPause = 3

// sweepAgain is when sockets are looked for once more: a connect that a hook has just translated may
// have been on its way to its socket.
const sweepAgain = time.Second

// leaver is a backend that left its service.
type leaver struct {
	id, epoch uint32 // its entry in backends, and the entry's epoch since it is free
	service   uint32 // id
	addr      netip.AddrPort
	proto     uint8
}

// sweep is what sockets are looked for by.
type sweep struct {
	left []leaver
	gone map[netip.Addr]bool // of containers
}

func (w *sweep) empty() bool { return len(w.left)+len(w.gone) == 0 }

func (w *sweep) add(other sweep) {
	w.left = append(w.left, other.left...)
	if w.gone == nil {
		w.gone = map[netip.Addr]bool{}
	}
	for a := range other.gone {
		w.gone[a] = true
	}
}

// sweeper destroys sockets, one sweep at a time, while nobody waits for it. A nil one does nothing.
type sweeper struct {
	l     *Loader
	home  *os.File // the agent's own network namespace
	wake  chan struct{}
	stop  context.CancelFunc
	ended chan struct{}

	closing sync.Once
	mu      sync.Mutex
	pending sweep
	problem error // of the last sweep

	unable map[string]bool // protocols whose sockets the kernel cannot end; of the sweep under way
}

// newSweeper makes the sweeper of a loader that has a source of namespaces, or nil. It is called on a
// thread in the agent's own one.
func newSweeper(l *Loader) (*sweeper, error) {
	if l.o.Namespaces == nil {
		return nil, nil
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	return &sweeper{
		l: l, home: home, wake: make(chan struct{}, 1), ended: make(chan struct{}), unable: map[string]bool{},
	}, nil
}

func (s *sweeper) start() {
	if s == nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.run(ctx)
}

// close ends the sweep under way, which takes as long as one answer of the kernel about its sockets. The next
// agent looks for what is left of it, but for streams to containers that are gone: their next packet ends them.
func (s *sweeper) close() {
	if s == nil {
		return
	}
	s.closing.Do(func() {
		if s.stop != nil {
			s.stop()
			<-s.ended
		}
		s.home.Close()
	})
}

func (s *sweeper) add(w sweep) {
	if s == nil || w.empty() {
		return
	}
	s.mu.Lock()
	s.pending.add(w)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (s *sweeper) take() sweep {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.pending
	s.pending = sweep{}
	return w
}

// left notes a backend that is free, and was of a service. The caller holds the lock of the loader.
func (s *sweeper) left(f registry.Frontend, service uint32, m member) {
	if s == nil || f.Protocol != registry.UDP {
		return
	}
	_, _, _, epoch := splitBackendWord(*s.l.backends.backendWord(m.id))
	s.add(sweep{left: []leaver{{m.id, epoch, service, m.addr, uint8(f.Protocol)}}})
}

// gone notes the addresses of a container that is no more.
func (s *sweeper) gone(addrs []netip.Addr) {
	w := sweep{gone: map[netip.Addr]bool{}}
	for _, a := range addrs {
		w.gone[a] = true
	}
	s.add(w)
}

// resume notes what a predecessor did not come to: a backend's entry says that sockets use it until they
// were looked for.
func (s *sweeper) resume(backends *memory) {
	if s == nil {
		return
	}
	var w sweep
	for id := uint32(1); id < backends.entries; id++ {
		_, proto, state, epoch := splitBackendWord(*backends.backendWord(id))
		if state != backendFree || proto != unix.IPPROTO_UDP || backends.load32(id, backendUsedOffset) == 0 {
			continue
		}
		b := backends.backend(id)
		addr := netip.AddrPortFrom(fromAddress(b.Addr), b.Port)
		w.left = append(w.left, leaver{id, epoch, b.Service, addr, proto})
	}
	s.add(w)
}

// run sweeps until ctx ends.
func (s *sweeper) run(ctx context.Context) {
	defer close(s.ended)
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	var again sweep
	for ctx.Err() == nil {
		var late bool
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			late = true
		case <-s.wake:
		}
		start := time.Now()
		if late {
			s.sweep(ctx, again)
			s.settle(again)
			again = sweep{}
		} else if w := s.choose(s.take()); !w.empty() {
			s.sweep(ctx, w)
			if again.empty() {
				timer.Reset(sweepAgain)
			}
			again.add(w)
		}
		select {
		case <-ctx.Done():
		case <-time.After(sweepPause * time.Since(start)):
		}
	}
}

// choose leaves out the backends that no socket ever used.
func (s *sweeper) choose(w sweep) sweep {
	if w.empty() {
		return w
	}
	// Whoever saw the backend in service has said by then that a socket uses it, and what for.
	if err := waitForPrograms(); err != nil {
		s.report([]error{err})
		return w // look for all of them
	}
	used := w.left[:0]
	for chunk := range slices.Chunk(w.left, statsChunk) {
		// The loader is closed after the sweeper.
		_ = s.l.locked(func() error {
			for _, v := range chunk {
				_, _, _, epoch := splitBackendWord(*s.l.backends.backendWord(v.id))
				if epoch != v.epoch || s.l.backends.load32(v.id, backendUsedOffset) != 0 {
					used = append(used, v) // whether another's entry was used says nothing
				}
			}
			return nil
		})
	}
	w.left = used
	return w
}

// settle notes in the entries of backends that their sockets were looked for.
func (s *sweeper) settle(w sweep) {
	for chunk := range slices.Chunk(w.left, statsChunk) {
		_ = s.l.locked(func() error { // see choose
			for _, v := range chunk {
				_, _, state, epoch := splitBackendWord(*s.l.backends.backendWord(v.id))
				if state == backendFree && epoch == v.epoch {
					s.l.backends.store32(v.id, backendUsedOffset, 0)
				}
			}
			return nil
		})
	}
}

// sweep destroys the sockets once.
func (s *sweeper) sweep(ctx context.Context, w sweep) {
	found, err := s.find(w)
	if err != nil {
		s.report([]error{err})
		return
	}
	if len(found) == 0 {
		return
	}
	before := s.cookies()
	paths, err := s.l.o.Namespaces()
	visited, problems := inNamespaces(ctx, s.home, paths, func(d *sockDiag) error {
		return s.destroy(ctx, d, found)
	})
	if err != nil {
		problems = append(problems, fmt.Errorf("list network namespaces: %w", err))
	}
	if ctx.Err() != nil {
		return
	}
	after := s.cookies()
	for name, cookie := range before {
		if after[name] == cookie && !visited[cookie] {
			problems = append(problems, fmt.Errorf("network namespace %d of interface %s was not found", cookie, name))
		}
	}
	s.report(problems)
}

// cookies returns those of the containers' namespaces, by interface.
func (s *sweeper) cookies() map[string]uint64 {
	s.l.wireMu.Lock()
	defer s.l.wireMu.Unlock()
	cookies := map[string]uint64{}
	for name, cookie := range s.l.namespaces.byName {
		cookies[name] = cookie
	}
	return cookies
}

// destroy ends those of the sockets that are in the current namespace.
func (s *sweeper) destroy(ctx context.Context, d *sockDiag, found map[sockKey]bool) error {
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		peers := peersOf(found, proto)
		if len(peers) == 0 || s.unable[protocolName(proto)] {
			continue
		}
		err := d.destroy(ctx, proto, peers, found)
		if errors.Is(err, errNoDestroy) || errors.Is(err, errNoDiag) {
			s.unable[protocolName(proto)] = true
			s.l.o.Logger.Warn("the kernel cannot end sockets whose backend is gone: they end with their next packet, or time out",
				"protocol", protocolName(proto), "error", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func protocolName(proto uint8) string { return registry.Protocol(proto).String() }

// report makes known what a sweep could not do.
func (s *sweeper) report(problems []error) {
	const named = 3
	n := len(problems)
	s.l.metrics.sweepErrors.Add(float64(n))
	if n > named {
		problems = append(problems[:named:named], fmt.Errorf("and %d more", n-named))
	}
	err := errors.Join(problems...)
	s.mu.Lock()
	last := s.problem
	s.problem = err
	s.mu.Unlock()
	if err != nil && (last == nil || last.Error() != err.Error()) {
		s.l.o.Logger.Warn("look for sockets whose backend is gone", "error", err)
	}
}

// Swept returns nil unless the last look for sockets whose backend is gone found a network namespace that
// it could not enter: sockets in there may wait for answers that nobody sends.
func (l *Loader) Swept() error {
	if l.sweeper == nil {
		return nil
	}
	l.sweeper.mu.Lock()
	defer l.sweeper.mu.Unlock()
	return l.sweeper.problem
}

// backendUsedOffset is the offset of used in struct backend.
const backendUsedOffset = unsafe.Offsetof(backend{}.Used)
