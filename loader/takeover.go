package loader

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// What a predecessor left under the pins, and how it is taken over.

// restore reads back services and endpoints.
func (l *Loader) restore() error {
	tables, err := newKernelTables(l.maps, l.slots, l.backends)
	if err != nil {
		return err
	}
	if err := waitForPrograms(); err != nil {
		return err
	}
	l.syncer = newSyncer(countingTables{tables, &l.writes}, l.o.Sizes, l.o.choice(), l.o.grace, l.o.now)
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
	l.syncer.left = l.sweeper.left
	l.sweeper.resume(l.backends)
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
	tags, dropped, err := l.endpoints.restore(names)
	if err != nil {
		return fmt.Errorf("read map endpoints: %w", err)
	}
	for _, d := range dropped {
		l.o.Logger.Warn("pinned endpoint was removed", "error", d)
	}
	l.sweeper.add(sweep{gone: l.endpoints.gone})
	if err := l.restoreNamespaces(); err != nil {
		return err
	}
	return l.restoreIsolation(tags)
}

// restoreIsolation reads back identities and policies.
func (l *Loader) restoreIsolation(tags map[netip.Addr]tag) error {
	l.policy.endpoints = l.endpoints
	l.isolation = newIsolation(l.policy, l.o.compiler(l.o.Node), l.o.Node, l.o.Sizes, l.o.grace, l.o.now)
	d, err := l.dumpIsolation(tags)
	if err != nil {
		return err
	}
	for _, wrong := range l.isolation.restore(d) {
		l.o.Logger.Warn("pinned isolation is unsound and stays closed until it is written anew", "error", wrong)
	}
	l.endpoints.tagOf = l.isolation.tagOf
	l.configure()
	l.isolate(func() error { return l.isolation.run() })
	return nil
}

// readInto reads a whole hash.
func readInto[K comparable, V any](into map[K]V, m *ebpf.Map) error {
	err := eachOf(m, func(k K, v V) error {
		into[k] = v
		return nil
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", m, err)
	}
	return nil
}

// configure writes what programs read at run time.
func (l *Loader) configure() {
	s := (*settings)(l.settings.at(0, 0))
	audit := uint8(0)
	if l.o.PolicyAudit {
		audit = 1
	}
	if s.Audit != audit {
		// Flows that pass, or do not, for this reason alone are decided anew.
		l.isolation.raiseAll = true
	}
	s.Sample, s.EventRate, s.Audit = l.o.EventSample, l.o.EventRate, audit
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
