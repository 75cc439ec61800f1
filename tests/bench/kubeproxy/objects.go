package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

const namespace = "bench"

// backends are how many each of the other services has. Nothing is at their addresses.
const backends = 4

// serviceRanges are what VIPs are taken from, as kubeadm has it.
var serviceRanges = []string{"10.96.0.0/12", "fd00:10:96::/108"}

// object is a service with its backends, as the API server would tell of it.
type object struct {
	service *v1.Service
	slice   *discovery.EndpointSlice
}

// measuredOf is how many of n services are measured ones: enough that one lies close to the middle of all, few enough
// that the number of rules, of which each has several, is about that of services.
func measuredOf(n int) int { return max(1, min(50, n/50)) }

// measuredObject is the i-th of the services that calls can be made to.
func measuredObject(m measured, ports []port, i int) object {
	return newObject(fmt.Sprintf("measured-%d", i), plus(m.vip, i), ports, 0, m.backend)
}

// otherObject is the i-th of the services that are there besides.
func otherObject(family v1.IPFamily, i int) object {
	vips, pods := netip.MustParseAddr("10.97.0.0"), netip.MustParseAddr("100.64.0.0")
	if family == v1.IPv6Protocol {
		vips, pods = netip.MustParseAddr("fd00:10:96::1:0"), netip.MustParseAddr("fd00:100:64::")
	}
	var addrs []netip.Addr
	for j := range backends {
		addrs = append(addrs, plus(pods, i*backends+j+1))
	}
	return newObject(fmt.Sprintf("other-%d", i), plus(vips, i+1), []port{{v1.ProtocolTCP, 80}}, 8000, addrs...)
}

// plus is the n-th address behind another.
func plus(addr netip.Addr, n int) netip.Addr {
	b := addr.AsSlice()
	last := b[len(b)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+uint32(n))
	addr, _ = netip.AddrFromSlice(b)
	return addr
}

// newObject makes a service whose backends' ports are so far above its own.
func newObject(name string, vip netip.Addr, ports []port, above uint16, addrs ...netip.Addr) object {
	family := familyOf(vip)
	o := object{
		service: &v1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: v1.ServiceSpec{
				Type: v1.ServiceTypeClusterIP, SessionAffinity: v1.ServiceAffinityNone,
				ClusterIP: vip.String(), ClusterIPs: []string{vip.String()},
				IPFamilies: []v1.IPFamily{family}, IPFamilyPolicy: ptr.To(v1.IPFamilyPolicySingleStack),
				InternalTrafficPolicy: ptr.To(v1.ServiceInternalTrafficPolicyCluster),
			},
		},
		slice: &discovery.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: name, Labels: map[string]string{discovery.LabelServiceName: name},
			},
			AddressType: discovery.AddressType(family),
		},
	}
	for _, p := range ports {
		name, target := fmt.Sprintf("%s-%d", strings.ToLower(string(p.protocol)), p.number), int32(p.number+above)
		o.service.Spec.Ports = append(o.service.Spec.Ports, v1.ServicePort{
			Name: name, Protocol: p.protocol, Port: int32(p.number), TargetPort: intstr.FromInt32(target),
		})
		o.slice.Ports = append(o.slice.Ports, discovery.EndpointPort{Name: &name, Protocol: &p.protocol, Port: &target})
	}
	for _, addr := range addrs {
		o.slice.Endpoints = append(o.slice.Endpoints, discovery.Endpoint{
			Addresses:  []string{addr.String()},
			Conditions: discovery.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
		})
	}
	return o
}

func familyOf(addr netip.Addr) v1.IPFamily {
	if addr.Is4() {
		return v1.IPv4Protocol
	}
	return v1.IPv6Protocol
}
