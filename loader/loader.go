package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
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

	mu       sync.Mutex // guards what follows
	syncer   *syncer
	slots    *memory
	backends *memory
	fills    map[string]cacheFill // of the maps that are caches
	closed   bool                 // guarded by both mutexes: held to write, either to read

	wireMu    sync.Mutex // guards what follows
	endpoints *endpointTable
	epochs    *memory
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
	if err := l.build(); err != nil {
		return nil, err
	}
	if err := l.install(); err != nil {
		return nil, err
	}
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
	cfg, err := probeConfig()
	if err != nil {
		return err
	}
	sock, pod, err := loadSpecs(cfg, l.o.Sizes)
	if err != nil {
		return err
	}
	l.o.edit(sock)
	l.o.edit(pod)
	if l.maps, err = openMaps(l.o.BPFFS, pinnedSpecs(sock)); err != nil {
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
	l.epochs, err = mapMemory(l.maps.get("epochs"), prot)
	return err
}

// restore reads back services and endpoints.
func (l *Loader) restore() error {
	tables, err := newKernelTables(l.maps, l.slots, l.backends)
	if err != nil {
		return err
	}
	if err := waitForPrograms(); err != nil {
		return err
	}
	l.syncer = newSyncer(tables, l.o.Sizes, l.o.grace, l.o.now)
	entries := map[serviceKey]service{}
	err = eachOf(l.maps.get("services"), func(k serviceKey, v service) error {
		entries[k] = v
		return nil
	})
	if err != nil {
		return fmt.Errorf("read map services: %w", err)
	}
	for _, wrong := range l.syncer.restore(entries, l.slots, l.backends) {
		l.o.Logger.Warn("pinned service is unsound and will be written anew", "error", wrong)
	}
	return l.restoreEndpoints()
}

// waitForPrograms returns when every program that runs now is over: they may be reading what a
// predecessor let go of in its last moment. The kernel waits so (an RCU grace period) after each
// write to a map of maps. membarrier(2) would wait as well, but not on a machine with nohz_full.
func waitForPrograms() error {
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner,
	})
	if err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	defer outer.Close()
	m, err := ebpf.NewMap(inner)
	if err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	defer m.Close()
	if err := outer.Put(uint32(0), m); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}

func (l *Loader) restoreEndpoints() error {
	names, err := interfaceNames()
	if err != nil {
		return err
	}
	pinned, err := tcx{l.linksDir()}.interfaces()
	if err != nil {
		return err
	}
	for name, index := range pinned {
		if _, there := names[index]; index != 0 && !there {
			return fmt.Errorf("interface %s (%d) has programs attached but is not in this network "+
				"namespace: is the agent in the right one?", name, index)
		}
	}
	l.endpoints = newEndpointTable(l.maps.get("endpoints"), l.epochs, l.o.grace, l.o.now)
	dropped, err := l.endpoints.restore(names)
	if err != nil {
		return fmt.Errorf("read map endpoints: %w", err)
	}
	for _, d := range dropped {
		l.o.Logger.Warn("pinned endpoint was removed", "error", d)
	}
	return nil
}

// attachAll makes cgroup and interfaces run the new programs.
func (l *Loader) attachAll() error {
	stale, err := staleLinks(l.linksDir())
	if err != nil {
		return err
	}
	for _, pin := range stale {
		if err := removeLink(pin); err != nil {
			return err
		}
	}
	for _, w := range l.endpoints.list() {
		if err := l.o.step("attach " + w.Name); err != nil {
			return err
		}
		if err := l.hooks.attach(w.Name, w.Index, l.programs); err != nil {
			return err
		}
		if err := l.other().detach(w.Name, w.Index); err != nil {
			return err
		}
	}
	if err := l.dropStrays(); err != nil {
		return err
	}
	if !l.o.SocketTranslation {
		return detachCgroup(l.linksDir())
	}
	return attachCgroup(l.linksDir(), l.o.Cgroup, l.programs.sock, l.o.step)
}

// other returns the hooks that are not in use: the config, or the kernel, may have changed.
func (l *Loader) other() hooks {
	if _, is := l.hooks.(tcx); is {
		return clsact{}
	}
	return tcx{l.linksDir()}
}

// dropStrays detaches the programs from interfaces that have no endpoint: an Attach or
// DetachInterface was interrupted, or the interface is gone.
func (l *Loader) dropStrays() error {
	links, filters, err := l.strays()
	if err != nil {
		return err
	}
	for name, index := range links {
		if err := (tcx{l.linksDir()}).detach(name, index); err != nil {
			return err
		}
		l.o.Logger.Info("stray links were removed", "interface", name)
	}
	for index, name := range filters {
		if err := (clsact{}).detach(name, index); err != nil {
			return err
		}
		l.o.Logger.Info("stray filters were removed", "interface", name)
	}
	return nil
}

// strays returns the interfaces without endpoint that have links of ours, by name, and those that
// have filters of ours, by index.
func (l *Loader) strays() (links map[string]int, filters map[int]string, err error) {
	wanted := func(name string) bool { return l.endpoints.byName[name] != nil }
	links, err = tcx{l.linksDir()}.interfaces()
	if err != nil {
		return nil, nil, err
	}
	for name := range links {
		if wanted(name) {
			delete(links, name)
		}
	}
	names, err := interfaceNames()
	if err != nil {
		return nil, nil, err
	}
	filters, err = clsact{}.strays(names, wanted)
	return links, filters, err
}

// Close lets go of what the process holds. Everything in the kernel stays and works on.
func (l *Loader) Close() error {
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

// Sync brings the maps to the desired state. The error wraps ErrFull when a map has no room; the
// rest is done all the same, and what is left is tried again with the next Sync.
func (l *Loader) Sync(u registry.Update) error {
	return l.sync(func(s *syncer) error { return s.update(u) }, u.Revision)
}
