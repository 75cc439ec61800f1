package kube

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

const everything = `
apiVersion: v1
kind: Service
metadata:
  name: web
  annotations: {sluice.net/algorithm: maglev, sluice.net/eureka: vip, service.kubernetes.io/topology-mode: Disabled, other: x}
spec:
  type: LoadBalancer
  selector: {}
  clusterIP: 10.96.0.7
  externalIPs: [192.0.2.1, "2001:db8::1"]
  loadBalancerIP: 192.0.2.2
  allocateLoadBalancerNodePorts: false
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  trafficDistribution: PreferClose
  publishNotReadyAddresses: true
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}
  ports:
  - {name: dns, port: 53, protocol: UDP, targetPort: dns, nodePort: 30053}
  - {name: dns-tcp, port: 53, targetPort: 5353}
  - {name: dns-sctp, port: 53, protocol: SCTP}
status:
  conditions: [{anything: goes}]
  loadBalancer: {ingress: [{ip: 192.0.2.2}, {hostname: x}, {ip: 192.0.2.3, ipMode: Proxy}, {ip: "2001:db8::2", ipMode: VIP}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: ExternalName, externalName: db.example.com.}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {type: NodePort, sessionAffinity: ClientIP, trafficDistribution: PreferSameNode, ports: [{port: 80}]}
`

const endpoints = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1.x
  namespace: shop
  labels: {kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: me}
  annotations: {sluice.net/weight: "0"}
  ownerReferences:
  - {apiVersion: apps/v1, kind: Deployment, name: web, uid: x}
  - {apiVersion: v1, kind: Service, name: web, uid: 0f5c, controller: true, blockOwnerDeletion: true}
