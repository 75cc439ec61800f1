package dns

import (
	"net"
	"testing"

	"github.com/miekg/dns"

	"github.com/sluice-net/sluice/registry"
)

// paper is a client that keeps what it is sent.
type paper struct {
	dns.ResponseWriter
	network string
	got     *dns.Msg
	size    int
}

func (p *paper) RemoteAddr() net.Addr { return p.addr() }
func (p *paper) LocalAddr() net.Addr  { return p.addr() }

func (p *paper) addr() net.Addr {
	if p.network == "tcp" {
		return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	}
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
}

func (p *paper) WriteMsg(m *dns.Msg) error {
	data, err := m.Pack()
	if err == nil {
		p.got, p.size = m, len(data)
	}
	return err
}

// FuzzServe: whatever a message says, the answer is one, repeats the id, and is no longer than the client takes.
func FuzzServe(f *testing.F) {
	s, err := New(Options{Domain: "cluster.local", TTL: 5})
	if err != nil {
		f.Fatal(err)
	}
	x := newIndex()
	x.apply(registry.Batch{Revision: 1, Snapshot: true, Changes: append(shop(), crowd(100)...)})
	s.index.Store(x)
	for _, n := range []string{"web.shop.svc.cluster.local.", "_http._tcp.web.shop.svc.cluster.local.", "db.shop.svc.cluster.local.", crowdName, "1.0.96.10.in-addr.arpa.", "circle.shop.svc.cluster.local.", ".", "out.shop.svc.cluster.local."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeANY, dns.TypeOPT} {
			m := new(dns.Msg)
			m.SetQuestion(n, qtype)
			if qtype == dns.TypeSRV {
				m.SetEdns0(1232, true)
			}
			data, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, qtype%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, tcp bool) {
		var m dns.Msg
		if m.Unpack(data) != nil {
			return
		}
		most := 512
		if o := m.IsEdns0(); o != nil {
			most = max(most, int(o.UDPSize()))
		}
		p := &paper{network: "udp"}
		if tcp {
			p.network, most = "tcp", maxMessage
		}
		id := m.Id
		s.ServeDNS(p, &m)
		switch {
		case p.got == nil:
			t.Fatal("no answer")
		case p.got.Id != id || !p.got.Response:
			t.Fatalf("id %d, response %t", p.got.Id, p.got.Response)
		case p.size > most && len(m.Question) == 1:
			t.Fatalf("%d bytes for a client that takes %d: %v", p.size, most, p.got)
		}
	})
}

// FuzzReverse: a name that is read as an address's is that address's name.
func FuzzReverse(f *testing.F) {
	f.Add("1.0.0.10.in-addr.arpa.")
	f.Add("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.")
	f.Fuzz(func(t *testing.T, text string) {
		addr, in, ok := reverseAddr(text)
		if !addr.IsValid() {
			return
		}
		back, err := dns.ReverseAddr(addr.String())
		if addr.Is4In6() { // miekg writes it as IPv4
			return
		}
		if !ok || in == "" || err != nil || back != text {
			t.Errorf("%q is read as %s, whose name is %q (%v)", text, addr, back, err)
		}
	})
}
