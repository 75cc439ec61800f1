package dns

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-net/sluice/registry"
)

// crowd is a headless service of so many containers.
func crowd(n int) []registry.Change {
	labels := map[string]string{"app": "crowd"}
	changes := []registry.Change{{Service: &registry.Service{Name: name("shop", "crowd"), Headless: true, Selector: labels,
		Ports: []registry.ServicePort{{Name: "http", Protocol: registry.TCP, Port: 80, TargetPort: 8080}}}}}
	for i := range n {
		changes = append(changes, container(fmt.Sprint("c-", i), labels, nil, fmt.Sprintf("10.244.%d.%d", i/250, i%250+1)))
	}
	return changes
}

const crowdName = "crowd.shop.svc.cluster.local."

// TestSizes: without EDNS 512 bytes, with it what the client takes, by TCP all of it; what does not fit is told by TC.
func TestSizes(t *testing.T) {
	r := newRig(t, Options{})
	r.tell(t, true, crowd(3000)...)
	ask := func(network string, size uint16) *dns.Msg {
		m := new(dns.Msg)
		m.SetQuestion(crowdName, dns.TypeA)
		if size > 0 {
			m.SetEdns0(size, false)
		}
		return r.exchange(t, network, m)
	}
	for _, c := range []struct {
		network   string
		size      uint16
		most      int
		least     int
		truncated bool
	}{
		{"udp", 0, 512, 25, true}, {"udp", 100, 512, 25, true}, {"udp", 1232, 1232, 60, true}, {"udp", 4096, 4096, 200, true}, {"udp", 65535, 4096, 200, true}, {"tcp", 0, 65535, 3000, false},
	} {
		m := ask(c.network, c.size)
		if m.Truncated != c.truncated || len(m.Answer) < c.least {
			t.Errorf("%s %d: TC %t, %d records", c.network, c.size, m.Truncated, len(m.Answer))
		}
		m.Compress = true
		if m.Len() > c.most {
			t.Errorf("%s %d: %d bytes", c.network, c.size, m.Len())
		}
		if o := m.IsEdns0(); (o != nil) != (c.size > 0) || o != nil && o.Version() != 0 {
			t.Errorf("%s %d: OPT %v", c.network, c.size, o)
		}
	}
	srv := r.query(t, "tcp", "_http._tcp."+crowdName, dns.TypeSRV)
	if len(srv.Answer) == 0 || len(srv.Answer) != 3000 && !srv.Truncated {
		t.Errorf("SRV by TCP: %d records, TC %t", len(srv.Answer), srv.Truncated)
	}
}

// TestFewRecordsFit: 28 addresses fit into what a client without EDNS and TCP takes, as musl before 1.2.4 is.
func TestFewRecordsFit(t *testing.T) {
	r := newRig(t, Options{})
	r.tell(t, true, crowd(28)...)
	if m := r.query(t, "udp", crowdName, dns.TypeA); m.Truncated || len(m.Answer) != 28 {
		t.Errorf("TC %t, %d records", m.Truncated, len(m.Answer))
	}
}

// TestOrder: the first address is not always the same one.
func TestOrder(t *testing.T) {
	r := newRig(t, Options{})
	r.tell(t, true, crowd(8)...)
	first := map[string]bool{}
	await(t, "other first address", func() bool {
		first[r.query(t, "udp", crowdName, dns.TypeA).Answer[0].String()] = true
		return len(first) > 3
	})
}