addressType: IPv6
ports: [{name: http, port: 8080, appProtocol: h2c}, {port: 53, protocol: UDP}]
endpoints:
- {addresses: ["2001:db8::1", "2001:db8::2"]}
- {addresses: ["2001:db8::3"], conditions: {ready: false}, nodeName: n1, zone: z1, hostname: x, hints: {forZones: [{name: z2}]}}
- {addresses: ["2001:db8::4"], conditions: {ready: false, serving: true, terminating: true}, targetRef: {kind: Pod, name: x}}
- {addresses: ["2001:db8::5"], conditions: {ready: null, serving: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: none
  labels: {kubernetes.io/service-name: web}
  ownerReferences: [{apiVersion: v1, kind: Service, name: other, uid: x}, {apiVersion: v1, kind: Endpoints, name: web, uid: x}]
addressType: IPv4
endpoints: []
ports: []
`

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// TestParseService: every word of a Service arrives where it belongs.
func TestParseService(t *testing.T) {
	objects, err := Parse([]byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	want := []registry.ServiceRequest{
		{
			Service: registry.Service{
				Name: registry.Name{Namespace: "default", Name: "web"}, Type: registry.TypeLoadBalancer,
				VIPs:        addrs("10.96.0.7"),
				ExternalIPs: addrs("192.0.2.1", "2001:db8::1"), LoadBalancerIPs: addrs("192.0.2.2", "2001:db8::2"),
				Ports: []registry.ServicePort{
					{Name: "dns", Protocol: registry.UDP, Port: 53, TargetName: "dns", NodePort: 30053},
					{Name: "dns-tcp", Protocol: registry.TCP, Port: 53, TargetPort: 5353},
					{Name: "dns-sctp", Protocol: registry.SCTP, Port: 53, TargetPort: 53},
				},
				AffinityTimeout: 600, InternalLocal: true, ExternalLocal: true, Distribution: registry.PreferSameZone,
				PublishNotReady: true, Algorithm: registry.AlgorithmMaglev, Eureka: registry.EurekaVIP,
			},
			NoNodePorts: true,
		},
		{Service: registry.Service{
			Name: registry.Name{Namespace: "shop", Name: "outside"}, Type: registry.TypeExternalName, ExternalName: "db.example.com.",
		}},
		{Service: registry.Service{
			Name: registry.Name{Namespace: "default", Name: "sticky"}, Type: registry.TypeNodePort,
			Ports:           []registry.ServicePort{{Protocol: registry.TCP, Port: 80, TargetPort: 80}},
			AffinityTimeout: 10800, Distribution: registry.PreferSameNode,
		}},
	}
	for i, o := range objects {
		if !reflect.DeepEqual(*o.Service, want[i]) {
			t.Errorf("parsed\n%+v\nwant\n%+v", *o.Service, want[i])
		}
		sameAgain(t, o)
	}
}

func TestParseSlices(t *testing.T) {
	objects, err := Parse([]byte(endpoints))
	if err != nil {
		t.Fatal(err)
	}
	zero := new(uint16)
	want := []registry.Slice{
		{
			Name: registry.Name{Namespace: "shop", Name: "web-1.x"}, Service: "web", Owned: true, Family: registry.IPv6,
			Ports: []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}, {Protocol: registry.UDP, Port: 53}},
			Endpoints: []registry.SliceEndpoint{
				{Addresses: addrs("2001:db8::1", "2001:db8::2"), Weight: zero, Ready: true, Serving: true},
				{Addresses: addrs("2001:db8::3"), Weight: zero, Node: "n1", Zone: "z1", Hostname: "x"},
				{Addresses: addrs("2001:db8::4"), Weight: zero, Serving: true, Terminating: true},
				{Addresses: addrs("2001:db8::5"), Weight: zero, Ready: true},
			},
		},
		{Name: registry.Name{Namespace: "default", Name: "none"}, Service: "web", Family: registry.IPv4},
	}
	for i, o := range objects {
		if !reflect.DeepEqual(*o.Slice, want[i]) {
			t.Errorf("parsed\n%+v\nwant\n%+v", *o.Slice, want[i])
		}
		if id := (ID{Kind: EndpointSlice, Name: want[i].Name}); o.ID() != id {
			t.Errorf("id %s, want %s", o.ID(), id)
		}
		sameAgain(t, o)
	}
}

func TestParseSliceBounds(t *testing.T) {
	for _, n := range []int{registry.MaxSliceEndpoints, registry.MaxSliceEndpoints + 1} {
		text := "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, labels: {kubernetes.io/service-name: x}}, addressType: IPv4, ports: [], endpoints: ["
		for i := range n {
			text += fmt.Sprintf("{addresses: [10.0.%d.%d]},", i/250, i%250+1)
		}
		objects, err := Parse([]byte(text + "]}"))
		if (err == nil) != (n <= registry.MaxSliceEndpoints) {
			t.Errorf("%d endpoints: %v", n, err)
		}
		for _, o := range objects {
			if len(o.Slice.Endpoints) != n {
				t.Errorf("%d endpoints, want %d", len(o.Slice.Endpoints), n)
			}
		}
	}
}

func (r random) coin() bool { return r.IntN(2) == 0 }

// service makes a service that a store could hold.
func (r random) service() registry.Service {
	s := registry.Service{
		Name: registry.Name{Namespace: "shop", Name: "web"}, PublishNotReady: r.coin(), InternalLocal: r.coin(),
		Type:         []registry.ServiceType{registry.TypeClusterIP, registry.TypeNodePort, registry.TypeLoadBalancer, registry.TypeExternalName}[r.IntN(4)],
		Distribution: []registry.Distribution{registry.DistributeEvenly, registry.PreferSameZone, registry.PreferSameNode}[r.IntN(3)],
		Algorithm:    append(registry.Algorithms(), registry.AlgorithmDefault)[r.IntN(3)],
		Eureka:       []registry.EurekaView{registry.EurekaInstances, registry.EurekaVIP}[r.IntN(2)],
	}
	if r.coin() {
		s.Labels, s.Selector = map[string]string{"example.com/a": ""}, map[string]string{"app": "true"}
	}
	if r.coin() {
		s.AffinityTimeout = 1 + r.Uint32N(registry.MaxAffinityTimeout)
	}
	r.serviceAddresses(&s)
	ports := r.IntN(4)
	if len(s.VIPs) > 0 {
		ports++
	}
	for i := range ports {
		p := registry.ServicePort{
			Name: fmt.Sprint("p", i), Protocol: []registry.Protocol{registry.TCP, registry.UDP, registry.SCTP}[r.IntN(3)],
			Port: uint16(1 + i + r.IntN(2)*1000*i), TargetPort: uint16(1 + r.IntN(65535)),
		}
		if r.coin() {
			p.TargetPort, p.TargetName = 0, "http-alt"
		}
		if hasNodePorts(s.Type) && r.coin() {
			p.NodePort = uint16(30000 + i)
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

func (r random) serviceAddresses(s *registry.Service) {
	switch {
	case s.Type == registry.TypeExternalName:
		s.ExternalName = []string{"db.example.com", "db.example.com.", "localhost"}[r.IntN(3)]
		return
	case s.Type == registry.TypeClusterIP && r.IntN(4) == 0:
		s.Headless = true
		s.Families = [][]registry.Family{nil, {registry.IPv6}, {registry.IPv6, registry.IPv4}}[r.IntN(3)]
		s.FamilyPolicy = registry.FamilyPolicy(r.IntN(3))
		if len(s.Families) > 1 {
			s.FamilyPolicy = max(s.FamilyPolicy, registry.PreferDualStack)
		}
		return
	}
	s.VIPs = addrs("10.96.0.1", "fd00::1")
	if r.coin() {
		slices.Reverse(s.VIPs)
	}
	s.VIPs = s.VIPs[:1+r.IntN(2)]
	s.FamilyPolicy = registry.FamilyPolicy(r.IntN(2) + len(s.VIPs) - 1)
	if r.coin() {
		s.ExternalIPs = addrs("192.0.2.1", "2001:db8::1")
	}
	if s.Type == registry.TypeLoadBalancer && r.coin() {
		s.LoadBalancerIPs = addrs("2001:db8::2", "192.0.2.2")
	}
	s.ExternalLocal = r.coin() && (hasNodePorts(s.Type) || len(s.ExternalIPs) > 0)
}

func (r random) slice() registry.Slice {
	s := registry.Slice{Name: registry.Name{Namespace: "shop", Name: "web.1"}, Service: "web", Owned: r.coin(), Family: registry.IPv4}
	if r.coin() {
		s.Family = registry.IPv6
	}
	var weight *uint16
	if r.coin() {
		w := uint16(r.IntN(registry.MaxWeight + 1))
		weight = &w
	}
	for i := range r.IntN(3) {
		s.Ports = append(s.Ports, registry.EndpointPort{
			Name: []string{"", "http", "1"}[i], Protocol: []registry.Protocol{registry.TCP, registry.UDP, registry.SCTP}[r.IntN(3)], Port: uint16(1 + r.IntN(65535)),
		})
	}
	for range r.IntN(4) {
		e := registry.SliceEndpoint{Weight: weight, Ready: r.coin(), Serving: r.coin(), Terminating: r.coin()}
		if r.coin() {
			e.Node, e.Zone = "n1.example.com", "z_1"
		}
		for i := range 1 + r.IntN(2) {
			a := netip.AddrFrom4([4]byte{10, 1, byte(r.IntN(256)), byte(1 + i)})
			if s.Family == registry.IPv6 {
				a = netip.AddrFrom16([16]byte{0xfd, 14: byte(r.IntN(256)), 15: byte(i)})
			}
			e.Addresses = append(e.Addresses, a)
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// TestRenderServices: every service and slice that a store can hold is read back as the same from its YAML.
func TestRenderServices(t *testing.T) {
	r := random{rand.New(rand.NewPCG(3, 4))}
	for range 1000 {
		service, slice := r.service(), r.slice()
		sameAgain(t, Object{Service: &registry.ServiceRequest{Service: service}})
		sameAgain(t, Object{Slice: &slice})
		if t.Failed() {
			return
		}
	}
}

// TestFamilyPolicy: a policy that is not given is what Kubernetes makes it, and shown so.
func TestFamilyPolicy(t *testing.T) {
	for spec, want := range map[string]string{
		"selector: {a: b}": "SingleStack []",
		"selector: {a: b}, ipFamilyPolicy: PreferDualStack":           "PreferDualStack []",
		"selector: {a: b}, clusterIPs: [10.96.0.1, 'fd00::1']":        "RequireDualStack [IPv4 IPv6]",
		"selector: {a: b}, clusterIP: None":                           "SingleStack []",
		"selector: {a: b}, clusterIP: None, ipFamilies: [IPv6]":       "SingleStack [IPv6]",
		"selector: {a: b}, clusterIP: None, ipFamilies: [IPv6, IPv4]": "RequireDualStack [IPv6 IPv4]",
		"clusterIP: None": "RequireDualStack []",
		"clusterIP: None, ipFamilyPolicy: SingleStack":                                                      "SingleStack []",
		"selector: {a: b}, clusterIP: 'fd00::1', ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6, IPv4]": "PreferDualStack [IPv6 IPv4]",
	} {
		objects, err := Parse([]byte("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}], " + spec + "}}"))
		if err != nil {
			t.Fatalf("%s: %v", spec, err)
		}
		shown := ToService(objects[0].Service.Service).Spec
		if got := fmt.Sprint(*shown.IPFamilyPolicy, " ", shown.IPFamilies); got != want {
			t.Errorf("%s is shown as %s, want %s", spec, got, want)
		}
	}
	old := registry.Service{Name: registry.Name{Namespace: "default", Name: "old"}, VIPs: addrs("10.96.0.1", "fd00::1")}
	if got := *ToService(old).Spec.IPFamilyPolicy; got != "RequireDualStack" {
		t.Errorf("two VIPs without a policy are shown as %s", got)
	}
}
