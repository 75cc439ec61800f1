package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilsysctl "k8s.io/component-helpers/node/util/sysctl"
	kubeproxy "k8s.io/kubernetes/pkg/proxy"
	config "k8s.io/kubernetes/pkg/proxy/apis/config"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"
	"k8s.io/kubernetes/pkg/proxy/iptables"
	"k8s.io/kubernetes/pkg/proxy/nftables"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"
	utiliptables "k8s.io/kubernetes/pkg/util/iptables"
	"k8s.io/utils/ptr"
)

// nodeName is this node's; no backend is said to be on it.
const nodeName = "bench"

// nodeIPs are this node's addresses. NodePorts, of which there are none, would be open at them.
var nodeIPs = map[v1.IPFamily]netip.Addr{
	v1.IPv4Protocol: netip.MustParseAddr("192.0.2.1"),
	v1.IPv6Protocol: netip.MustParseAddr("2001:db8::1"),
}

// proxy is kube-proxy's proxiers, one a family.
type proxy struct {
	families []*family
	health   *healthcheck.ProxyHealthServer
}

// family is one of them, and what it has been told.
type family struct {
	name     v1.IPFamily
	proxier  kubeproxy.Provider
	rules    *rules // nil: not iptables
	step     int    // so many services at a time; 0: all at once
	measured measured
	ports    []port
	fresh    []uint16
	synced   bool
	// So many there are.
	ours, others int
}

// nftStep is how many services nftables is given at a time: a transaction takes the kernel more than in proportion to
// what is in it. In iptables each write replaces all rules, so the fewer there are the better.
const nftStep = 500

func newProxy(ctx context.Context, o options) (*proxy, error) {
	c := configure(o.mode)
	// It is not run, so it does not listen; the proxiers tell it of each success, and of nothing else.
	p := &proxy{health: healthcheck.NewProxyHealthServer("", time.Hour, nil)}
	for _, pods := range o.pods {
		f := &family{name: familyOf(pods.Addr()), ports: o.ports, fresh: o.fresh}
		for _, m := range o.measured {
			if familyOf(m.vip) == f.name {
				f.measured = m
			}
		}
		if !f.measured.vip.IsValid() {
			return nil, fmt.Errorf("no service of %s is to be measured", f.name)
		}
		var err error
		local := proxyutil.NewDetectLocalByCIDR(pods.String())
		switch c.Mode {
		case config.ProxyModeIPTables:
			f.rules = &rules{Interface: utiliptables.New(utiliptables.Protocol(f.name))}
			if err := f.rules.Present(); err != nil {
				return nil, fmt.Errorf("use iptables: %w", err)
			}
			f.proxier, err = iptables.NewProxier(ctx, c, f.name, f.rules, utilsysctl.New(), local,
				nodeName, nodeIPs[f.name].AsSlice(), nil, p.health, false)
		case config.ProxyModeNFTables:
			f.step = nftStep
			f.proxier, err = nftables.NewProxier(ctx, c, f.name, local,
				nodeName, nodeIPs[f.name].AsSlice(), nil, p.health, false)
		default:
			err = fmt.Errorf("%q is no mode", o.mode)
		}
		if err != nil {
			return nil, fmt.Errorf("make proxier of %s: %w", f.name, err)
		}
		f.proxier.OnServiceCIDRsChanged(serviceRanges)
		p.families = append(p.families, f)
	}
	return p, nil
}

// masqueradeBit is the default of both modes.
const masqueradeBit = 14

// configure returns kube-proxy's defaults (SetDefaults_KubeProxyConfiguration, whose package depends on half of
// Kubernetes) but for the timers, which could fire in the middle of a measurement.
func configure(mode string) *config.KubeProxyConfiguration {
	c := &config.KubeProxyConfiguration{
		Mode:          config.ProxyMode(mode),
		SyncPeriod:    metav1.Duration{Duration: time.Hour},
		MinSyncPeriod: metav1.Duration{Duration: time.Second},
		IPTables: config.KubeProxyIPTablesConfiguration{
			MasqueradeBit: ptr.To[int32](masqueradeBit), LocalhostNodePorts: ptr.To(true),
		},
		NFTables: config.KubeProxyNFTablesConfiguration{MasqueradeBit: ptr.To[int32](masqueradeBit)},
	}
	if c.Mode == config.ProxyModeNFTables {
		for _, ip := range nodeIPs { // "primary", as its main resolves it
			c.NodePortAddresses = append(c.NodePortAddresses, netip.PrefixFrom(ip, ip.BitLen()).String())
		}
	}
	return c
}

// services sees to it that there are n services, the measured ones among them.
func (p *proxy) services(ctx context.Context, n int) (a answer) {
	for _, f := range p.families {
		done, err := p.program(ctx, f, n)
		if err != nil {
			a.Error = fmt.Sprintf("program %s: %v", f.name, err)
			break
		}
		a.Families = append(a.Families, done)
	}
	return a
}

// program does so for one family. That the kernel has all of them is not taken on trust.
func (p *proxy) program(ctx context.Context, f *family, n int) (programmed, error) {
	start := time.Now()
	if err := p.grow(f, n); err != nil {
		return programmed{}, err
	}
	done := programmed{Family: f.name, Seconds: time.Since(start).Seconds(), VIP: f.measured.vip}
	in, err := f.installed(ctx)
	if err != nil {
		return done, err
	}
	if len(in.vips) != n {
		return done, fmt.Errorf("the kernel has rules for %d of %d services", len(in.vips), n)
	}
	if f.rules != nil {
		var vips []netip.Addr
		for i := range f.ours {
			vips = append(vips, plus(f.measured.vip, i))
		}
		done.Rules = in.count
		done.VIP, done.Before = in.middle(vips, f.fresh)
	}
	return done, nil
}

// grow tells the proxier of services until there are n, and has it write its rules; n is never less than before.
func (p *proxy) grow(f *family, n int) error {
	for ; f.ours < measuredOf(n); f.ours++ {
		f.add(measuredObject(f.measured, f.ports, f.ours))
	}
	for told := 0; f.others < n-f.ours; f.others++ {
		if told++; f.step > 0 && told%f.step == 0 {
			if err := p.write(f); err != nil {
				return err
			}
		}
		f.add(otherObject(f.name, f.others))
	}
	return p.write(f)
}

func (f *family) add(o object) {
	f.proxier.OnServiceAdd(o.service)
	f.proxier.OnEndpointSliceAdd(o.slice)
}

// write has the rules written at once: only kube-proxy's own loop waits, up to a second, for more changes to come.
func (p *proxy) write(f *family) error {
	if !f.synced {
		f.proxier.OnServiceSynced() // writes nothing before the slices are known as well
		f.synced = true
	}
	start := time.Now()
	f.proxier.OnEndpointSlicesSynced()
	if p.health.Health().Status[f.name].LastUpdated.After(start) {
		return nil
	}
	if f.rules != nil && f.rules.err != nil {
		return f.rules.err
	}
	return errors.New("kube-proxy did not write its rules; it has logged why")
}
