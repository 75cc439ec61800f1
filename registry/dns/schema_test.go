package dns

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/sluice-net/sluice/registry"
)

func name(namespace, n string) registry.Name { return registry.Name{Namespace: namespace, Name: n} }

func container(id string, labels map[string]string, ports []registry.EndpointPort, at ...string) registry.Change {
	return registry.Change{Endpoint: &registry.Endpoint{
		EndpointID: registry.EndpointID{Node: "n1", ContainerID: id, Interface: "eth0"},
		Name:       name("shop", id), Labels: labels, Ports: ports, Addresses: addrs(at...),
	}}
}

// shop is a registry with a service of each kind.
func shop() []registry.Change {
	web := []registry.EndpointPort{{Name: "web", Protocol: registry.TCP, Port: 8080}}
	db := map[string]string{"app": "db"}
	unready := container("db-3", db, web, "10.244.0.13", "fd00::13")
	unready.Endpoint.Unready = true
	leaving := container("db-4", db, web, "10.244.0.14")
	leaving.Endpoint.Terminating = true
	return []registry.Change{
		{Namespace: &registry.Namespace{Name: "empty"}},
		{Service: &registry.Service{Name: name("shop", "web"), VIPs: addrs("10.96.0.1", "fd00:10:96::1"), Selector: map[string]string{"app": "none"},
			Ports: []registry.ServicePort{
				{Name: "http", Protocol: registry.TCP, Port: 80}, {Name: "dns", Protocol: registry.UDP, Port: 53}, {Protocol: registry.TCP, Port: 81}}}},
		{Service: &registry.Service{Name: name("shop", "v4"), VIPs: addrs("10.96.0.2"), Ports: []registry.ServicePort{{Name: "http", Protocol: registry.TCP, Port: 80}}}},
		{Service: &registry.Service{Name: name("shop", "db"), Headless: true, Selector: db,
			Ports: []registry.ServicePort{{Name: "sql", Protocol: registry.TCP, Port: 5432, TargetName: "web"}, {Protocol: registry.UDP, Port: 1, TargetPort: 2}}}},
		{Service: &registry.Service{Name: name("shop", "all"), Headless: true, PublishNotReady: true, Selector: db}},
		{Service: &registry.Service{Name: name("shop", "none"), Headless: true, Selector: map[string]string{"app": "none"}}},
		{Service: &registry.Service{Name: name("shop", "out"), Type: registry.TypeExternalName, ExternalName: "Example.ORG"}},
		{Service: &registry.Service{Name: name("shop", "alias"), Type: registry.TypeExternalName, ExternalName: "web.shop.svc.cluster.local"}},
		{Service: &registry.Service{Name: name("shop", "twice"), Type: registry.TypeExternalName, ExternalName: "alias.shop.svc.cluster.local"}},
		{Service: &registry.Service{Name: name("shop", "circle"), Type: registry.TypeExternalName, ExternalName: "circle.shop.svc.cluster.local"}},
		{Service: &registry.Service{Name: name("shop", "dangling"), Type: registry.TypeExternalName, ExternalName: "no.shop.svc.cluster.local"}},
		container("db-1", db, web, "10.244.0.11", "fd00::11"), container("db-2", db, web, "10.244.0.12"), unready, leaving,
		{Service: &registry.Service{Name: name("shop", "hosts"), Headless: true, Ports: []registry.ServicePort{{Name: "p", Protocol: registry.TCP, Port: 1}}}},
		{Slice: &registry.Slice{Name: name("shop", "hosts-4"), Service: "hosts", Family: registry.IPv4,
			Ports: []registry.EndpointPort{{Name: "p", Protocol: registry.TCP, Port: 7}},
			Endpoints: []registry.SliceEndpoint{
				{Addresses: addrs("192.0.2.1"), Hostname: "a", Ready: true}, {Addresses: addrs("192.0.2.2"), Hostname: "a", Ready: true},
				{Addresses: addrs("192.0.2.3"), Ready: true}, {Addresses: addrs("192.0.2.4"), Hostname: "b"}}}},
		{Service: &registry.Service{Name: name("shop", "reg"), VIPs: addrs("10.96.0.9"), Ports: []registry.ServicePort{{Name: "http", Protocol: registry.TCP, Port: 80, TargetName: "http"}}}},
		{Instance: &registry.Instance{InstanceID: registry.InstanceID{Namespace: "shop", Service: "reg", ID: "Host_1:reg:80"}, Status: registry.InstanceUp,
			Addresses: addrs("192.0.2.21"), Ports: []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8000}}}},
		{Instance: &registry.Instance{InstanceID: registry.InstanceID{Namespace: "shop", Service: "reg", ID: "down"}, Status: registry.InstanceDown, Addresses: addrs("192.0.2.22")}},
		{Instance: &registry.Instance{InstanceID: registry.InstanceID{Namespace: "shop", Service: "reg", ID: "ill"}, Status: registry.InstanceUp, Addresses: addrs("192.0.2.23")}},
		{Health: &registry.InstanceHealth{InstanceID: registry.InstanceID{Namespace: "shop", Service: "reg", ID: "ill"}}},
	}
}

