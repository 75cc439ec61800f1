package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-net/sluice/registry"
)

// told is a registry that says what a test has it say.
type told chan registry.Batch

func (t told) Watch(context.Context) <-chan registry.Batch { return t }

// rig is a server on the loopback, with a registry of the test's.
type rig struct {
	*Server
	registry told
	at       netip.AddrPort
	revision int64
}

var anyPort = netip.MustParseAddrPort("127.0.0.1:0")

// newRig starts a server. What the test leaves out of the options has a value fit for tests.
func newRig(tb testing.TB, o Options) *rig {
	tb.Helper()
	r := &rig{registry: make(told)}
	o.Source, o.Domain, o.TTL = r.registry, "cluster.local", 5
	o.Servers = []netip.Addr{netip.MustParseAddr("169.254.1.53"), netip.MustParseAddr("fd53:6c75:6963:65::53")}
	o.Local = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112"), netip.MustParsePrefix("10.244.0.0/16")}
	if o.Listen == nil {
		o.Listen = []Listener{{Addr: anyPort}}
	}
	var err error
	if r.Server, err = New(o); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	tb.Cleanup(func() {
		close(r.registry)
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	await(tb, "a listening server", func() bool {
		var ok bool
		r.at, ok = r.Bound(o.Listen[0].Addr)
		return ok
	})
	return r
}

// await waits until a condition holds.
func await(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("no %s in time", what)
		}
	}
}

// tell has the registry say a batch, and waits until the server answers from it.
func (r *rig) tell(tb testing.TB, snapshot bool, changes ...registry.Change) {
	tb.Helper()
	r.revision++
	r.registry <- registry.Batch{Revision: r.revision, Snapshot: snapshot, Changes: changes}
	await(tb, "new revision", func() bool { return r.Revision() == r.revision })
}

// query asks by UDP, or by TCP, without EDNS.
func (r *rig) query(tb testing.TB, network, name string, qtype uint16) *dns.Msg {
	tb.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	return r.exchange(tb, network, m)
}

func (r *rig) exchange(tb testing.TB, network string, m *dns.Msg) *dns.Msg {
	tb.Helper()
	c := dns.Client{Net: network, Timeout: 10 * time.Second, UDPSize: 65535}
	got, _, err := c.Exchange(m, r.at.String())
	if err != nil {
		tb.Fatalf("%s %v: %v", network, m.Question, err)
	}
	return got
}

// show writes an answer as tests compare it: the code, and a line for each record, sorted within its section. The
// SOA's serial is left out.
func show(m *dns.Msg) string {
	lines := []string{dns.RcodeToString[m.Rcode]}
	for _, section := range []struct {
		name string
		list []dns.RR
	}{{"", m.Answer}, {"ns ", m.Ns}, {"+ ", m.Extra}} {
		var part []string
		for _, rr := range section.list {
			if soa, ok := rr.(*dns.SOA); ok {
				part = append(part, fmt.Sprintf("%s%s SOA %d", section.name, soa.Hdr.Name, soa.Hdr.Ttl))
				continue
			}
			if rr.Header().Rrtype != dns.TypeOPT {
				part = append(part, section.name+strings.Join(strings.Fields(strings.Replace(rr.String(), "\tIN\t", "\t", 1)), " "))
			}
		}
		slices.Sort(part)
		lines = append(lines, part...)
	}
	return strings.Join(lines, "\n")
}

// stub is another DNS server, which the test answers for.
func stub(tb testing.TB, answer func(*dns.Msg) *dns.Msg) string {
	tb.Helper()
	packets, conns := bothSockets(tb)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		if m := answer(r); m != nil {
			if w.RemoteAddr().Network() == "udp" {
				size := 512
				if o := r.IsEdns0(); o != nil {
					size = int(o.UDPSize())
				}
				m.Truncate(size)
			}
			_ = w.WriteMsg(m)
		}
	})
	started := make(chan struct{}, 2)
	for _, s := range []*dns.Server{{PacketConn: packets}, {Listener: conns}} {
		s.Handler, s.NotifyStartedFunc = handler, func() { started <- struct{}{} }
		go func() { _ = s.ActivateAndServe() }()
		tb.Cleanup(func() { _ = s.Shutdown() })
	}
	<-started
	<-started
	return packets.LocalAddr().String()
}

// bothSockets listen at one port, of which UDP and TCP each may have been given away to somebody else.
func bothSockets(tb testing.TB) (net.PacketConn, net.Listener) {
	tb.Helper()
	for try := 1; ; try++ {
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		conns, err := net.Listen("tcp", packets.LocalAddr().String())
		if err == nil {
			return packets, conns
		}
		packets.Close()
		if try == 100 || !errors.Is(err, syscall.EADDRINUSE) {
			tb.Fatal(err)
		}
	}
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}
