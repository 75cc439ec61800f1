package etcd

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/sluice-net/sluice/registry"
)

// openWith opens a store with few node ports and ranges of containers.
func openWith(t testing.TB, o Options) *Store {
	t.Helper()
	o.Run = runDir(t)
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "etcd")
	}
	if o.ServiceCIDRs == nil {
		o.ServiceCIDRs = prefixes(t, "10.96.0.0/24", "fd00::/120")
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !s.closing.Load() {
			s.Close()
		}
	})
	return s
}

// at returns a request for one port of one VIP.
func at(name, vip string, port uint16, protocol registry.Protocol) registry.ServiceRequest {
	req := web(name)
	if vip != "" {
		req.VIPs = addrs(vip)
	}
	req.Ports[0].Port, req.Ports[0].Protocol = port, protocol
	return req
}

// checkOne returns a service as it is stored, nil if it is not, and why a request for it would be refused.
func checkOne(t *testing.T, s *Store, req registry.ServiceRequest) (*registry.Service, error) {
	t.Helper()
	old, refused, err := s.CheckServices(t.Context(), []registry.ServiceRequest{req})
	if err != nil {
		t.Fatal(err)
	}
	return old[0], refused[0]
}

// refused wants a request to be refused for a reason, at a field, by the check and by the write, and nothing to change.
func refused(t *testing.T, s *Store, req registry.ServiceRequest, want error, field, text string) {
	t.Helper()
	before := audit(t, s)
	_, _, err := s.PutService(t.Context(), req)
	_, checked := checkOne(t, s, req)
	for _, err := range []error{err, checked} {
		var f *registry.FieldError
		if !errors.Is(err, want) || !contains(err, text) || !errors.As(err, &f) || f.Field != field {
			t.Errorf("error %v at %+v, want %v at %s with %q", err, f, want, field, text)
		}
	}
	if after := audit(t, s); !reflect.DeepEqual(before, after) {
		t.Errorf("something was changed: %+v became %+v", before, after)
	}
}

// TestSharedVIP: services share an address that they name while their ports are apart, and it is free when the last
// of them is gone.
func TestSharedVIP(t *testing.T) {
	s := openWith(t, Options{})
	first, _ := put(t, s, at("tcp", "", 53, registry.TCP)) // was given its VIP
	vip := first.VIPs[0].String()
	put(t, s, at("udp", vip, 53, registry.UDP))
	put(t, s, at("sctp", vip, 53, registry.SCTP))
	refused(t, s, at("other", vip, 53, registry.UDP), registry.ErrVIPTaken, "spec.clusterIP", "port 53/UDP of "+vip+" belongs to service default/udp")
	outside := web("outside")
	outside.ExternalIPs = addrs(vip)
	refused(t, s, outside, registry.ErrVIPTaken, "spec.externalIPs[0]", vip+" is the VIP of service default/")

	// A port that moves on frees its place, and cannot move to where another is.
	refused(t, s, at("tcp", "", 53, registry.UDP), registry.ErrVIPTaken, "spec.ports[0].port", "port 53/UDP of "+vip)
	if got, _ := put(t, s, at("tcp", "", 80, registry.TCP)); got.VIPs[0] != first.VIPs[0] {
		t.Errorf("VIPs %v, want %s", got.VIPs, vip)
	}
	put(t, s, at("other", vip, 53, registry.TCP))
	audit(t, s)

	for _, name := range []string{"udp", "tcp", "other"} {
		if _, err := s.DeleteService(t.Context(), registry.Name{Namespace: "default", Name: name}); err != nil {
			t.Fatal(err)
		}
		if got := audit(t, s)[registry.Name{Namespace: "default", Name: "sctp"}]; !slices.Equal(got.VIPs, first.VIPs) {
			t.Errorf("after %s is gone, sctp has %v", name, got.VIPs)
		}
	}
	if _, err := s.DeleteService(t.Context(), registry.Name{Namespace: "default", Name: "sctp"}); err != nil {
		t.Fatal(err)
	}
	if kv, err := s.get(t.Context(), vipKey(first.VIPs[0])); err != nil || kv != nil {
		t.Errorf("%s is left, %v", kv, err)
	}
}

