package loader

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
