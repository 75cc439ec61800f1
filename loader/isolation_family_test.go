package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
)

// lookupPrefix returns the identity of an address that no container here has, as programs find it.
func lookupPrefix(t *testing.T, l *Loader, a string) uint32 {
	t.Helper()
	key := toPrefixKey(hostPrefix(netip.MustParseAddr(a)))
	var v prefixEntry
	switch err := l.maps.get(sockMapPrefixes).Lookup(&key, &v); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return identityWorld
	case err != nil:
		t.Fatal(err)
	}
	return v.Identity
}

// TestIsolationFamilies: both families share a trie, where IPv4 lies within IPv6. A block of one never
// says anything of an address of the other.
func TestIsolationFamilies(t *testing.T) {
	for _, test := range []struct {
		cidr, except  string
		in, out, hole []string
	}{
		{"::/0", "", []string{"::1:2:3", "2001:db8::1"}, []string{"192.0.2.1", "0.0.0.1", "255.255.255.255"}, nil},
		{"::/0", "::/1", []string{"fd00::1"}, []string{"192.0.2.1"}, []string{"::1:2:3", "2001:db8::1"}},
		{"::/1", "", []string{"::1:2:3", "2001:db8::1"}, []string{"192.0.2.1", "fd00::1"}, nil},
		{"::/64", "::/80", []string{"::1:0:0:1"}, []string{"192.0.2.1", "2001:db8::1"}, []string{"::1:2:3"}},
		{"0.0.0.0/0", "192.0.2.0/24", []string{"198.51.100.1"}, []string{"::1:2:3", "::fffe:192.0.2.1"}, []string{"192.0.2.1"}},
	} {
		t.Run(test.cidr+" "+test.except, func(t *testing.T) {
			n := newNode(t)
			l := n.open(n.options().isolated())
			db := n.container(1, map[string]string{"app": "db"})
			if err := l.Attach(db); err != nil {
				t.Fatal(err)
			}
			p := onlyFrom("db", "db", "web")
			block := registry.IPBlock{CIDR: netip.MustParsePrefix(test.cidr)}
			if test.except != "" {
				block.Except = []netip.Prefix{netip.MustParsePrefix(test.except)}
			}
			p.Ingress[0].Peers = []registry.Peer{{Block: &block}}
			subject := func() uint32 { return l.isolation.tagOf(db.Addrs[0]).identity }
			allows := func(a string) bool {
				key := policyKey{Subject: subject(), Peer: lookupPrefix(t, l, a), Direction: directionIngress}
				var e policyEntry
				err := l.maps.get(sockMapPolicy).Lookup(&key, &e)
				if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
					t.Fatal(err)
				}
				return err == nil
			}
			look := func(when string, addrs []string, want bool) {
				for _, a := range addrs {
					if got := allows(a); got != want {
						t.Errorf("%s: an entry for %s: %t, want %t", when, a, got, want)
					}
				}
			}
			for i, isolated := range []bool{true, false, true} {
				mustSync(t, l, policyUpdate(int64(i+1), i == 0, registered(db), registry.Change{Policy: p, Deleted: !isolated}))
				mustBeClean(t, l)
				when := fmt.Sprint("update ", i)
				look(when, test.in, isolated)
				look(when, test.out, false)
				look(when, test.hole, false)
				for _, a := range test.out {
					if got := lookupPrefix(t, l, a); got != identityWorld {
						t.Errorf("%s: %s has identity %d, want the world's", when, a, got)
					}
				}
			}
		})
	}
}
