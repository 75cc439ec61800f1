package kube

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/registry"
)

func (v *validator) ports(s *corev1.ServiceSpec, req *registry.ServiceRequest) {
	switch {
	case len(s.Ports) == 0 && !req.Headless && req.Type != registry.TypeExternalName:
		v.fault("spec.ports", "required")
	case len(s.Ports) > registry.MaxServicePorts:
		v.fault("spec.ports", "%d ports, more than the %d allowed", len(s.Ports), registry.MaxServicePorts)
		return
	}
	type pair struct {
		port     int32
		protocol registry.Protocol
	}
	names, pairs, nodePorts := map[string]bool{}, map[pair]bool{}, map[pair]bool{}
	for i := range s.Ports {
		at := fmt.Sprintf("spec.ports[%d]", i)
		p := &s.Ports[i]
		out := v.port(at, p)
		switch {
		case p.Name == "" && len(s.Ports) > 1:
			v.fault(at+".name", "required when there are several ports")
		case p.Name != "" && names[p.Name]:
			v.fault(at+".name", "%q is given twice", p.Name)
		}
		key := pair{p.Port, out.Protocol}
		if pairs[key] {
			v.fault(at+".port", "port %d/%s is given twice", p.Port, out.Protocol)
		}
		if p.NodePort != 0 {
			node := pair{p.NodePort, out.Protocol}
			if nodePorts[node] {
				v.fault(at+".nodePort", "port %d/%s is given twice", p.NodePort, out.Protocol)
			}
			nodePorts[node] = true
			if !hasNodePorts(req.Type) {
				v.fault(at+".nodePort", "not allowed for type %s: only for NodePort and LoadBalancer", typeName(req.Type))
			}
		}
		names[p.Name], pairs[key] = true, true
		req.Ports = append(req.Ports, out)
	}
}

func (v *validator) port(at string, p *corev1.ServicePort) registry.ServicePort {
	out := registry.ServicePort{Name: p.Name, Port: uint16(p.Port), TargetPort: uint16(p.Port)}
	if p.Name != "" {
		v.reasons(at+".name", p.Name, validation.IsDNS1123Label(p.Name))
	}
	if len(validation.IsValidPortNum(int(p.Port))) > 0 {
		v.fault(at+".port", "%d: want a number from 1 to 65535", p.Port)
	}
	out.Protocol = registry.TCP
	if p.Protocol != "" {
		out.Protocol = v.protocol(at+".protocol", p.Protocol)
	}
	switch t := p.TargetPort; {
	case t.Type == intstr.String && t.StrVal != "":
		v.reasons(at+".targetPort", t.StrVal, validation.IsValidPortName(t.StrVal))
		out.TargetPort, out.TargetName = 0, t.StrVal
	case t.Type == intstr.Int && t.IntVal != 0:
		if len(validation.IsValidPortNum(int(t.IntVal))) > 0 {
			v.fault(at+".targetPort", "%d: want a number from 1 to 65535, or a name", t.IntVal)
		}
		out.TargetPort = uint16(t.IntVal)
	}
	if p.NodePort != 0 && len(validation.IsValidPortNum(int(p.NodePort))) > 0 {
		v.fault(at+".nodePort", "%d: want a number from 1 to 65535", p.NodePort)
	}
	out.NodePort = uint16(p.NodePort)
	if p.AppProtocol != nil { // what is spoken over a connection makes no difference to where it goes
		v.reasons(at+".appProtocol", *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))
	}
	return out
}
