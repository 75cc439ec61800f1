package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/sluice-net/sluice/registry"
)

// knows answers A queries for names of example.org with an address, and counts them.
func knows(count *atomic.Int32) func(*dns.Msg) *dns.Msg {
	return func(r *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(r)
		m.RecursionAvailable = true
		q := r.Question[0]
		if q.Qtype != dns.TypeNS && q.Qtype != probeRecordType { // forward's health checks, and our probe
			count.Add(1)
		}
		soa := &dns.SOA{Hdr: dns.RR_Header{Name: "org.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "a.", Mbox: "b.", Minttl: 60}
		switch {
		case !strings.HasSuffix(strings.ToLower(q.Name), "example.org."):
			m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{soa}
		case q.Qtype == dns.TypeA:
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 80)}}
		case q.Qtype == dns.TypeTXT: // a long one
			for i := range 40 {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}, Txt: []string{fmt.Sprint(i, strings.Repeat("x", 200))}})
			}
		default:
			m.Ns = []dns.RR{soa}
		}
		return m
	}
}

func forwarding(t *testing.T, o Options) *rig {
	t.Helper()
	r := newRig(t, o)
	await(t, "server to ask", r.upstreams.any)
	r.tell(t, true, shop()...)
	return r
}

// TestForward: other names are asked of another server, by UDP and TCP, and remembered; ours never are.
func TestForward(t *testing.T) {
	var asked atomic.Int32
	r := forwarding(t, Options{Upstreams: []string{stub(t, knows(&asked))}, Cache: 100})
	for _, c := range []struct {
		network, name string
		qtype         uint16
		want          string
		asked         int32
	}{
		{"udp", "example.org.", dns.TypeA, "NOERROR", 1}, {"udp", "example.org.", dns.TypeA, "NOERROR", 1}, {"tcp", "EXAMPLE.org.", dns.TypeA, "NOERROR", 1},
		{"udp", "example.org.", dns.TypeAAAA, "NOERROR", 2}, {"udp", "no.test.", dns.TypeA, "NXDOMAIN", 3}, {"udp", "no.test.", dns.TypeA, "NXDOMAIN", 3},
		{"udp", "web.shop.svc.cluster.local.", dns.TypeA, "NOERROR", 3}, {"udp", "no.shop.svc.cluster.local.", dns.TypeA, "NXDOMAIN", 3},
		{"udp", "99.0.96.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN", 3}, {"udp", "99.2.0.192.in-addr.arpa.", dns.TypePTR, "NXDOMAIN", 4},
		// Longer than what is remembered: asked each time.
		{"tcp", "example.org.", dns.TypeTXT, "NOERROR", 5}, {"tcp", "example.org.", dns.TypeTXT, "NOERROR", 6},
	} {
		m := r.query(t, c.network, c.name, c.qtype)
		if dns.RcodeToString[m.Rcode] != c.want || asked.Load() != c.asked {
			t.Errorf("%s %s: %s after %d questions, want %s after %d", c.name, dns.TypeToString[c.qtype], dns.RcodeToString[m.Rcode], asked.Load(), c.want, c.asked)
		}
		if !m.RecursionAvailable {
			t.Errorf("%s: RA is not set", c.name)
		}
		if m.Question[0].Name != c.name {
			t.Errorf("%s: asked back as %s", c.name, m.Question[0].Name)
		}
	}
	if m := r.query(t, "tcp", "example.org.", dns.TypeTXT); len(m.Answer) != 40 {
		t.Errorf("%d records of a long answer", len(m.Answer))
	}
	if m := r.query(t, "udp", "example.org.", dns.TypeTXT); !m.Truncated {
		t.Error("a long answer fits into 512 bytes")
	}
}

