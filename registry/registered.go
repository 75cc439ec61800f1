package registry

import (
	"fmt"
	"slices"
	"strings"
)

// RegisteredLabel is on services that were made because an instance registered; its value is "true".
const RegisteredLabel = "sluice.net/registered"

// NamePorts gives the ports that have no name one: port-N, with the protocol behind it if another port has
// that name.
func (i *Instance) NamePorts() {
	taken := func(name string) bool {
		return slices.ContainsFunc(i.Ports, func(p EndpointPort) bool { return p.Name == name })
	}
	for n := range i.Ports {
		p := &i.Ports[n]
		if p.Name != "" {
			continue
		}
		name := fmt.Sprintf("port-%d", p.Port)
		if taken(name) {
			name += "-" + strings.ToLower(p.Protocol.String())
		}
		if !taken(name) {
			p.Name = name
		}
	}
}

// NewService returns the service that an instance asks for if there is none of its name yet.
func (i *Instance) NewService() ServiceRequest {
	return ServiceRequest{
		Service: Service{
			Name: i.ServiceName(), Ports: i.servicePorts(), Labels: map[string]string{RegisteredLabel: "true"},
			FamilyPolicy: PreferDualStack,
		},
	}
}

// servicePorts returns a port of the service for each of the instance's.
func (i *Instance) servicePorts() []ServicePort {
	var ports []ServicePort
	for _, p := range i.Ports {
		sp := ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port, TargetName: p.Name}
		if p.Name == "" {
			sp.TargetPort = p.Port
		}
		ports = append(ports, sp)
	}
	return ports
}
