package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	utiliptables "k8s.io/kubernetes/pkg/util/iptables"
	"sigs.k8s.io/knftables"
)

// rules is iptables, watched: whether what was written last was taken.
type rules struct {
	utiliptables.Interface
	err error
}

// RestoreAll is all that a proxier writes its services' rules with.
func (r *rules) RestoreAll(data []byte, flush utiliptables.FlushFlag, counters utiliptables.RestoreCountersFlag) error {
	r.err = r.Interface.RestoreAll(data, flush, counters)
	return r.err
}

// installed is what the kernel has of a family's services.
type installed struct {
	vips  map[netip.Addr]bool // that lead somewhere
	count int                 // rules that do, of iptables
	// before says for each VIP and TCP port how many of these rules come before its own.
	before map[netip.AddrPort]int
}

// installed asks the kernel, by way of iptables-save or nft.
func (f *family) installed(ctx context.Context) (installed, error) {
	if f.rules != nil {
		var saved bytes.Buffer
		if err := f.rules.SaveInto(utiliptables.TableNAT, &saved); err != nil {
			return installed{}, fmt.Errorf("read rules: %w: %s", err, saved.Bytes())
		}
		return parseRules(saved.String()), nil
	}
	in := installed{vips: map[netip.Addr]bool{}}
	nft, err := knftables.New(map[v1.IPFamily]knftables.Family{
		v1.IPv4Protocol: knftables.IPv4Family, v1.IPv6Protocol: knftables.IPv6Family,
	}[f.name], "kube-proxy")
	if err != nil {
		return in, err
	}
	elements, err := nft.ListElements(ctx, "map", "service-ips") // as pkg/proxy/nftables calls it
	if err != nil {
		return in, fmt.Errorf("read map of services: %w", err)
	}
	for _, e := range elements {
		addr, err := netip.ParseAddr(e.Key[0])
		if err != nil {
			return in, fmt.Errorf("read map of services: %w", err)
		}
		in.vips[addr] = true
	}
	return in, nil
}

// parseRules reads what iptables-save says of the table nat.
func parseRules(saved string) installed {
	in := installed{vips: map[netip.Addr]bool{}, before: map[netip.AddrPort]int{}}
	for line := range strings.Lines(saved) {
		if !strings.HasPrefix(line, "-A KUBE-SERVICES ") || !strings.Contains(line, " -j KUBE-SVC-") {
			continue
		}
		if to, ok := destination(line); ok {
			in.vips[to.Addr()] = true
			in.before[to] = in.count
		}
		in.count++
	}
	return in
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
	addr, err := netip.ParsePrefix(value("-d"))
	if err != nil || !addr.IsSingleIP() || value("-p") != "tcp" {
		return netip.AddrPort{}, false
	}
	port, err := strconv.ParseUint(value("--dport"), 10, 16)
	return netip.AddrPortFrom(addr.Addr(), uint16(port)), err == nil
}

// middle chooses the VIP of which the rule that is farthest from the middle is closest to it, and tells how many
// rules come before those of its ports.
func (in installed) middle(vips []netip.Addr, ports []uint16) (vip netip.Addr, before []int) {
	least := math.Inf(1)
	for _, v := range vips {
		var its []int
		farthest := 0.0
		for _, port := range ports {
			place := in.before[netip.AddrPortFrom(v, port)]
			its = append(its, place)
			farthest = max(farthest, math.Abs(float64(place)-float64(in.count)/2))
		}
		if farthest < least {
			least, vip, before = farthest, v, its
		}
	}
	return vip, before
}
