package loader

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/sluice-net/sluice/registry"
	"github.com/vishvananda/netlink"
)

// modes runs a test once for each way to attach.
func modes(t *testing.T, f func(t *testing.T, n *node, o Options)) {
	for _, mode := range []AttachMode{AttachClsact, AttachTCX} {
		t.Run(string(mode), func(t *testing.T) {
			n := newNode(t)
			o := n.options()
			o.Attach = mode
			f(t, n, o)
		})
	}
}

func someServices() registry.Update {
	return registry.Update{Revision: 3, Snapshot: true, Set: []registry.Resolved{
		resolved("10.96.0.1", 80, 3), resolved("fd00:10:96::1", 80, 2), resolved("10.96.0.2", 80, 0),
	}}
}

func mustSync(t *testing.T, l *Loader, u registry.Update) {
	t.Helper()
	if err := l.Sync(u); err != nil {
		t.Fatal(err)
	}
}

// programIDs returns the ids of everything that is loaded.
func programIDs(t *testing.T, l *Loader) map[string]ebpf.ProgramID {
	t.Helper()
	ids := map[string]ebpf.ProgramID{}
	for name, p := range l.programs.all() {
		id, err := programID(p)
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = id
	}
	return ids
}

func linkIDs(t *testing.T, l *Loader) map[string]uint32 {
	t.Helper()
	entries, err := os.ReadDir(l.linksDir())
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]uint32{}
	for _, e := range entries {
		info, err := linkInfo(filepath.Join(l.linksDir(), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		ids[e.Name()] = uint32(info.ID)
	}
	return ids
}

// TestRestart: a successor keeps maps, ids and links, and runs its own programs.
func TestRestart(t *testing.T) {
	modes(t, func(t *testing.T, n *node, o Options) {
		l := n.open(o)
		one, two := n.veth(1), n.veth(2)
		for _, i := range []Interface{one, two} {
			if err := l.Attach(i); err != nil {
				t.Fatal(err)
			}
		}
		mustSync(t, l, someServices())
		mustBeClean(t, l)
		programs, links := programIDs(t, l), linkIDs(t, l)
		services := map[serviceKey]service{}
		if err := eachOf(l.maps.get(sockMapServices), func(k serviceKey, v service) error {
			services[k] = v
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		wired := map[string]uint32{}
		for name, w := range l.endpoints.byName {
			wired[name] = w.id
		}
		l.Close()

		l = n.open(o)
		if _, err := l.Check(); err == nil {
			t.Error("check passes without a snapshot")
		}
		for name, w := range l.endpoints.byName {
			if w.id != wired[name] {
				t.Errorf("%s: endpoint id %d became %d", name, wired[name], w.id)
			}
		}
		for _, i := range []Interface{one, two} {
			if err := l.VerifyInterface(i); err != nil {
				t.Error(err)
			}
		}
		if got := l.Interfaces(); len(got) != 2 || !got[0].equal(must(one.canonical())) || !got[1].equal(must(two.canonical())) {
			t.Errorf("interfaces %v, want %v, %v", got, one, two)
		}
		mustSync(t, l, someServices())
		mustBeClean(t, l)
		if err := eachOf(l.maps.get(sockMapServices), func(k serviceKey, v service) error {
			if services[k] != v {
				t.Errorf("%s: %v became %v", describeKey(k), services[k], v)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := linkIDs(t, l); !maps.Equal(got, links) {
			t.Errorf("links %v became %v", links, got)
		}
		for name, id := range programIDs(t, l) {
			if id == programs[name] {
				t.Errorf("%s was not replaced", name)
			}
		}
	})
}

func must(i Interface, err error) Interface {
	if err != nil {
		panic(err)
	}
	return i
}

// TestDetach: nothing stays behind.
func TestDetach(t *testing.T) {
	modes(t, func(t *testing.T, n *node, o Options) {
		l := n.open(o)
		i := n.veth(1)
		if err := l.Attach(i); err != nil {
			t.Fatal(err)
		}
		mustSync(t, l, someServices())
		if err := l.Detach(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(n.bpffs); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("bpffs directory is still there: %v", err)
		}
		mustHaveNoFilters(t, i)
		if err := Detach(n.bpffs); err != nil {
			t.Errorf("detach twice: %v", err)
		}
		if err := l.Sync(someServices()); !errors.Is(err, errClosed) {
			t.Errorf("sync after detach: %v", err)
		}
	})
}

func mustHaveNoFilters(t *testing.T, i Interface) {
	t.Helper()
	qdiscs, err := netlink.QdiscList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: i.Index}})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qdiscs {
		if q.Attrs().LinkIndex == i.Index && q.Type() == "clsact" {
			t.Errorf("interface %s still has a clsact qdisc", i.Name)
		}
	}
}

// TestAttachDetachInterface goes through the life of an interface.
func TestAttachDetachInterface(t *testing.T) {
	modes(t, func(t *testing.T, n *node, o Options) {
		l := n.open(o)
		mustSync(t, l, someServices())
		i := n.veth(1)
		for range 2 {
			if err := l.Attach(i); err != nil {
				t.Fatal(err)
			}
			mustBeClean(t, l)
		}
		id := l.endpoints.byName[i.Name].id
		epoch := l.epochs.load32(id, 0)

		moved := i
		moved.Addrs = []netip.Addr{netip.MustParseAddr("10.244.1.99"), i.Addrs[1]}
		if err := l.VerifyInterface(moved); err == nil {
			t.Error("verified with another address")
		}
		if err := l.Attach(moved); err != nil {
			t.Fatal(err)
		}
		mustBeClean(t, l)
		if err := l.VerifyInterface(moved); err != nil {
			t.Error(err)
		}
		if got := l.epochs.load32(id, 0); got == epoch {
			t.Error("another address did not raise the epoch")
		}
		epoch = l.epochs.load32(id, 0)

		other := n.veth(2)
		other.Addrs = moved.Addrs
		if err := l.Attach(other); err == nil || !strings.Contains(err.Error(), i.Name) {
			t.Errorf("attached an address twice: %v", err)
		}
		mustBeClean(t, l)
		mustHaveNoFilters(t, other)

		for range 2 {
			if err := l.DetachInterface(i.Name); err != nil {
				t.Fatal(err)
			}
			mustBeClean(t, l)
		}
		if got := l.epochs.load32(id, 0); got == epoch {
			t.Error("detaching did not raise the epoch")
		}
		mustHaveNoFilters(t, i)
		if err := l.VerifyInterface(moved); err == nil {
			t.Error("verified what is detached")
		}
		if got := l.Interfaces(); len(got) != 0 {
			t.Errorf("interfaces %v, want none", got)
		}
		if got := len(linkIDs(t, l)); got != len(sockOrder()) {
			t.Errorf("%d links are pinned, want the sockets' alone", got)
		}
	})
}

// TestInterfaceGone: the device goes before anyone says so, with the agent there and away.
func TestInterfaceGone(t *testing.T) {
	modes(t, func(t *testing.T, n *node, o Options) {
		l := n.open(o)
		mustSync(t, l, someServices())
		one, two := n.veth(1), n.veth(2)
		for _, i := range []Interface{one, two} {
			if err := l.Attach(i); err != nil {
				t.Fatal(err)
			}
		}
		n.remove(one)
		if diffs, err := l.Check(); err != nil || len(diffs) != 1 || diffs[0].Object != "interface "+one.Name {
			t.Errorf("check finds %v, %v", diffs, err)
		}
		if err := l.VerifyInterface(one); err == nil {
			t.Error("verified an interface that is gone")
		}
		if err := l.DetachInterface(one.Name); err != nil {
			t.Fatal(err)
		}
		mustBeClean(t, l)
		l.Close()
		n.remove(two)
		l = n.open(o)
		mustSync(t, l, someServices())
		mustBeClean(t, l)
		if got := l.Interfaces(); len(got) != 0 {
			t.Errorf("interfaces %v, want none", got)
		}
		if err := l.DetachInterface(two.Name); err != nil {
			t.Error(err)
		}
	})
}

// TestAttachModeChanges: a restart with another mode leaves nothing of the first.
func TestAttachModeChanges(t *testing.T) {
	n := newNode(t)
	i := n.veth(1)
	for round, mode := range []AttachMode{AttachClsact, AttachTCX, AttachClsact, AttachAuto} {
		o := n.options()
		o.Attach = mode
		l := n.open(o)
		if round == 0 {
			if err := l.Attach(i); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.VerifyInterface(i); err != nil {
			t.Error(err)
		}
		mustSync(t, l, someServices())
		mustBeClean(t, l)
		if mode == AttachTCX {
			mustHaveNoFilters(t, i)
		} else if got := len(linkIDs(t, l)); got != len(sockOrder()) {
			t.Errorf("%d links are pinned, want the sockets' alone", got)
		}
		l.Close()
	}
}

// TestStrays: what an interrupted Attach left is removed at the next start.
func TestStrays(t *testing.T) {
	modes(t, func(t *testing.T, n *node, o Options) {
		l := n.open(o)
		mustSync(t, l, someServices())
		i := n.veth(1)
		if err := l.hooks.attach(i.Name, i.Index, l.programs); err != nil {
			t.Fatal(err)
		}
		// And one that died between pinning a link and giving the pin its name.
		again, err := link.AttachCgroup(link.CgroupOptions{
			Path: n.cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: l.programs.sock["sock_connect4"],
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Pin(filepath.Join(l.linksDir(), "sock_connect4"+tmpSuffix)); err != nil {
			t.Fatal(err)
		}
		again.Close()
		flows, err := l.maps.get("flows").Clone()
		if err != nil {
			t.Fatal(err)
		}
		defer flows.Close()
		if err := flows.Pin(l.maps.path("flows" + tmpSuffix)); err != nil {
			t.Fatal(err)
		}
		diffs, err := l.Check()
		if err != nil || len(diffs) != 3 || diffs[0].Object != "interface "+i.Name {
			t.Errorf("check finds %v, %v", diffs, err)
		}
		l.Close()
		l = n.open(o)
		mustSync(t, l, someServices())
		mustBeClean(t, l)
		mustHaveNoFilters(t, i)
	})
}

// TestSocketTranslationOff: no socket program is attached, and those that were are not any more.
func TestSocketTranslationOff(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options())
	l.Close()
	o := n.options()
	o.SocketTranslation = false
	l = n.open(o)
	mustSync(t, l, someServices())
	mustBeClean(t, l)
	if got := linkIDs(t, l); len(got) != 0 {
		t.Errorf("links %v, want none", got)
	}
}

// TestCgroupChanges: another cgroup in the config, and one that was removed and made again.
func TestCgroupChanges(t *testing.T) {
	n := newNode(t)
	l := n.open(n.options())
	first := linkIDs(t, l)
	l.Close()
	if err := os.Remove(n.cgroup); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(n.cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	l = n.open(n.options())
	second := linkIDs(t, l)
	mustSync(t, l, someServices())
	mustBeClean(t, l)
	l.Close()
	o := n.options()
	o.Cgroup = newCgroup(t)
	l = n.open(o)
	mustSync(t, l, someServices())
	mustBeClean(t, l)
	third := linkIDs(t, l)
	for name := range first {
		if first[name] == second[name] || second[name] == third[name] {
			t.Errorf("%s: links %d, %d, %d, want three", name, first[name], second[name], third[name])
		}
	}
}

// TestKilledAtEachStep lets Open end at each of its steps in turn, for a first start and for a
// restart; the next Open gets there.
func TestKilledAtEachStep(t *testing.T) {
	modes(t, func(t *testing.T, n *node, o Options) {
		i := n.veth(1)
		for _, state := range []string{"first start", "restart"} {
			for at := 1; ; at++ {
				killed := o
				steps := 0
				killed.step = func(string) error {
					if steps++; steps == at {
						return errInjected
					}
					return nil
				}
				l, err := Open(killed)
				if err == nil {
					l.Close()
					break
				}
				if !errors.Is(err, errInjected) {
					t.Fatal(err)
				}
				l = n.open(o)
				if state == "restart" {
					if err := l.VerifyInterface(i); err != nil {
						t.Fatalf("%s, step %d: %v", state, at, err)
					}
				}
				mustSync(t, l, someServices())
				mustBeClean(t, l)
				l.Close()
				if state == "first start" {
					if err := Detach(n.bpffs); err != nil {
						t.Fatal(err)
					}
				}
			}
			if state == "first start" {
				l := n.open(o)
				if err := l.Attach(i); err != nil {
					t.Fatal(err)
				}
				l.Close()
			}
		}
	})
}

func (n *node) remove(i Interface) {
	n.t.Helper()
	link, err := netlink.LinkByIndex(i.Index)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		n.t.Fatal(err)
	}
}

// TestOpenLeaksNothing counts file descriptors.
func TestOpenLeaksNothing(t *testing.T) {
	n := newNode(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	n.open(n.options()).Close() // what is opened once
	before := count()
	for range 3 {
		n.open(n.options()).Close()
	}
	bad := n.options()
	bad.Cgroup = filepath.Join(n.cgroup, "none")
	if _, err := Open(bad); err == nil {
		t.Error("opened with a cgroup that is not there")
	}
	if after := count(); after > before {
		t.Errorf("%d file descriptors became %d", before, after)
	}
}

func TestOpenRefuses(t *testing.T) {
	n := newNode(t)
	for name, spoil := range map[string]func(*Options){
		"relative bpffs":   func(o *Options) { o.BPFFS = "sluice" },
		"not a bpffs":      func(o *Options) { o.BPFFS = t.TempDir() },
		"no cgroup":        func(o *Options) { o.Cgroup = "" },
		"not a cgroup":     func(o *Options) { o.Cgroup = t.TempDir() },
		"unknown mode":     func(o *Options) { o.Attach = "xdp" },
		"size beyond 2^26": func(o *Options) { o.Sizes.Flows = 1<<26 + 1 },
		"size of one":      func(o *Options) { o.Sizes.Slots = 1 },
	} {
		o := n.options()
		spoil(&o)
		if l, err := Open(o); err == nil {
			l.Close()
			t.Errorf("%s: opened", name)
		}
	}
}

func TestAttachRefuses(t *testing.T) {
	n := newNode(t)
	o := n.options()
	o.Sizes.Endpoints = 2
	l := n.open(o)
	mustSync(t, l, someServices())
	good := n.veth(1)
	for name, spoil := range map[string]func(*Interface){
		"no name":       func(i *Interface) { i.Name = "" },
		"long name":     func(i *Interface) { i.Name = strings.Repeat("x", 16) },
		"no index":      func(i *Interface) { i.Index = 0 },
		"unknown index": func(i *Interface) { i.Index = 1 << 20 },
		"no MAC":        func(i *Interface) { i.MAC = nil },
		"no address":    func(i *Interface) { i.Addrs = nil },
		"unspecified":   func(i *Interface) { i.Addrs = []netip.Addr{netip.IPv4Unspecified()} },
		"zero address":  func(i *Interface) { i.Addrs = []netip.Addr{{}} },
		"more than map holds": func(i *Interface) {
			i.Addrs = append(i.Addrs, netip.MustParseAddr("10.244.1.77"))
		},
	} {
		i := good
		spoil(&i)
		if err := l.Attach(i); err == nil {
			t.Errorf("%s: attached", name)
		}
		mustBeClean(t, l)
	}
	if err := l.Attach(good); err != nil {
		t.Fatal(err)
	}
	if err := l.Attach(n.veth(2)); !errors.Is(err, ErrFull) {
		t.Errorf("attach to a full map: %v", err)
	}
	mustBeClean(t, l)
	more := good
	more.Addrs = append(more.Addrs, netip.MustParseAddr("10.244.1.77"))
	if err := l.Attach(more); !errors.Is(err, ErrFull) {
		t.Errorf("attach to a full map: %v", err)
	}
	mustBeClean(t, l)
	if err := l.VerifyInterface(good); err != nil {
		t.Error(err)
	}
}

// TestRealMapFull fills the kernel's map and makes room again.
func TestRealMapFull(t *testing.T) {
	n := newNode(t)
	o := n.options()
	o.Sizes.Services = 8
	l := n.open(o)
	u := registry.Update{Revision: 1, Snapshot: true}
	for i := range 10 {
		u.Set = append(u.Set, resolved("10.96.0.1", uint16(80+i), 2))
	}
	if err := l.Sync(u); !errors.Is(err, ErrFull) {
		t.Fatalf("ten services in a map of eight: %v", err)
	}
	if err := l.Wait(context.Background(), 1); !errors.Is(err, ErrIncomplete) || !errors.Is(err, ErrFull) {
		t.Errorf("wait: %v", err)
	}
	diffs, err := l.Check()
	if err != nil || len(diffs) != 3 {
		t.Errorf("check finds %v, %v, want three services missing", diffs, err)
	}
	for i := range 5 {
		err = l.Sync(registry.Update{Revision: int64(2 + i), Delete: []registry.Frontend{u.Set[i].Frontend}})
	}
	if err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, l)
	if err := l.Complete(); err != nil {
		t.Error(err)
	}
}

// TestVerifiedInstructions keeps the verifier's work within what every kernel grants, with room to
// spare: the limit is a million.
func TestVerifiedInstructions(t *testing.T) {
	n := newNode(t)
	o := n.options()
	o.edit = nil
	l := n.open(o)
	const budget = 300_000
	for name, p := range l.programs.all() {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		insns, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("the kernel does not tell")
		}
		t.Logf("%-18s %6d", name, insns)
		if insns > budget {
			t.Errorf("%s: the verifier looked at %d instructions, more than %d", name, insns, budget)
		}
	}
}

// TestCheckFinds spoils the kernel's state behind the loader's back.
func TestCheckFinds(t *testing.T) {
	modes(t, func(t *testing.T, n *node, o Options) {
		l := n.open(o)
		i := n.veth(1)
		if err := l.Attach(i); err != nil {
			t.Fatal(err)
		}
		mustSync(t, l, someServices())
		web := toKey(someServices().Set[0].Frontend)
		services, endpoints := l.maps.get(sockMapServices), l.maps.get(sockMapEndpoints)
		var v service
		if err := services.Lookup(&web, &v); err != nil {
			t.Fatal(err)
		}
		addr := toAddress(i.Addrs[0])
		var e endpoint
		if err := endpoints.Lookup(&addr, &e); err != nil {
			t.Fatal(err)
		}
		stray, mark := web, markerKey(netip.MustParseAddr("10.96.0.1"))
		stray.Port = 81
		strange := toAddress(netip.MustParseAddr("10.244.1.200"))
		slot := l.slots.load32(v.First, 0)
		for _, test := range []struct {
			want        string
			spoil, undo func() error
		}{
			{"10.96.0.1:80/TCP: port of service default/web is not in map services",
				func() error { return services.Delete(&web) }, func() error { return services.Put(&web, &v) }},
			{"10.96.0.1:81/TCP: is in map services, but not in the registry",
				func() error { return services.Put(&stray, &v) }, func() error { return services.Delete(&stray) }},
			{"VIP 10.96.0.1: is not marked",
				func() error { return services.Delete(&mark) }, func() error { return services.Put(&mark, &service{}) }},
			{"backend 10.244.1.1:8080 is missing",
				func() error { l.slots.store32(v.First, 0, l.slots.load32(v.First+1, 0)); return nil },
				func() error { l.slots.store32(v.First, 0, slot); return nil }},
			{"which is no backend",
				func() error { l.slots.store32(v.First, 0, 1<<30); return nil },
				func() error { l.slots.store32(v.First, 0, slot); return nil }},
			{"backend 100 (10.9.9.9:1): is active, but no service leads to it",
				func() error {
					l.backends.fillBackend(100, backend{Addr: toAddress(netip.MustParseAddr("10.9.9.9")), Port: 1})
					return nil
				},
				func() error { l.backends.freeBackend(100); return nil }},
			{"endpoint 10.244.1.1: address of interface slhost1 is not in map endpoints",
				func() error { return endpoints.Delete(&addr) }, func() error { return endpoints.Put(&addr, &e) }},
			{"endpoint 10.244.1.200: is in map endpoints, but no interface has it",
				func() error { return endpoints.Put(&strange, &e) }, func() error { return endpoints.Delete(&strange) }},
			{"interface slhost1: ",
				func() error { return l.hooks.detach(i.Name, i.Index) },
				func() error { return l.hooks.attach(i.Name, i.Index, l.programs) }},
			{"program sock_connect4: is not attached",
				func() error { return removeLink(filepath.Join(l.linksDir(), "sock_connect4")) },
				func() error { return attachCgroup(l.linksDir(), n.cgroup, l.programs.sock, l.o.step) }},
			{"pin flows_new: was left behind",
				func() error { return l.maps.get("flows").Pin(l.maps.path("flows_new")) },
				func() error { return os.Remove(l.maps.path("flows_new")) }},
			{"map slots: 5 entries are taken, but 6 are in use",
				func() error { l.syncer.runs.used--; return nil }, func() error { l.syncer.runs.used++; return nil }},
		} {
			if err := test.spoil(); err != nil {
				t.Fatal(err)
			}
			diffs, err := l.Check()
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, d := range diffs {
				found = found || strings.Contains(d.String(), test.want)
			}
			if !found {
				t.Errorf("check finds %q, want %q", fmt.Sprint(diffs), test.want)
			}
			if err := test.undo(); err != nil {
				t.Fatal(err)
			}
			mustBeClean(t, l)
		}
	})
}