// TestExternalName: the name elsewhere is followed, and what is there stands behind the CNAME.
func TestExternalName(t *testing.T) {
	var asked atomic.Int32
	r := forwarding(t, Options{Upstreams: []string{stub(t, knows(&asked))}, Cache: 100})
	cname := "out.shop.svc.cluster.local. 5 CNAME Example.ORG."
	for qtype, want := range map[uint16]string{
		dns.TypeA:     "NOERROR\nExample.ORG. 60 A 192.0.2.80\n" + cname,
		dns.TypeAAAA:  "NOERROR\n" + cname + "\nns org. SOA 60",
		dns.TypeCNAME: "NOERROR\n" + cname,
	} {
		if got := show(r.query(t, "udp", "out.shop.svc.cluster.local.", qtype)); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", dns.TypeToString[qtype], got, want)
		}
	}
	r.tell(t, false, registry.Change{Service: &registry.Service{Name: name("shop", "out"), Type: registry.TypeExternalName, ExternalName: "no.test"}})
	if got := show(r.query(t, "udp", "out.shop.svc.cluster.local.", dns.TypeA)); got != "NXDOMAIN\nout.shop.svc.cluster.local. 5 CNAME no.test.\nns org. SOA 60" {
		t.Errorf("a name that is nowhere: %s", got)
	}
}

// TestUpstreamsFail: what no server answers is SERVFAIL; the second is asked when the first is away.
func TestUpstreamsFail(t *testing.T) {
	var asked atomic.Int32
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away := closed.LocalAddr().String()
	closed.Close()
	r := forwarding(t, Options{Upstreams: []string{away}})
	if got := show(r.query(t, "tcp", "example.org.", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("nobody there: %s", got)
	}
	if got := show(r.query(t, "tcp", "out.shop.svc.cluster.local.", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("an alias for a name that nobody can tell: %s", got)
	}
	r = forwarding(t, Options{Upstreams: []string{away, stub(t, knows(&asked))}})
	if got := show(r.query(t, "udp", "example.org.", dns.TypeA)); !strings.HasPrefix(got, "NOERROR") {
		t.Errorf("the second is there: %s", got)
	}
}

// TestLoop: a server that asks this one is found out and not asked.
func TestLoop(t *testing.T) {
	var back atomic.Pointer[netip.AddrPort]
	loops := stub(t, func(q *dns.Msg) *dns.Msg {
		at := back.Load()
		if at == nil {
			return nil
		}
		c := dns.Client{}
		m, _, err := c.Exchange(q, at.String())
		if err != nil {
			return nil
		}
		return m
	})
	r := newRig(t, Options{Upstreams: []string{loops}})
	back.Store(&r.at)
	r.tell(t, true, shop()...)
	r.upstreams.update(t.Context(), true)
	if r.upstreams.any() || r.Health() == nil || !strings.Contains(r.Health().Error(), loops) {
		t.Errorf("asked: %t, health: %v", r.upstreams.any(), r.Health())
	}
	if got := show(r.query(t, "udp", "example.org.", dns.TypeA)); got != "REFUSED" {
		t.Errorf("%s", got)
	}
}

// TestResolvConf: the servers of a resolv.conf are asked, but for this one itself; the file is read again.
func TestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	s, err := New(Options{
		Domain: "cluster.local", Servers: addrs("169.254.1.53"), Upstreams: []string{path, "192.0.2.1:5353", "192.0.2.1:5353", "127.0.0.1:53"},
		Listen: []Listener{{Addr: netip.MustParseAddrPort("169.254.1.53:53")}, {Addr: netip.MustParseAddrPort("127.0.0.1:53")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.upstreams.read(); err == nil || fmt.Sprint(got) != "[192.0.2.1:5353]" {
		t.Errorf("without the file: %v, %v", got, err)
	}
	text := "nameserver 169.254.1.53\nnameserver 192.0.2.7\nnameserver 2001:db8::7\nnameserver 192.0.2.7\nsearch x\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.upstreams.read(); err != nil || fmt.Sprint(got) != "[192.0.2.7:53 [2001:db8::7]:53 192.0.2.1:5353]" {
		t.Errorf("with the file: %v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("nameserver fe80::1%eth0\nnameserver x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.upstreams.read(); err == nil || fmt.Sprint(got) != "[192.0.2.1:5353]" {
		t.Errorf("with servers that cannot be asked: %v, %v", got, err)
	}
}

// TestCrowded: one source cannot hold all the places of queries that wait for other servers.
func TestCrowded(t *testing.T) {
	g := newGate()
	one, other := netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("10.244.0.2")
	for range maxWaitingSource {
		if !g.enter(one) {
			t.Fatal("refused within its share")
		}
	}
	if g.enter(one) || !g.enter(other) {
		t.Error("a full share does not stop the source, or stops others")
	}
	g.leave(one)
	if !g.enter(one) {
		t.Error("a place that was given back is not there")
	}
}
