package main

import (
	"net/netip"
	"slices"
	"testing"
)

// saved is what iptables-save says of kube-proxy v1.37's rules, shortened.
const saved = `*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.97.0.2/32 -p tcp -m comment --comment "bench/other-1:tcp-80 cluster IP" -m tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SERVICES -d 10.96.0.11/32 -p udp -m comment --comment "bench/b:udp-7000 cluster IP" -m udp --dport 7000 -j KUBE-SVC-B
-A KUBE-SVC-B ! -s 10.9.0.0/16 -d 10.96.0.11/32 -p udp -m udp --dport 7000 -j KUBE-MARK-MASQ
-A KUBE-SERVICES -d 10.96.0.11/32 -p tcp -m comment --comment "bench/b:tcp-7000 cluster IP" -m tcp --dport 7000 -j KUBE-SVC-C
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "bench/a:tcp-7000 cluster IP" -m tcp --dport 7000 -j KUBE-SVC-D
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
`

func TestParseRules(t *testing.T) {
	in := parseRules(saved)
	a, b := netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("10.96.0.11")
	if len(in.before) != 3 || in.before[netip.AddrPortFrom(b, 7000)] != 2 || in.before[netip.AddrPortFrom(a, 7000)] != 3 {
		t.Errorf("places: %v", in.before)
	}
	if in.count != 4 || len(in.vips) != 3 || !in.vips[a] || !in.vips[b] {
		t.Errorf("%d rules for %v", in.count, in.vips)
	}
	vip, before := in.middle([]netip.Addr{a, b}, []uint16{7000})
	if vip != b || !slices.Equal(before, []int{2}) {
		t.Errorf("in the middle: %s, %v", vip, before)
	}
}

func TestMeasured(t *testing.T) {
	for n, want := range map[int]int{1: 1, 2: 1, 49: 1, 100: 2, 1000: 20, 10_000: 50, 100_000: 50} {
		if got := measuredOf(n); got != want {
			t.Errorf("%d services: %d are measured, not %d", n, got, want)
		}
	}
}

func TestPlus(t *testing.T) {
	for from, want := range map[string]string{"10.97.0.0": "10.97.39.16", "fd00:10:96::1:0": "fd00:10:96::1:2710"} {
		if got := plus(netip.MustParseAddr(from), 10_000); got.String() != want {
			t.Errorf("10 000 behind %s: %s", from, got)
		}
	}
}