// TestRefusals: what is no query for a name is told so.
func TestRefusals(t *testing.T) {
	r := newRig(t, Options{})
	r.tell(t, true, shop()...)
	question := func(change func(*dns.Msg)) *dns.Msg {
		m := new(dns.Msg)
		m.SetQuestion("web.shop.svc.cluster.local.", dns.TypeA)
		change(m)
		return m
	}
	for what, c := range map[string]struct {
		m    *dns.Msg
		want int
	}{
		"class CH":        {question(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		"class ANY":       {question(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), dns.RcodeRefused},
		"AXFR":            {question(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), dns.RcodeRefused},
		"IXFR":            {question(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeIXFR }), dns.RcodeRefused},
		"NOTIFY":          {question(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented},
		"UPDATE":          {question(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		"EDNS version 1":  {question(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), dns.RcodeBadVers},
		"two questions":   {question(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		"an escaped name": {question(func(m *dns.Msg) { m.Question[0].Name = `we\.b.shop.svc.cluster.local.` }), dns.RcodeNameError},
	} {
		if got := r.exchange(t, "udp", c.m); got.Rcode != c.want {
			t.Errorf("%s: %s", what, dns.RcodeToString[got.Rcode])
		}
	}
}

// TestSpelling: an answer repeats the name as it was asked, however it was spelt (clients check that: 0x20).
func TestSpelling(t *testing.T) {
	r := newRig(t, Options{})
	r.tell(t, true, shop()...)
	const spelt = "wEb.sHop.SVC.cluSTer.LOCAL."
	m := r.query(t, "udp", spelt, dns.TypeA)
	if m.Question[0].Name != spelt || m.Answer[0].Header().Name != spelt {
		t.Errorf("%v", m)
	}
}

// TestParallelFamilies is what musl does: A and AAAA from one socket at once, without EDNS. Neither may say that the
// name does not exist, or the other's answer counts for nothing.
func TestParallelFamilies(t *testing.T) {
	r := newRig(t, Options{})
	r.tell(t, true, shop()...)
	c, err := net.Dial("udp", r.at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for id, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		m := new(dns.Msg)
		m.SetQuestion("v4.shop.svc.cluster.local.", qtype)
		m.Id = uint16(id)
		data, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	got := map[uint16]string{}
	for range 2 {
		buf := make([]byte, 512)
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		var m dns.Msg
		if err := m.Unpack(buf[:n]); err != nil {
			t.Fatal(err)
		}
		got[m.Id] = show(&m)
	}
	if got[0] != "NOERROR\nv4.shop.svc.cluster.local. 5 A 10.96.0.2" || got[1] != noData {
		t.Errorf("A: %s, AAAA: %s", got[0], got[1])
	}
}

// TestManyByTCP: one connection carries several queries, sent before the first is answered, as glibc's use-vc does.
func TestManyByTCP(t *testing.T) {
	r := newRig(t, Options{})
	r.tell(t, true, shop()...)
	c, err := net.Dial("tcp", r.at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var out []byte
	for range 20 {
		m := new(dns.Msg)
		m.SetQuestion("web.shop.svc.cluster.local.", dns.TypeA)
		data, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(data))), data...)
	}
	if _, err := c.Write(out); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(length[:]))); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStrangers: who may not ask is not answered, and holds no connection.
func TestStrangers(t *testing.T) {
	r := newRig(t, Options{Listen: []Listener{{Addr: anyPort, Allow: func(a netip.Addr) bool { return a != netip.MustParseAddr("127.0.0.2") }}}})
	r.tell(t, true, shop()...)
	for _, network := range []string{"udp", "tcp"} {
		m := new(dns.Msg)
		m.SetQuestion("web.shop.svc.cluster.local.", dns.TypeA)
		c := dns.Client{Net: network, Timeout: 300 * time.Millisecond}
		local := net.ParseIP("127.0.0.2")
		if c.Dialer = (&net.Dialer{Timeout: time.Second, LocalAddr: &net.UDPAddr{IP: local}}); network == "tcp" {
			c.Dialer.LocalAddr = &net.TCPAddr{IP: local}
		}
		if got, _, err := c.Exchange(m, r.at.String()); err == nil {
			t.Errorf("%s: %s", network, show(got))
		}
		if got := show(r.query(t, network, "web.shop.svc.cluster.local.", dns.TypeA)); !strings.HasPrefix(got, "NOERROR") {
			t.Errorf("%s from 127.0.0.1: %s", network, got)
		}
	}
}

// TestConnections: one source has no more than its share of them, and gets it back.
func TestConnections(t *testing.T) {
	r := newRig(t, Options{})
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for range maxConnsSource {
		c, err := net.Dial("tcp", r.at.String())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	count := func() int {
		r.gate.conns.mu.Lock()
		defer r.gate.conns.mu.Unlock()
		return r.gate.conns.all
	}
	await(t, "full share", func() bool { return count() == maxConnsSource })
	extra, err := net.Dial("tcp", r.at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	if _, err := extra.Read(make([]byte, 1)); err == nil {
		t.Error("one connection too many is served")
	}
	for _, c := range held {
		c.Close()
	}
	await(t, "end of all connections", func() bool { return count() == 0 })
}