// TestVIPOfOlderAgent: an address whose key holds a name only, as it was written before addresses were shared.
func TestVIPOfOlderAgent(t *testing.T) {
	s := openWith(t, Options{})
	old, _ := put(t, s, at("old", "10.96.0.9", 80, registry.TCP))
	b, err := json.Marshal(old.Name)
	if err != nil {
		t.Fatal(err)
	}
	age := func() {
		if _, err := s.client.Put(t.Context(), vipKey(old.VIPs[0]), string(b)); err != nil {
			t.Fatal(err)
		}
	}
	age()
	refused(t, s, at("new", "10.96.0.9", 80, registry.TCP), registry.ErrVIPTaken, "spec.clusterIP", "port 80/TCP of 10.96.0.9 belongs to service default/old")
	put(t, s, at("new", "10.96.0.9", 81, registry.TCP))
	audit(t, s)
	if _, err := s.DeleteService(t.Context(), registry.Name{Namespace: "default", Name: "new"}); err != nil {
		t.Fatal(err)
	}
	age()
	put(t, s, at("old", "", 90, registry.TCP))
	put(t, s, at("new", "10.96.0.9", 80, registry.TCP))
	age()
	if _, err := s.DeleteService(t.Context(), old.Name); err != nil {
		t.Fatal(err)
	}
	// A key that nobody can read keeps the address from being given away, but not its service from being deleted.
	if _, err := s.client.Put(t.Context(), vipKey(addr("10.96.0.77")), "what?"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.PutService(t.Context(), at("x", "10.96.0.77", 80, registry.TCP)); !errors.Is(err, errHolders) {
		t.Errorf("an unreadable key: %v", err)
	}
	svc, _ := put(t, s, at("y", "10.96.0.78", 80, registry.TCP))
	if _, err := s.client.Put(t.Context(), vipKey(addr("10.96.0.78")), "what?"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteService(t.Context(), svc.Name); err != nil {
		t.Error(err)
	}
}

// TestRealAddresses: no service gets an address of a container or a node, nor one that a container may get.
func TestRealAddresses(t *testing.T) {
	s := openWith(t, Options{ContainerCIDRs: prefixes(t, "10.244.0.0/24", "fd00:10::/64"), ServiceCIDRs: prefixes(t, "10.96.0.0/29", "fd00::/120")})
	e := endpoint(1)
	e.Addresses = addrs("10.96.0.2", "203.0.113.7") // of a range that was configured before
	if _, err := s.PutEndpoint(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutNode(t.Context(), registry.Node{Name: "n1", Addresses: addrs("192.0.2.1", "2001:db8::1")}); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"10.244.0.9":  "10.244.0.9 lies in the containers' range 10.244.0.0/24",
		"fd00:10::9":  "fd00:10::9 lies in the containers' range fd00:10::/64",
		"10.96.0.2":   "10.96.0.2 is an address of container default/w1 on node n1",
		"203.0.113.7": "203.0.113.7 is an address of container default/w1 on node n1",
		"192.0.2.1":   "192.0.2.1 is an address of node n1: type NodePort makes a service reachable there",
		"2001:db8::1": "2001:db8::1 is an address of node n1",
	} {
		req := at("vip", text, 80, registry.TCP)
		refused(t, s, req, registry.ErrVIPTaken, "spec.clusterIP", want)
		req = web("external")
		req.ExternalIPs = addrs("198.51.100.1", text)
		refused(t, s, req, registry.ErrVIPTaken, "spec.externalIPs[1]", want)
		req = web("lb")
		req.Type, req.LoadBalancerIPs = registry.TypeLoadBalancer, addrs(text)
		refused(t, s, req, registry.ErrVIPTaken, "spec.loadBalancerIP", want)
	}
	// Of the six addresses one is a container's and one an external address: four services have a VIP.
	req := web("s0")
	req.ExternalIPs = addrs("10.96.0.1")
	put(t, s, req)
	for i := range 3 {
		put(t, s, web(fmt.Sprint("s", i+1)))
	}
	if _, _, err := s.PutService(t.Context(), web("s5")); !errors.Is(err, registry.ErrVIPsExhausted) {
		t.Errorf("the container's address is given away: %v", err)
	}
	if _, err := s.DeleteEndpoint(t.Context(), e.EndpointID); err != nil {
		t.Fatal(err)
	}
	if got, _ := put(t, s, web("s5")); got.VIPs[0] != addr("10.96.0.2") {
		t.Errorf("VIP %v, want the one that the container had", got.VIPs)
	}
	audit(t, s)
}

// TestRangeOverServices: a range of containers that is laid over addresses of services is told of, and takes none away.
func TestRangeOverServices(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	s := openWith(t, Options{Dir: dir})
	req := web("web")
	req.ExternalIPs = addrs("198.51.100.1")
	put(t, s, req)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var logs logBuffer
	s = openWith(t, Options{Dir: dir, ContainerCIDRs: prefixes(t, "198.51.100.0/24"), Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	if !strings.Contains(logs.String(), "address=198.51.100.1") {
		t.Errorf("the log does not name the address:\n%s", logs.String())
	}
	req.Ports[0].TargetPort = 9090
	put(t, s, req)
	audit(t, s)
}

func nodePortsOf(s registry.Service) (list []uint16) {
	for _, p := range s.Ports {
		list = append(list, p.NodePort)
	}
	return list
}

func TestNodePorts(t *testing.T) {
	s := openWith(t, Options{NodePorts: PortRange{30000, 30003}})
	req := web("web")
	req.Type = registry.TypeNodePort
	req.Ports = []registry.ServicePort{
		{Name: "tcp", Protocol: registry.TCP, Port: 53, TargetPort: 53},
		{Name: "udp", Protocol: registry.UDP, Port: 53, TargetPort: 53},
		{Name: "web", Protocol: registry.TCP, Port: 80, TargetPort: 80},
	}
	first, rev := put(t, s, req)
	ports := nodePortsOf(first)
	if ports[0] == 0 || ports[1] != ports[0] || ports[2] == ports[0] || ports[2] == 0 {
		t.Errorf("node ports %v: want one for both protocols of port 53, and another", ports)
	}
	if again, rev2 := put(t, s, req); !reflect.DeepEqual(first, again) || rev2 != rev {
		t.Errorf("written again: %+v at %d, want %+v at %d", again, rev2, first, rev)
	}
	if req.Ports[0].NodePort != 0 {
		t.Error("the request was changed")
	}
	// A port keeps its node port by its number or by its name; another order makes no difference.
	slices.Reverse(req.Ports)
	req.Ports[0].Port = 8080
	if got := nodePortsOf(first2(put(t, s, req))); !slices.Equal(got, []uint16{ports[2], ports[1], ports[0]}) {
		t.Errorf("node ports %v became %v", ports, got)
	}
	other := web("other")
	other.Type = registry.TypeNodePort
	other.Ports[0].NodePort = ports[2]
	refused(t, s, other, registry.ErrNodePortTaken, "spec.ports[0].nodePort", fmt.Sprintf("%d/TCP belongs to service default/web", ports[2]))
	other.Ports[0].NodePort = 30004
	refused(t, s, other, registry.ErrNodePortOutOfRange, "spec.ports[0].nodePort", "30004 (services.nodePorts: 30000-30003)")
	other.Ports[0].Protocol, other.Ports[0].NodePort = registry.SCTP, ports[2]
	put(t, s, other)

	for i := range 2 { // two of four are left for TCP
		more := web(fmt.Sprint("more", i))
		more.Type = registry.TypeLoadBalancer
		put(t, s, more)
	}
	full := web("full")
	full.Type = registry.TypeNodePort
	if _, _, err := s.PutService(t.Context(), full); !errors.Is(err, registry.ErrNodePortsExhausted) || !contains(err, "services.nodePorts") {
		t.Errorf("a full range: %v", err)
	}
	full.Type, full.NoNodePorts = registry.TypeLoadBalancer, true
	if got, _ := put(t, s, full); got.Ports[0].NodePort != 0 {
		t.Errorf("%+v has a node port that it did not want", got)
	}
	// Another type gives them up, and so does being deleted.
	req.Type = registry.TypeClusterIP
	if got := nodePortsOf(first2(put(t, s, req))); !slices.Equal(got, []uint16{0, 0, 0}) {
		t.Errorf("node ports %v of a service that has none", got)
	}
	full.NoNodePorts = false
	put(t, s, full)
	for _, n := range slices.Collect(func(yield func(registry.Name) bool) {
		for n := range audit(t, s) {
			if !yield(n) {
				return
			}
		}
	}) {
		if _, err := s.DeleteService(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	audit(t, s)
}

func first2(s registry.Service, _ int64) registry.Service { return s }

// TestNodePortOutsideNewRange: what a service has it keeps, whatever is configured later.
func TestNodePortOutsideNewRange(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	req := web("web")
	req.Type = registry.TypeNodePort
	s := openWith(t, Options{Dir: dir})
	had, _ := put(t, s, req)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openWith(t, Options{Dir: dir, NodePorts: PortRange{20000, 20001}})
	req.Ports[0].TargetPort = 9090
	named := req
	named.Ports = had.Ports // as "get -o yaml" shows it
	for _, req := range []registry.ServiceRequest{req, named} {
		if got, _ := put(t, s, req); got.Ports[0].NodePort != had.Ports[0].NodePort {
			t.Errorf("node port %d, want %d", got.Ports[0].NodePort, had.Ports[0].NodePort)
		}
	}
}

// TestServiceChanges: what a change does not concern stays.
func TestServiceChanges(t *testing.T) {
	s := openWith(t, Options{})
	req := dual("web")
	req.Type = registry.TypeLoadBalancer
	req.ExternalIPs, req.LoadBalancerIPs = addrs("198.51.100.1"), addrs("198.51.100.2", "2001:db8::2")
	first, _ := put(t, s, req)
	for name, edit := range map[string]func(*registry.ServiceRequest){
		"selector":  func(r *registry.ServiceRequest) { r.Selector = nil },
		"affinity":  func(r *registry.ServiceRequest) { r.AffinityTimeout = 5 },
		"algorithm": func(r *registry.ServiceRequest) { r.Algorithm = registry.AlgorithmMaglev },
		"type":      func(r *registry.ServiceRequest) { r.Type = registry.TypeNodePort; r.LoadBalancerIPs = nil },
		"target port": func(r *registry.ServiceRequest) {
			r.Ports = []registry.ServicePort{{Protocol: registry.TCP, Port: 80, TargetName: "http"}}
		},
		"external": func(r *registry.ServiceRequest) { r.ExternalIPs = addrs("198.51.100.3") },
	} {
		changed := req
		edit(&changed)
		got, _ := put(t, s, changed)
		if !slices.Equal(got.VIPs, first.VIPs) || got.Ports[0].NodePort != first.Ports[0].NodePort {
			t.Errorf("%s: VIPs %v and node port %d became %v and %d", name, first.VIPs, first.Ports[0].NodePort, got.VIPs, got.Ports[0].NodePort)
		}
		audit(t, s)
	}
	moved := req
	moved.VIPs = addrs("10.96.0.200")
	if got, _ := put(t, s, moved); got.VIPs[0] != addr("10.96.0.200") || got.VIPs[1] != first.VIPs[1] || got.Ports[0].NodePort != first.Ports[0].NodePort {
		t.Errorf("a VIP that is named: %+v, had %+v", got, first)
	}
	audit(t, s)
	name := registry.ServiceRequest{Service: registry.Service{Name: req.Name, Type: registry.TypeExternalName, ExternalName: "db.example.com"}}
	if got, _ := put(t, s, name); len(got.VIPs) > 0 {
		t.Errorf("an ExternalName has the VIPs %v", got.VIPs)
	}
	audit(t, s)
	if got, _ := put(t, s, req); len(got.VIPs) != 2 || got.Ports[0].NodePort == 0 {
		t.Errorf("no ExternalName any more: %+v", got)
	}
	both := req
	both.Name.Name, both.VIPs, both.ExternalIPs, both.LoadBalancerIPs = "both", addrs("10.96.0.9"), addrs("10.96.0.9"), nil
	if _, _, err := s.PutService(t.Context(), both); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("a VIP that is an external address too: %v", err)
	}
	audit(t, s)
}

func TestInvalidServices(t *testing.T) {
	s := openWith(t, Options{})
	for name, edit := range map[string]func(*registry.ServiceRequest){
		"type":             func(r *registry.ServiceRequest) { r.Type = "Gateway" },
		"algorithm":        func(r *registry.ServiceRequest) { r.Algorithm = "leastconn" },
		"distribution":     func(r *registry.ServiceRequest) { r.Distribution = "PreferFar" },
		"affinity":         func(r *registry.ServiceRequest) { r.AffinityTimeout = registry.MaxAffinityTimeout + 1 },
		"node port":        func(r *registry.ServiceRequest) { r.Ports[0].NodePort = 30000 },
		"external name":    func(r *registry.ServiceRequest) { r.ExternalName = "db.example.com" },
		"no external name": func(r *registry.ServiceRequest) { r.Type = registry.TypeExternalName },
		"name with address": func(r *registry.ServiceRequest) {
			r.Type, r.ExternalName, r.VIPs = registry.TypeExternalName, "x", addrs("10.96.0.1")
		},
		"headless NodePort": func(r *registry.ServiceRequest) { r.Type, r.Headless = registry.TypeNodePort, true },
		"headless external": func(r *registry.ServiceRequest) { r.Headless, r.ExternalIPs = true, addrs("198.51.100.1") },
		"load balancer":     func(r *registry.ServiceRequest) { r.LoadBalancerIPs = addrs("198.51.100.1") },
		"too many":          func(r *registry.ServiceRequest) { r.ExternalIPs = make([]netip.Addr, registry.MaxExternal+1) },
		"zone":              func(r *registry.ServiceRequest) { r.ExternalIPs = addrs("fe80::1%eth0") },
		"node port twice": func(r *registry.ServiceRequest) {
			r.Type = registry.TypeNodePort
			r.Ports = []registry.ServicePort{{Protocol: registry.TCP, Port: 1, TargetPort: 1, NodePort: 30000}, {Protocol: registry.TCP, Port: 2, TargetPort: 2, NodePort: 30000}}
		},
	} {
		req := web("web")
		edit(&req)
		if _, _, err := s.PutService(t.Context(), req); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := audit(t, s); len(got) > 0 {
		t.Errorf("%v were stored", got)
	}
}

// TestHoldingsAtOnce lets writers fight over few addresses, few node ports and few names. Whatever the order, no port of
// an address and no node port ever has two owners, and none leaks.
func TestHoldingsAtOnce(t *testing.T) {
	s := openWith(t, Options{ServiceCIDRs: prefixes(t, "10.96.0.0/29", "fd00::/125"), NodePorts: PortRange{30000, 30005}})
	allowed := []error{
		registry.ErrNotFound, registry.ErrVIPTaken, registry.ErrVIPImmutable, registry.ErrVIPsExhausted, registry.ErrFamily,
		registry.ErrNodePortTaken, registry.ErrNodePortsExhausted, registry.ErrInvalid,
	}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 9))
			for range 60 {
				_, _, err := s.PutService(t.Context(), scramble(r))
				if r.IntN(3) == 0 {
					_, err = s.DeleteService(t.Context(), scramble(r).Name)
				}
				if err != nil && !slices.ContainsFunc(allowed, func(a error) bool { return errors.Is(err, a) }) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	audit(t, s)
}

// scramble makes a request of few names, addresses and ports.
func scramble(r *rand.Rand) registry.ServiceRequest {
	req := web(fmt.Sprint("s", r.IntN(8)))
	req.FamilyPolicy = registry.FamilyPolicy(r.IntN(3))
	req.Ports = nil
	for i := range 1 + r.IntN(3) {
		req.Ports = append(req.Ports, registry.ServicePort{
			Name: fmt.Sprint("p", i), Port: uint16(80 + i + 3*r.IntN(3)), TargetPort: 8080,
			Protocol: []registry.Protocol{registry.TCP, registry.UDP, registry.SCTP}[r.IntN(3)],
		})
	}
	if req.Type = []registry.ServiceType{registry.TypeClusterIP, registry.TypeNodePort, registry.TypeLoadBalancer}[r.IntN(3)]; req.Type != registry.TypeClusterIP && r.IntN(2) == 0 {
		req.Ports[0].NodePort = uint16(30000 + r.IntN(6))
	}
	if r.IntN(2) == 0 {
		req.VIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(1 + r.IntN(6))})}
	}
	if r.IntN(3) == 0 {
		req.ExternalIPs = []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + r.IntN(3))})}
	}
	return req
}

