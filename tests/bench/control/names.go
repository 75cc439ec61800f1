package control

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/dns"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

const (
	dnsServices = 10_000
	dnsWindow   = 32 // queries under way at a time, where throughput is measured
	dnsPatience = 10 * time.Second
)

// question is a kind of query; its name is chosen anew for each.
type question struct {
	kind  string
	name  func() string
	qtype uint16
	// What there is to be in an answer: a response code, and so many records.
	rcode, records int
}

func questions() []question {
	even := func() string { return fmt.Sprintf("s%d.bench.svc.cluster.local.", rand.IntN(dnsServices)/2*2) }
	return []question{
		{"VIP", even, mdns.TypeA, mdns.RcodeSuccess, 1},
		{"no_such_name", func() string { return fmt.Sprintf("no%d.bench.svc.cluster.local.", rand.Int()) }, mdns.TypeA, mdns.RcodeNameError, 0},
		{"no_such_type", even, mdns.TypeAAAA, mdns.RcodeSuccess, 0},
		{"10_instances", func() string { return fmt.Sprintf("s%d.bench.svc.cluster.local.", rand.IntN(dnsServices)/2*2+1) },
			mdns.TypeA, mdns.RcodeSuccess, 10},
		{"SRV", func() string { return "_http._tcp." + even() }, mdns.TypeSRV, mdns.RcodeSuccess, 1},
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

// names measures what DNS answers cost: latency with one query under way, CPU time with many, the client's share
// included, and what random names leave behind.
func (b *bench) names(ctx context.Context) (err error) {
	other, closeOther, err := deniesAll()
	if err != nil {
		return err
	}
	defer closeOther()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	source := make(dnsSource, 1)
	any := netip.MustParseAddrPort("127.0.0.1:0")
	server, err := dns.New(dns.Options{
		Source: source, Domain: "cluster.local", TTL: 5, Listen: []dns.Listener{{Addr: any}}, Upstreams: []string{other}, Cache: 4096,
	})
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	defer func() {
		cancel()
		close(source)
		err = errors.Join(err, <-done)
	}()
	contents := dnsContents()
	start := time.Now()
	source <- contents
	var at netip.AddrPort
	for ok := false; !ok || server.Revision() == 0; time.Sleep(time.Millisecond) {
		if at, ok = server.Bound(any); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	b.Sheet.Add(of("kind", "DNS_contents", "step", "loaded", "services", dnsServices), 0, 1, sheet.Value{Unit: "load-s", Value: time.Since(start).Seconds()})
	for round := -1; round < b.Rounds; round++ {
		for _, q := range questions() {
			if err := b.ask(ctx, at, round, q); err != nil {
				return fmt.Errorf("%s: %w", q.kind, err)
			}
		}
	}
	return b.dnsMemory(ctx, at)
}

// ask is one round of a question. The latency is that of a client that waits for each answer.
func (b *bench) ask(ctx context.Context, at netip.AddrPort, round int, q question) error {
	took, err := dnsLatency(ctx, at, b.times(600, 400), q)
	if err != nil {
		return err
	}
	cpu, err := dnsCost(ctx, at, b.times(3000, 2000), q)
	if err == nil && round >= 0 {
		b.took.Round(of("kind", "DNS", "step", q.kind, "services", dnsServices), round, took,
			sheet.Value{Unit: "cpu-ns/op", Value: float64(cpu)})
	}
	return err
}

func (q question) pack() ([]byte, error) {
	m := new(mdns.Msg)
	m.SetQuestion(q.name(), q.qtype)
	return m.Pack()
}

// dnsLatency asks one query after the other, and returns how long each took.
func dnsLatency(ctx context.Context, at netip.AddrPort, n int, q question) (took []time.Duration, err error) {
	c, err := net.Dial("udp", at.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	buf := make([]byte, 4096)
	for range n {
		data, err := q.pack()
		if err == nil {
			err = errors.Join(ctx.Err(), c.SetDeadline(time.Now().Add(dnsPatience)))
		}
		if err != nil {
			return nil, err
		}
		start := time.Now()
		if _, err := c.Write(data); err != nil {
			return nil, err
		}
		got, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
		if err := q.check(buf[:got]); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// check looks whether an answer is what there is to be: a refusal would be fast.
func (q question) check(answer []byte) error {
	m := new(mdns.Msg)
	if err := m.Unpack(answer); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if m.Rcode != q.rcode || len(m.Answer) != q.records || m.Truncated {
		return fmt.Errorf("answer %s with %d records, truncated: %t; want %s with %d",
			mdns.RcodeToString[m.Rcode], len(m.Answer), m.Truncated, mdns.RcodeToString[q.rcode], q.records)
	}
	return nil
}

// dnsCost keeps some queries under way, and returns this process' CPU time for each.
func dnsCost(ctx context.Context, at netip.AddrPort, n int, q question) (time.Duration, error) {
	var queries [][]byte
	for range n {
		data, err := q.pack()
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
		if err := errors.Join(ctx.Err(), c.SetReadDeadline(time.Now().Add(dnsPatience))); err != nil {
			return 0, err
		}
		if _, err := c.Read(buf); err != nil {
			return 0, err
		}
	}
	after, err := cpuTime()
	return (after - before) / time.Duration(n), err
}

// cpuTime is what this process has used, in user and kernel mode.
func cpuTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}

// dnsMemory asks for random names, half of the domain and half of elsewhere, and tells what of that stays.
func (b *bench) dnsMemory(ctx context.Context, at netip.AddrPort) error {
	random := question{qtype: mdns.TypeA, name: func() string {
		if rand.IntN(2) == 0 {
			return fmt.Sprintf("x%d.bench.svc.cluster.local.", rand.Int())
		}
		return fmt.Sprintf("x%d.example.org.", rand.Int())
	}}
	before := heap()
	const batch = 10_000
	batches := b.times(15, 4)
	for range batches {
		if _, err := dnsCost(ctx, at, batch, random); err != nil {
			return err
		}
	}
	c := of("kind", "DNS_memory", "step", "random_names", "names", batches*batch)
	b.Sheet.Add(c, 0, batches*batch, sheet.Value{Unit: "heap-B", Value: before}, sheet.Value{Unit: "after-heap-B", Value: heap()})
	return nil
}

// heap is what this process's Go objects take.
func heap() float64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
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