const (
	soa      = "ns cluster.local. SOA 5"
	noData   = "NOERROR\n" + soa
	nxDomain = "NXDOMAIN\n" + soa
	webGlue  = "+ web.shop.svc.cluster.local. 5 A 10.96.0.1\n+ web.shop.svc.cluster.local. 5 AAAA fd00:10:96::1"
)

// TestSchema asks for every kind of name that there is, by UDP and TCP.
func TestSchema(t *testing.T) {
	r := newRig(t, Options{})
	r.tell(t, true, shop()...)
	for _, c := range []struct {
		name  string // below cluster.local.
		qtype uint16
		want  string // without the name's own name
	}{
		{"", dns.TypeSOA, "NOERROR\n@ SOA 5"},
		{"", dns.TypeNS, "NOERROR\n@ 5 NS ns.dns.cluster.local.\n+ ns.dns.cluster.local. 5 A 169.254.1.53\n+ ns.dns.cluster.local. 5 AAAA fd53:6c75:6963:65::53"},
		{"", dns.TypeA, noData}, {"svc", dns.TypeA, noData}, {"shop.svc", dns.TypeTXT, noData}, {"empty.svc", dns.TypeA, noData}, {"default.svc", dns.TypeA, noData},
		{"nowhere.svc", dns.TypeA, nxDomain}, {"x", dns.TypeA, nxDomain}, {"pod", dns.TypeA, nxDomain}, {"10-244-0-11.shop.pod", dns.TypeA, nxDomain},
		{"dns-version", dns.TypeTXT, "NOERROR\n@ 28800 TXT \"1.1.0\""}, {"dns-version", dns.TypeA, noData}, {"x.dns-version", dns.TypeTXT, nxDomain},
		{"dns", dns.TypeA, noData}, {"ns.dns", dns.TypeA, "NOERROR\n@ 5 A 169.254.1.53"}, {"ns.dns", dns.TypeMX, noData}, {"x.dns", dns.TypeA, nxDomain}, {"a.ns.dns", dns.TypeA, nxDomain},

		{"web.shop.svc", dns.TypeA, "NOERROR\n@ 5 A 10.96.0.1"}, {"web.shop.svc", dns.TypeAAAA, "NOERROR\n@ 5 AAAA fd00:10:96::1"},
		{"WeB.Shop.sVc", dns.TypeA, "NOERROR\n@ 5 A 10.96.0.1"},
		{"web.shop.svc", dns.TypeTXT, noData}, {"web.shop.svc", dns.TypeANY, noData}, {"web.shop.svc", dns.TypeCNAME, noData}, {"v4.shop.svc", dns.TypeAAAA, noData},
		{"web.empty.svc", dns.TypeA, nxDomain}, {"no.shop.svc", dns.TypeAAAA, nxDomain}, {"x.web.shop.svc", dns.TypeA, nxDomain}, {"a.b.c.web.shop.svc", dns.TypeA, nxDomain},
		{"_http._tcp.web.shop.svc", dns.TypeSRV, "NOERROR\n@ 5 SRV 0 100 80 web.shop.svc.cluster.local.\n" + webGlue},
		{"_dns._udp.web.shop.svc", dns.TypeSRV, "NOERROR\n@ 5 SRV 0 100 53 web.shop.svc.cluster.local.\n" + webGlue},
		{"web.shop.svc", dns.TypeSRV, "NOERROR\n@ 5 SRV 0 33 53 web.shop.svc.cluster.local.\n@ 5 SRV 0 33 80 web.shop.svc.cluster.local.\n@ 5 SRV 0 33 81 web.shop.svc.cluster.local.\n" + webGlue},
		{"_http._tcp.web.shop.svc", dns.TypeA, noData}, {"_tcp.web.shop.svc", dns.TypeSRV, noData}, {"_sctp.web.shop.svc", dns.TypeSRV, nxDomain},
		{"_http._udp.web.shop.svc", dns.TypeSRV, nxDomain}, {"_no._tcp.web.shop.svc", dns.TypeSRV, nxDomain}, {"_._tcp.web.shop.svc", dns.TypeSRV, nxDomain}, {"http._tcp.web.shop.svc", dns.TypeSRV, nxDomain},

		{"db.shop.svc", dns.TypeA, "NOERROR\n@ 5 A 10.244.0.11\n@ 5 A 10.244.0.12"}, {"db.shop.svc", dns.TypeAAAA, "NOERROR\n@ 5 AAAA fd00::11"},
		{"all.shop.svc", dns.TypeA, "NOERROR\n@ 5 A 10.244.0.11\n@ 5 A 10.244.0.12\n@ 5 A 10.244.0.13\n@ 5 A 10.244.0.14"},
		{"none.shop.svc", dns.TypeA, nxDomain}, {"db.shop.svc", dns.TypeMX, noData},
		{"10-244-0-11.db.shop.svc", dns.TypeA, "NOERROR\n@ 5 A 10.244.0.11"}, {"10-244-0-11.db.shop.svc", dns.TypeAAAA, noData},
		{"fd00--11.db.shop.svc", dns.TypeAAAA, "NOERROR\n@ 5 AAAA fd00::11"}, {"10-244-0-13.db.shop.svc", dns.TypeA, nxDomain}, {"10-244-0-13.all.shop.svc", dns.TypeA, "NOERROR\n@ 5 A 10.244.0.13"},
		{"_sql._tcp.db.shop.svc", dns.TypeSRV, "NOERROR\n@ 5 SRV 0 33 8080 10-244-0-11.db.shop.svc.cluster.local.\n@ 5 SRV 0 33 8080 10-244-0-12.db.shop.svc.cluster.local.\n@ 5 SRV 0 33 8080 fd00--11.db.shop.svc.cluster.local.\n" +
			"+ 10-244-0-11.db.shop.svc.cluster.local. 5 A 10.244.0.11\n+ 10-244-0-12.db.shop.svc.cluster.local. 5 A 10.244.0.12\n+ fd00--11.db.shop.svc.cluster.local. 5 AAAA fd00::11"},
		{"hosts.shop.svc", dns.TypeA, "NOERROR\n@ 5 A 192.0.2.1\n@ 5 A 192.0.2.2\n@ 5 A 192.0.2.3"}, {"a.hosts.shop.svc", dns.TypeA, "NOERROR\n@ 5 A 192.0.2.1\n@ 5 A 192.0.2.2"},
		{"b.hosts.shop.svc", dns.TypeA, nxDomain}, {"192-0-2-3.hosts.shop.svc", dns.TypeA, "NOERROR\n@ 5 A 192.0.2.3"},
		{"_p._tcp.hosts.shop.svc", dns.TypeSRV, "NOERROR\n@ 5 SRV 0 50 7 192-0-2-3.hosts.shop.svc.cluster.local.\n@ 5 SRV 0 50 7 a.hosts.shop.svc.cluster.local.\n" +
			"+ 192-0-2-3.hosts.shop.svc.cluster.local. 5 A 192.0.2.3\n+ a.hosts.shop.svc.cluster.local. 5 A 192.0.2.1\n+ a.hosts.shop.svc.cluster.local. 5 A 192.0.2.2"},
		{"reg.shop.svc", dns.TypeA, "NOERROR\n@ 5 A 10.96.0.9"}, {"host-1-reg-80.reg.shop.svc", dns.TypeA, "NOERROR\n@ 5 A 192.0.2.21"},
		{"down.reg.shop.svc", dns.TypeA, nxDomain}, {"ill.reg.shop.svc", dns.TypeA, nxDomain},

		{"out.shop.svc", dns.TypeCNAME, "NOERROR\n@ 5 CNAME Example.ORG."}, {"out.shop.svc", dns.TypeA, "NOERROR\n@ 5 CNAME Example.ORG."}, {"x.out.shop.svc", dns.TypeA, nxDomain},
		{"alias.shop.svc", dns.TypeA, "NOERROR\n@ 5 CNAME web.shop.svc.cluster.local.\nweb.shop.svc.cluster.local. 5 A 10.96.0.1"},
		{"twice.shop.svc", dns.TypeA, "NOERROR\n@ 5 CNAME alias.shop.svc.cluster.local.\nalias.shop.svc.cluster.local. 5 CNAME web.shop.svc.cluster.local.\nweb.shop.svc.cluster.local. 5 A 10.96.0.1"},
		{"circle.shop.svc", dns.TypeA, "SERVFAIL"}, {"circle.shop.svc", dns.TypeCNAME, "NOERROR\n@ 5 CNAME circle.shop.svc.cluster.local."},
		{"dangling.shop.svc", dns.TypeA, "NXDOMAIN\n@ 5 CNAME no.shop.svc.cluster.local.\n" + soa},
	} {
		full := strings.TrimPrefix(c.name+".cluster.local.", ".")
		want := strings.ReplaceAll(c.want, "@", full)
		for _, network := range []string{"udp", "tcp"} {
			m := r.query(t, network, full, c.qtype)
			if got := sorted(show(m)); got != sorted(want) {
				t.Errorf("%s %s %s:\n%s\nwant\n%s", network, full, dns.TypeToString[c.qtype], got, want)
			}
			if m.Rcode != dns.RcodeServerFailure && !m.Authoritative || m.RecursionAvailable {
				t.Errorf("%s: AA %t, RA %t", full, m.Authoritative, m.RecursionAvailable)
			}
		}
	}
}

