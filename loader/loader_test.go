package loader

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/sluice-net/sluice/registry"
	"github.com/vishvananda/netlink"
)

// modes runs a test once for each way to attach.
func modes(t *testing.T, f func(t *testing.T, n *node, o Options)) {
	for _, mode := range []AttachMode{AttachClsact, AttachTCX} {
		t.Run(string(mode), func(t *testing.T) {
			n := newNode(t)
			if mode == AttachTCX {
				needTCX(t)
			}
			o := n.options()
			o.Attach = mode
			f(t, n, o)
		})
	}
}

// needTCX skips the test where the kernel has no tcx.
func needTCX(t testing.TB) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	if !haveTCX(prog) {
		t.Skip("the kernel has no tcx")
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