func TestPortRange(t *testing.T) {
	for text, want := range map[string]PortRange{"30000-32767": {30000, 32767}, "1-65535": {1, 65535}, "80": {80, 80}} {
		if got, err := ParsePortRange(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-", "1-", "-1", "0-5", "5-4", "1-65536", "a-b", "1-2-3", " 1-2"} {
		if got, err := ParsePortRange(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
	if _, err := Open(t.Context(), Options{Dir: t.TempDir(), Run: "/r", NodePorts: PortRange{5, 4}}); !contains(err, "node ports: 5-4 is no range") {
		t.Error(err)
	}
}

// TestRealAddressesOfTwo: an address that two have at a time, as when a node gets one of a container, is real until
// both have lost it.
func TestRealAddressesOfTwo(t *testing.T) {
	r := newRealAddresses()
	a := addr("10.244.1.5")
	node := &mvccpb.KeyValue{Key: []byte(nodePrefix + "n1"), Value: []byte(`{"name":"n1","addresses":["10.244.1.5"]}`)}
	container := &mvccpb.KeyValue{Key: []byte(endpointPrefix + "n1/c/eth0"),
		Value: []byte(`{"node":"n1","containerID":"c","interface":"eth0","name":{"namespace":"default","name":"c"},"addresses":["10.244.1.5"]}`)}
	revision := int64(0)
	step := func(kv *mvccpb.KeyValue, deleted bool, want string) {
		t.Helper()
		revision++
		r.apply(revision, false, []*mvccpb.KeyValue{kv}, func(int) bool { return deleted })
		if got := r.owner(a); got != want {
			t.Errorf("%s, deleted %t: the address is %q's, want %q", kv.Key, deleted, got, want)
		}
	}
	step(container, false, "container default/c on node n1")
	step(node, false, "node n1")
	step(node, true, "container default/c on node n1")
	step(node, false, "node n1")
	step(container, true, "node n1")
	step(node, false, "node n1")
	step(node, true, "")
	if len(r.owners)+len(r.byKey) > 0 {
		t.Errorf("left are %v, %v", r.owners, r.byKey)
	}
}

// TestHeld: who has an address is told, whatever else there is.
func TestHeld(t *testing.T) {
	s := open(t, defaultCIDRs...)
	req := web("web")
	req.VIPs, req.ExternalIPs = addrs("10.96.0.7"), addrs("192.0.2.7")
	put(t, s, req)
	other := web("other")
	other.ExternalIPs, other.Ports[0].Port = addrs("192.0.2.7"), 81
	put(t, s, other)
	got, err := s.Held(t.Context(), addrs("192.0.2.7", "192.0.2.8", "10.96.0.7"))
	want := []Held{
		{Addr: addr("192.0.2.7"), Service: req.Name, External: true}, {Addr: addr("192.0.2.7"), Service: other.Name, External: true},
		{Addr: addr("10.96.0.7"), Service: req.Name},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("held are %v, %v; want %v", got, err, want)
	}
	if got, err := s.Held(t.Context(), nil); err != nil || got != nil {
		t.Errorf("of no addresses %v are held, %v", got, err)
	}
	if _, err := s.client.Put(t.Context(), vipKey(addr("192.0.2.8")), "?"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Held(t.Context(), addrs("192.0.2.8")); !errors.Is(err, errHolders) {
		t.Errorf("a value that says nothing: %v", err)
	}
}
