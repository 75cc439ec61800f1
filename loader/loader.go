package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf/rlimit"
	"github.com/sluice-net/sluice/registry"
	"golang.org/x/sys/unix"
)

// Loader holds what an agent has in the kernel. Its methods may be called concurrently.
type Loader struct {
	o        Options
	maps     *mapSet
	programs *programs
	hooks    hooks
	metrics  metrics
	progress progress
	writes   writes
	events   *eventHub
	watches  watches
	sweeper  *sweeper

	mu       sync.Mutex // guards what follows
	syncer   *syncer
	slots    *memory
	backends *memory
	fills    map[string]cacheFill // of the maps that are caches
	closed   bool                 // guarded by both mutexes: held to write, either to read

	wireMu     sync.Mutex // guards what follows; taken after mu
	endpoints  *endpointTable
	namespaces *namespaceTable
	epochs     *memory
	isolation  *isolation
	policy     *kernelIsolation // what isolation writes to
	settings   *memory
}

// Open loads the programs and attaches them, or takes over what a predecessor left under the same
// pins: maps stay, ids stay, programs are replaced in place. Everything that may fail is done before
// anything that runs is changed. Interrupted at any point, a later Open goes on.
//
// Interfaces are those of the network namespace of the calling thread.
func Open(o Options) (_ *Loader, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, fmt.Errorf("open dataplane: %w", err)
	}
	l := &Loader{o: o, fills: map[string]cacheFill{}}
	l.progress.init()
	l.metrics.init()
	defer func() {
		if err != nil {
			l.Close()
			err = fmt.Errorf("open dataplane: %w", err)
		}
	}()
	if l.sweeper, err = newSweeper(l); err != nil {
		return nil, err
	}
	if err := l.build(); err != nil {
		return nil, err
	}
	if err := l.install(); err != nil {
		return nil, err
	}
	if err := l.report(); err != nil {
		return nil, err
	}
	l.sweeper.start()
	return l, nil
}

func (l *Loader) linksDir() string { return filepath.Join(l.o.BPFFS, "links") }

// build makes maps and programs. The kernel runs what it ran before.
func (l *Loader) build() error {
	// Kernels before 5.11 count map memory against this limit.
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise memlock limit: %w", err)
	}
	if err := makeDir(l.o.BPFFS); err != nil {
		return err
	}
	cfg, err := probeConfig(l.o.Lifetimes)
	if err != nil {
		return err
	}
	sock, pod, err := loadSpecs(cfg, l.o.Sizes)
	if err != nil {
		return err
	}
	l.o.edit(sock)
	l.o.edit(pod)
	renew, err := l.renewed()
	if err != nil {
		return err
	}
	if l.maps, err = openMaps(l.o.BPFFS, pinnedSpecs(sock), renew); err != nil {
		return err
	}
	if l.programs, err = loadPrograms(sock, pod, l.maps, l.o.SocketTranslation); err != nil {
		return err
	}
	return l.chooseHooks()
}

// makeDir makes the directories for pins.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make bpffs directory: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is not on a bpf filesystem; mount one: mount -t bpf bpf /sys/fs/bpf", dir)
	}
	if err := os.MkdirAll(filepath.Join(dir, "links"), 0o700); err != nil {
		return fmt.Errorf("make bpffs directory: %w", err)
	}
	return nil
}

func (l *Loader) chooseHooks() error {
	l.hooks = clsact{}
	if l.o.Attach == AttachTCX {
		if !haveTCX(l.programs.fromPod) {
			return errors.New("attach mode tcx: the kernel has none, it needs 6.6")
		}
		l.hooks = tcx{l.linksDir()}
	}
	return nil
}

// install pins the maps, reads back what a predecessor left, and switches what runs to the new
// programs and maps.
func (l *Loader) install() error {
	step := l.o.step
	if err := step("copy maps"); err != nil {
		return err
	}
	if err := l.maps.copyEntries(false); err != nil {
		return err
	}
	if err := l.maps.pin(step); err != nil {
		return err
	}
	if err := l.mapMemories(); err != nil {
		return err
	}
	if err := step("restore"); err != nil {
		return err
	}
	if err := l.restore(); err != nil {
		return err
	}
	if err := l.attachAll(); err != nil {
		return err
	}
	// All of it was looked at, which it will not be again.
	for _, m := range []*memory{l.slots, l.backends, l.epochs} {
		m.forget()
	}
	l.policy.forget()
	if !l.maps.replacing() {
		return nil
	}
	if err := step("copy maps again"); err != nil {
		return err
	}
	if err := l.maps.copyEntries(true); err != nil {
		return err
	}
	return l.maps.commit(step)
}

func (l *Loader) mapMemories() (err error) {
	const prot = unix.PROT_READ | unix.PROT_WRITE
	if l.slots, err = mapMemory(l.maps.get("slots"), prot); err != nil {
		return err
	}
	if l.backends, err = mapMemory(l.maps.get("backends"), prot); err != nil {
		return err
	}
	if l.epochs, err = mapMemory(l.maps.get("epochs"), prot); err != nil {
		return err
	}
	if l.settings, err = mapMemory(l.maps.get("settings"), prot); err != nil {
		return err
	}
	l.policy, err = newKernelIsolation(l.maps)
	return err
}

// Close lets go of what the process holds. Everything in the kernel stays and works on.
func (l *Loader) Close() error {
	l.events.close() // its reader takes the locks
	l.sweeper.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	l.slots.close()
	l.backends.close()
	l.epochs.close()
	l.settings.close()
	l.policy.close()
	l.programs.close()
	l.maps.close()
	return nil
}

// AttachMode returns how programs are attached to interfaces.
func (l *Loader) AttachMode() AttachMode {
	if _, is := l.hooks.(tcx); is {
		return AttachTCX
	}
	return AttachClsact
}

// errClosed is returned by methods of a Loader that was closed.
var errClosed = errors.New("dataplane is closed")

// Detach removes everything from the kernel that this package put there, and closes the Loader. The
// node is as before: VIPs lead nowhere, containers are reached by the kernel's own routing.
func (l *Loader) Detach() error {
	if err := l.Close(); err != nil {
		return err
	}
	return Detach(l.o.BPFFS)
}

// Sync brings the maps to the desired state, isolation before services: a VIP never leads to where its
// policies do not hold yet. The error wraps ErrFull when a map has no room; the rest is done all the same,
// and what is left is tried again with the next Sync.
func (l *Loader) Sync(u registry.Update) error {
	return l.sync(func(i *isolation, s *syncer) error {
		return errors.Join(l.isolate(func() error { return i.update(u.Isolation, u.Snapshot) }), s.update(u))
	}, u.Revision)
}

// isolate does work on isolation.
func (l *Loader) isolate(work func() error) error {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	return work()
}
