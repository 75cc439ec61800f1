package tests

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/miekg/dns"

	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

// lookup asks a server from inside a namespace, and returns what it says of a name: its code, or the records.
func lookup(in func(func() error) error, network string, server netip.Addr, name string, qtype uint16) (said string, err error) {
	err = in(func() error {
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		c := dns.Client{Net: network, Timeout: 2 * time.Second}
		got, _, err := c.Exchange(m, netip.AddrPortFrom(server, 53).String())
		if err != nil {
			return err
		}
		var records []string
		for _, rr := range got.Answer {
			records = append(records, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
		slices.Sort(records)
		if said = strings.Join(records, " "); said == "" {
			said = dns.RcodeToString[got.Rcode]
		}
		return nil
	})
	return said, err
}

// awaitLookup asks until the answer is what is wanted.
func awaitLookup(t *testing.T, in func(func() error) error, network string, server netip.Addr, name string, qtype uint16, want string) {
	t.Helper()
	var said string
	var last error
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := nstest.Await(ctx, fmt.Sprintf("%s by %s from %s", name, network, server), func() (bool, error) {
		said, last = lookup(in, network, server, name, qtype)
		return last == nil && said == want, nil
	})
	if err != nil {
		t.Fatalf("%v: last said %q (%v), want %q", err, said, last, want)
	}
}

// otherDNS is a server on the node that knows what the registry does not.
func otherDNS(t *testing.T, n *nstest.Node, at string) {
	t.Helper()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		if r.Question[0].Name == "outside.test." && r.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(203, 0, 113, 7)}}
		} else {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})
	err := n.InNetns(func() error {
		p, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		for _, s := range []*dns.Server{{PacketConn: p, Handler: handler}, {Listener: l, Handler: handler}} {
			go func() { _ = s.ActivateAndServe() }()
		}
		t.Cleanup(func() {
			p.Close()
			l.Close()
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

const dnsServices = `
apiVersion: v1
kind: Service
metadata: {name: pods}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: web, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: out}
spec: {type: ExternalName, externalName: outside.test}
`

// TestDNS: containers find services by their names, whatever policies and networks say, and everything else by way of
// the node's own servers. Hosts elsewhere are not answered.
func TestDNS(t *testing.T) {
	n := newNode(t, nstest.Settings{Upstreams: []string{"192.0.2.1:5354", "169.254.1.53"}})
	otherDNS(t, n, "192.0.2.1:5354")
	pod := addContainer(t, n, "web", map[string]string{"app": "web"})
	other, err := n.AddContainer(t.Context(), nstest.Spec{Name: "other", Network: "blue"})
	if err != nil {
		t.Fatal(err)
	}
	vips := apply(t, n, "web", web("web", "web"))
	if _, err := n.Sluice(t.Context(), dnsServices+"---\n"+closedEgress, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	for _, server := range nodeLocal() {
		for _, network := range []string{"udp", "tcp"} {
			for _, in := range []func(func() error) error{pod.InNetns, other.InNetns, n.InNetns} {
				for _, c := range []struct {
					name  string
					qtype uint16
					want  string
				}{
					{"web.default.svc.cluster.local.", dns.TypeA, vips[0].String()},
					{"web.default.svc.cluster.local.", dns.TypeAAAA, vips[1].String()},
					{"pods.default.svc.cluster.local.", dns.TypeA, pod.V4.String()},
					{"_web._tcp.web.default.svc.cluster.local.", dns.TypeSRV, "0 100 80 web.default.svc.cluster.local."},
					{"no.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN"},
					{"outside.test.", dns.TypeA, "203.0.113.7"},
					{"out.default.svc.cluster.local.", dns.TypeA, "203.0.113.7 outside.test."},
					{"unknown.test.", dns.TypeA, "NXDOMAIN"},
				} {
					awaitLookup(t, in, network, server, c.name, c.qtype, c.want)
				}
			}
		}
	}
	if err := pod.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitLookup(t, other.InNetns, "udp", nodeLocal()[0], "pods.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN")
	status, err := n.API().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(status.Conditions, api.Condition{Name: "dns", OK: true}) {
		t.Errorf("status: %+v", status.Conditions)
	}
}

// TestDNSFromOutside: a host beyond the node gets no answer from a node-local address, by neither protocol.
func TestDNSFromOutside(t *testing.T) {
	n := newNode(t, nstest.Settings{})
	far, err := n.Outside("far", netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8:113::10"))
	if err != nil {
		t.Fatal(err)
	}
	inside := addContainer(t, n, "web", nil)
	for _, server := range nodeLocal() {
		for _, network := range []string{"udp", "tcp"} {
			awaitLookup(t, inside.InNetns, network, server, "cluster.local.", dns.TypeA, "NOERROR")
			if said, err := lookup(far.InNetns, network, server, "cluster.local.", dns.TypeA); err == nil {
				t.Errorf("by %s from %s: %s", network, server, said)
			}
		}
	}
}

// TestDNSInResult: what ADD answers says whom to ask, and how names may be shortened in the container's namespace.
func TestDNSInResult(t *testing.T) {
	n := newNode(t, nstest.Settings{})
	for _, c := range []struct{ version, namespace, want string }{
		{"0.4.0", "", "default"}, {"1.0.0", "shop", "shop"}, {"1.1.0", "shop", "shop"},
	} {
		spec := nstest.Spec{Name: "c" + strings.ReplaceAll(c.version, ".", ""), Namespace: c.namespace, Empty: true}
		box, err := n.NewContainer(spec)
		if err != nil {
			t.Fatal(err)
		}
		list, err := n.Conflist(c.version, nil)
		if err != nil {
			t.Fatal(err)
		}
		rt := box.Runtime()
		if c.namespace != "" {
			rt.Args = append(rt.Args, [2]string{"K8S_POD_NAMESPACE", c.namespace})
		}
		result, err := n.CNI().AddNetworkList(t.Context(), list, rt)
		if err != nil {
			t.Fatal(err)
		}
		r, err := types100.NewResultFromResult(result)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(r.DNS.Nameservers, r.DNS.Search, r.DNS.Options, r.DNS.Domain)
		want := fmt.Sprintf("[169.254.1.53 fd53:6c75:6963:65::53] [%s.svc.cluster.local svc.cluster.local cluster.local] [ndots:5]", c.want)
		if got != want {
			t.Errorf("%s: got %s, want %s", c.version, got, want)
		}
		if err := n.CNI().DelNetworkList(t.Context(), list, rt); err != nil {
			t.Error(err)
		}
	}
}
