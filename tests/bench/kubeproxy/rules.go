package main

import (
	"math"
	"net/netip"
	"strconv"
	"strings"

	utiliptables "k8s.io/kubernetes/pkg/util/iptables"
)

// rules is iptables, watched: what was written last, and whether it was taken.
type rules struct {
	utiliptables.Interface
	places map[netip.AddrPort]float64
	err    error // of the last write
}

// RestoreAll is all that a proxier writes its services' rules with.
func (r *rules) RestoreAll(data []byte, flush utiliptables.FlushFlag, counters utiliptables.RestoreCountersFlag) error {
	r.places = placesOf(string(data))
	r.err = r.Interface.RestoreAll(data, flush, counters)
	return r.err
}

// placesOf reads the input of iptables-restore: for each VIP and TCP port, the share of all services' rules that
// comes before its own.
func placesOf(data string) map[netip.AddrPort]float64 {
	places := map[netip.AddrPort]float64{}
	count := 0
	for line := range strings.Lines(data) {
		if !strings.HasPrefix(line, "-A KUBE-SERVICES ") || !strings.Contains(line, " -j KUBE-SVC-") {
			continue
		}
		if to, ok := destination(line); ok {
			places[to] = float64(count)
		}
		count++
	}
	for to := range places {
		places[to] /= float64(count)
	}
	return places
}

// destination is what a rule for TCP matches.
func destination(rule string) (netip.AddrPort, bool) {
	fields := strings.Fields(rule)
	value := func(flag string) string {
		for i := range len(fields) - 1 {
			if fields[i] == flag {
				return fields[i+1]
			}
		}
		return ""
	}
	addr, err := netip.ParseAddr(value("-d"))
	if err != nil || value("-p") != "tcp" {
		return netip.AddrPort{}, false
	}
	port, err := strconv.ParseUint(value("--dport"), 10, 16)
	return netip.AddrPortFrom(addr, uint16(port)), err == nil
}

// middle chooses the VIP of which the rule that is farthest from the middle is closest to it.
func middle(places map[netip.AddrPort]float64, vips []netip.Addr, ports []uint16) (vip netip.Addr, before []float64) {
	least := math.Inf(1)
	for _, v := range vips {
		var its []float64
		farthest := 0.0
		for _, port := range ports {
			place := places[netip.AddrPortFrom(v, port)]
			its = append(its, place)
			farthest = max(farthest, math.Abs(place-0.5))
		}
		if farthest < least {
			least, vip, before = farthest, v, its
		}
	}
	return vip, before
}