// sorted puts the lines after the first in order: records of one section may come in any.
func sorted(text string) string {
	first, rest, _ := strings.Cut(text, "\n")
	lines := strings.Split(rest, "\n")
	slices.Sort(lines)
	return first + "\n" + strings.Join(lines, "\n")
}

// TestReverse: VIPs first, then what stands behind services, a name for each.
func TestReverse(t *testing.T) {
	r := newRig(t, Options{})
	r.tell(t, true, shop()...)
	for addr, want := range map[string]string{
		"10.96.0.1": "NOERROR\n@ 5 PTR web.shop.svc.cluster.local.", "fd00:10:96::1": "NOERROR\n@ 5 PTR web.shop.svc.cluster.local.",
		"10.96.0.99": "NXDOMAIN\nns in-addr.arpa. SOA 5", "fd00:10:96::99": "NXDOMAIN\nns ip6.arpa. SOA 5",
		"10.244.0.11": "NOERROR\n@ 5 PTR 10-244-0-11.all.shop.svc.cluster.local.\n@ 5 PTR 10-244-0-11.db.shop.svc.cluster.local.",
		"10.244.0.13": "NOERROR\n@ 5 PTR 10-244-0-13.all.shop.svc.cluster.local.",
		"fd00::11":    "NOERROR\n@ 5 PTR fd00--11.all.shop.svc.cluster.local.\n@ 5 PTR fd00--11.db.shop.svc.cluster.local.",
		"192.0.2.2":   "NOERROR\n@ 5 PTR a.hosts.shop.svc.cluster.local.", "192.0.2.21": "NOERROR\n@ 5 PTR host-1-reg-80.reg.shop.svc.cluster.local.",
		"192.0.2.99": "REFUSED", "169.254.1.53": "NOERROR\n@ 5 PTR ns.dns.cluster.local.",
	} {
		reversed, err := dns.ReverseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := show(r.query(t, "udp", reversed, dns.TypePTR)), strings.ReplaceAll(want, "@", reversed); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", addr, got, want)
		}
	}
	known, _ := dns.ReverseAddr("10.96.0.1")
	if got := show(r.query(t, "udp", known, dns.TypeA)); got != "NOERROR\nns in-addr.arpa. SOA 5" {
		t.Errorf("A of a reverse name: %s", got)
	}
	for _, odd := range []string{"in-addr.arpa.", "1.96.10.in-addr.arpa.", "01.0.96.10.in-addr.arpa.", "256.0.96.10.in-addr.arpa.", "x.ip6.arpa.", "ip6.arpa."} {
		if got := show(r.query(t, "udp", odd, dns.TypePTR)); got != "REFUSED" {
			t.Errorf("%s: %s", odd, got)
		}
	}
}

// TestUnsynced: before the registry has told anything, nobody is told that a name does not exist.
func TestUnsynced(t *testing.T) {
	r := newRig(t, Options{})
	vip, _ := dns.ReverseAddr("10.96.0.1")
	for _, n := range []string{"web.shop.svc.cluster.local.", "cluster.local.", vip} {
		if got := show(r.query(t, "udp", n, dns.TypeA)); got != "SERVFAIL" {
			t.Errorf("%s: %s", n, got)
		}
	}
	if got := show(r.query(t, "udp", "example.org.", dns.TypeA)); got != "REFUSED" {
		t.Errorf("another name: %s", got)
	}
	if r.Health() == nil {
		t.Error("it says that all is well")
	}
	r.tell(t, true, shop()...)
	if err := r.Health(); err != nil {
		t.Error(err)
	}
}
