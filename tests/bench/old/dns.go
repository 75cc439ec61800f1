package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/dns"
)

const (
	dnsServices = 10_000
	dnsWindow   = 32 // queries under way at a time, where throughput is measured
	dnsQueries  = 40_000
	dnsRandom   = 1_000_000
)

// dnsNames are what is asked: a name of each kind, chosen anew for each query.
func dnsNames() []struct {
	what  string
	name  func() string
	qtype uint16
} {
	some := func() int { return rand.IntN(dnsServices) }
	return []struct {
		what  string
		name  func() string
		qtype uint16
	}{
		{"VIP, A", func() string { return fmt.Sprintf("s%d.bench.svc.cluster.local.", some()/2*2) }, mdns.TypeA},
		{"NXDOMAIN", func() string { return fmt.Sprintf("no%d.bench.svc.cluster.local.", rand.Int()) }, mdns.TypeA},
		{"NODATA", func() string { return fmt.Sprintf("s%d.bench.svc.cluster.local.", some()/2*2) }, mdns.TypeAAAA},
		{"10 instances, A", func() string { return fmt.Sprintf("s%d.bench.svc.cluster.local.", some()/2*2+1) }, mdns.TypeA},
		{"SRV and glue", func() string { return fmt.Sprintf("_http._tcp.s%d.bench.svc.cluster.local.", some()/2*2) }, mdns.TypeSRV},
	}
}

// dnsContents is a registry of services, every other headless with ten containers.
func dnsContents() registry.Batch {
	b := registry.Batch{Revision: 1, Snapshot: true}
	for i := range dnsServices {
		app := fmt.Sprint("a", i)
		s := &registry.Service{
			Name: registry.Name{Namespace: "bench", Name: fmt.Sprint("s", i)}, Selector: map[string]string{"app": app},
			Ports: []registry.ServicePort{{Name: "http", Protocol: registry.TCP, Port: 80, TargetPort: 8080}},
		}
		if i%2 == 0 {
			s.VIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})}
		} else {
			s.Headless = true
			for j := range 10 {
				n := i*5 + j
				b.Changes = append(b.Changes, registry.Change{Endpoint: &registry.Endpoint{
					EndpointID: registry.EndpointID{Node: "n", ContainerID: fmt.Sprintf("%d-%d", i, j), Interface: "eth0"},
					Name:       registry.Name{Namespace: "bench", Name: "p"}, Labels: map[string]string{"app": app},
					Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 128 + byte(n>>16), byte(n >> 8), byte(n)})},
				}})
			}
		}
		b.Changes = append(b.Changes, registry.Change{Service: s})
	}
	return b
}

// dnsSource is a registry that never changes.
type dnsSource chan registry.Batch

func (s dnsSource) Watch(context.Context) <-chan registry.Batch { return s }

// names measures what DNS answers cost: latency with one query under way, queries for each second of CPU time with
// many, the client's share included, and what a million random names leave behind.
func names(ctx context.Context, rounds int) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	other, closeOther, err := deniesAll()
	if err != nil {
		cancel()
		return err
	}
	defer closeOther()
	source := make(dnsSource, 1)
	any := netip.MustParseAddrPort("127.0.0.1:0")
	server, err := dns.New(dns.Options{
		Source: source, Domain: "cluster.local", TTL: 5, Listen: []dns.Listener{{Addr: any}}, Upstreams: []string{other}, Cache: 4096,
	})
	if err != nil {
		cancel()
		return err
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	defer func() {
		cancel()
		close(source)
		err = errors.Join(err, <-done)
	}()
	start := time.Now()
	source <- dnsContents()
	var at netip.AddrPort
	for ok := false; !ok || server.Revision() == 0; time.Sleep(time.Millisecond) {
		at, ok = server.Bound(any)
	}
	loaded := time.Since(start)
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "DNS, %d services, loaded in %v\tp50 us\tp99 us\tqueries a second of CPU time\t\n", dnsServices, loaded.Round(time.Millisecond))
	for _, kind := range dnsNames() {
		took, err := dnsLatency(at, rounds*400, kind.name, kind.qtype)
		if err != nil {
			return err
		}
		rate, err := dnsRate(at, dnsQueries, kind.name, kind.qtype)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t\n", kind.what, dnsQuantile(took, 0.5), dnsQuantile(took, 0.99), rate)
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	return dnsMemory(at)
}

func dnsQuantile(sorted []time.Duration, q float64) float64 {
	return float64(sorted[int(float64(len(sorted)-1)*q)].Nanoseconds()) / 1000
}

// dnsLatency asks one query after the other, and returns how long each took, sorted.
func dnsLatency(at netip.AddrPort, n int, name func() string, qtype uint16) ([]time.Duration, error) {
	c, err := net.Dial("udp", at.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	buf := make([]byte, 4096)
	var took []time.Duration
	for range n {
		m := new(mdns.Msg)
		m.SetQuestion(name(), qtype)
		data, err := m.Pack()
		if err != nil {
			return nil, err
		}
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return nil, err
		}
		start := time.Now()
		if _, err := c.Write(data); err != nil {
			return nil, err
		}
		if _, err := c.Read(buf); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took, nil
}

// dnsRate keeps some queries under way, and returns how many were answered for each second of this process' CPU time.
func dnsRate(at netip.AddrPort, n int, name func() string, qtype uint16) (float64, error) {
	var queries [][]byte
	for range n {
		m := new(mdns.Msg)
		m.SetQuestion(name(), qtype)
		data, err := m.Pack()
		if err != nil {
			return 0, err
		}
		queries = append(queries, data)
	}
	c, err := net.Dial("udp", at.String())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	before, err := cpuTime()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	for sent, got := 0, 0; got < n; got++ {
		for ; sent < n && sent-got < dnsWindow; sent++ {
			if _, err := c.Write(queries[sent]); err != nil {
				return 0, err
			}
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return 0, err
		}
		if _, err := c.Read(buf); err != nil {
			return 0, err
		}
	}
	after, err := cpuTime()
	return float64(n) / (after - before).Seconds(), err
}

// cpuTime is what this process has used, in user and kernel mode.
func cpuTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// dnsMemory asks for random names, half of the domain and half of elsewhere, and tells what of that stays.
func dnsMemory(at netip.AddrPort) error {
	before := heap()
	name := func() string {
		if rand.IntN(2) == 0 {
			return fmt.Sprintf("x%d.bench.svc.cluster.local.", rand.Int())
		}
		return fmt.Sprintf("x%d.example.org.", rand.Int())
	}
	for range 20 {
		if _, err := dnsRate(at, dnsRandom/20, name, mdns.TypeA); err != nil {
			return err
		}
	}
	fmt.Printf("DNS: heap %.1f MB, after %d random names %.1f MB\n\n", before, dnsRandom, heap())
	return nil
}

// deniesAll is a server for which no name exists.
func deniesAll() (at string, stop func(), err error) {
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	soa := &mdns.SOA{Hdr: mdns.RR_Header{Name: "org.", Rrtype: mdns.TypeSOA, Class: mdns.ClassINET, Ttl: 60}, Ns: "a.", Mbox: "b.", Minttl: 60}
	s := &mdns.Server{PacketConn: p, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, r *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetRcode(r, mdns.RcodeNameError)
		m.Ns = []mdns.RR{soa}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe() }()
	return p.LocalAddr().String(), func() { _ = p.Close() }, nil
}
