package loader

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
)

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
					l.backends.fillBackend(100, backend{Addr: toAddress(netip.MustParseAddr("10.9.9.9")), Port: 1, State: backendActive})
					return nil
				},
				func() error { l.backends.freeBackend(100); return nil }},
			{"has algorithm maglev instead of random",
				func() error { v := v; v.Algorithm = algorithmMaglev; return services.Put(&web, &v) },
				func() error { return services.Put(&web, &v) }},
			{"has an affinity of 9 s instead of 0 s",
				func() error { v := v; v.AffinityTimeout = 9; return services.Put(&web, &v) },
				func() error { return services.Put(&web, &v) }},
			{"2 of its 3 slots lead elsewhere",
				func() error { swapSlots(l, v.First); return nil }, func() error { swapSlots(l, v.First); return nil }},
			{"has 2 slots instead of 1",
				func() error { l.slots.store32(v.First, 0, l.slots.load32(v.First+1, 0)); return nil },
				func() error { l.slots.store32(v.First, 0, slot); return nil }},
			{"which is draining",
				func() error { l.backends.turnBackend(slot, backendDraining); return nil },
				func() error { l.backends.turnBackend(slot, backendActive); return nil }},
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

// swapSlots exchanges what two slots lead to.
func swapSlots(l *Loader, first uint32) {
	a, b := l.slots.load32(first, 0), l.slots.load32(first+1, 0)
	l.slots.store32(first, 0, b)
	l.slots.store32(first+1, 0, a)
}

// TestCheckFindsOfServices looks at what the others cannot: tables, weights, draining, shared addresses.
func TestCheckFindsOfServices(t *testing.T) {
	n := newNode(t)
	o := n.options()
	o.Sizes.Slots, o.MaglevTableSize = 2048, 251
	l := n.open(o)
	u := someServices()
	r := &u.Set[0]
	r.Backends[0].Draining, r.Backends[1].Weight, r.Backends[2].Weight = true, 3, 2
	m := resolved("10.96.0.1", 81, 3)
	m.Algorithm, m.AffinityTimeout, m.Shared = registry.AlgorithmMaglev, 60, true
	s := resolved("192.0.2.1", 80, 1)
	s.Shared = true
	u.Set = append(u.Set, m, s)
	mustSync(t, l, u)
	mustBeClean(t, l)
	drains := l.syncer.held[r.Frontend].members[0].id
	web, maglev := l.syncer.held[r.Frontend].run, l.syncer.held[m.Frontend].run
	vip, services := markerKey(s.Addr), l.maps.get(sockMapServices)
	mark := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	other := uint32(0)
	for other = 1; l.slots.load32(maglev.first+other, 0) == l.slots.load32(maglev.first, 0); other++ {
	}
	swap := func() {
		a, b := l.slots.load32(maglev.first, 0), l.slots.load32(maglev.first+other, 0)
		l.slots.store32(maglev.first, 0, b)
		l.slots.store32(maglev.first+other, 0, a)
	}
	first := l.slots.load32(web.first, 0)
	for _, test := range []struct {
		want        string
		spoil, undo func()
	}{
		{"10.96.0.1:81/TCP: 2 of its 251 slots lead elsewhere", swap, swap},
		{"backend 10.244.1.2:8080 has 2 slots instead of 3",
			func() { l.slots.store32(web.first, 0, l.slots.load32(web.first+4, 0)) },
			func() { l.slots.store32(web.first, 0, first) }},
		{"should be 10.244.1.1:8080, draining",
			func() { l.backends.turnBackend(drains, backendActive) },
			func() { l.backends.turnBackend(drains, backendDraining) }},
		{"VIP 192.0.2.1: is marked in map services, but no service has it for itself",
			func() { mark(services.Put(&vip, &service{})) }, func() { mark(services.Delete(&vip)) }},
		{"backend 101 (0.0.0.0:0): is draining, but no service leads to it",
			func() {
				l.backends.fillBackend(101, backend{Addr: toAddress(netip.IPv4Unspecified()), State: backendDraining})
			},
			func() { l.backends.freeBackend(101) }},
	} {
		test.spoil()
		diffs, err := l.Check()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(fmt.Sprint(diffs), test.want) {
			t.Errorf("check finds %q, want %q", fmt.Sprint(diffs), test.want)
		}
		test.undo()
		mustBeClean(t, l)
	}
}

// TestCheckBesideSync: services come and go while others are checked, some of them broken. Nothing is told but
// what is wrong, and what is wrong is told.
func TestCheckBesideSync(t *testing.T) {
	n := newNode(t)
	o := n.options()
	o.Sizes = Sizes{Services: 4096, Slots: 65536, Backends: 32768}
	o.grace = time.Millisecond
	l := n.open(o)
	var u registry.Update
	for i := range 1000 {
		u.Set = append(u.Set, resolved(fmt.Sprintf("10.96.%d.%d", i/100, i%100), 80, 4))
	}
	u.Snapshot = true
	mustSync(t, l, u)
	broken := toKey(u.Set[500].Frontend)
	if err := l.maps.get(sockMapServices).Delete(&broken); err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan bool), make(chan error, 1)
	syncs := 0
	go func() {
		var err error
		for i := 0; err == nil; i++ {
			select {
			case <-done:
				ended <- nil
				return
			default:
			}
			r := resolved(fmt.Sprintf("10.97.%d.%d", i%7, i%100), 80, 1+i%5)
			more := registry.Update{Set: []registry.Resolved{r}}
			if i%3 == 0 {
				more = registry.Update{Delete: []registry.Frontend{r.Frontend}}
			}
			err = l.Sync(more)
			syncs++
		}
		ended <- err
	}()
	for range 20 {
		diffs, err := l.Check()
		if err != nil {
			t.Fatal(err)
		}
		if len(diffs) != 1 || !strings.Contains(diffs[0].String(), "10.96.5.0:80/TCP: port of service") {
			t.Fatalf("%d differences: %v", len(diffs), diffs[:min(len(diffs), 5)])
		}
	}
	close(done)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if syncs < 20*10 { // a check takes the lock some thirty times for services alone
		t.Errorf("%d syncs found room beside 20 checks", syncs)
	}
}
