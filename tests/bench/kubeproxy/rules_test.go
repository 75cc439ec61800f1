package main

import (
	"net/netip"
	"slices"
	"testing"
)

// restored is what kube-proxy v1.37 writes, shortened.
const restored = `*filter
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -m comment --comment "bench/gone has no endpoints" -m tcp -p tcp -d 10.96.0.9 --dport 80 -j REJECT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -m comment --comment "bench/other-1 cluster IP" -m tcp -p tcp -d 10.97.0.2 --dport 80 -j KUBE-SVC-A
-A KUBE-SERVICES -m comment --comment "bench/a:UDP cluster IP" -m udp -p udp -d 10.96.0.11 --dport 7000 -j KUBE-SVC-B
-A KUBE-SVC-B -m tcp -p tcp -d 10.96.0.11 --dport 7000 ! -s 10.9.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m tcp -p tcp -d 10.96.0.11 --dport 7000 -j KUBE-SVC-C
-A KUBE-SERVICES -m comment --comment "bench/b cluster IP" -m tcp -p tcp -d 10.96.0.10 --dport 7000 -j KUBE-SVC-D
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
`

func TestPlaces(t *testing.T) {
	places := placesOf(restored)
	a, b := netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("10.96.0.11")
	if len(places) != 3 || places[netip.AddrPortFrom(b, 7000)] != 0.5 || places[netip.AddrPortFrom(a, 7000)] != 0.75 {
		t.Errorf("places: %v", places)
	}
	vip, before := middle(places, []netip.Addr{a, b}, []uint16{7000})
	if vip != b || !slices.Equal(before, []float64{0.5}) {
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
