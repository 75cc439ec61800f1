package tests

import (
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/nstest"
)

// The namespaces of the truth table. No two have the same labels; x and y have one team.
const tableNamespaces = `
apiVersion: v1
kind: Namespace
metadata: {name: x, labels: {ns: x, team: red, env: prod}}
---
apiVersion: v1
kind: Namespace
metadata: {name: y, labels: {ns: y, team: red, env: dev}}
---
apiVersion: v1
kind: Namespace
metadata: {name: z, labels: {ns: z, team: blue}}
`

// tablePods are the pods a, b and c of the namespaces x, y and z. x/a has 10.244.1.11, y/b 10.244.1.22
// and so on, and the same digits at the end of its IPv6 address. c has the label canary besides. All
// name the ports that they serve; "web" means another port in each of a, b and c.
func tablePods() []*member {
	var pods []*member
	for i, namespace := range []string{"x", "y", "z"} {
		for j, name := range []string{"a", "b", "c"} {
			labels := map[string]string{}
			if name == "c" {
				labels["canary"] = "yes"
			}
			last := byte(10*(i+1) + j + 1)
			pods = append(pods, podMember(namespace+"/"+name, last, labels, namedPorts(name)))
		}
	}
	return pods
}

func namedPorts(pod string) []registry.EndpointPort {
	ports := []registry.EndpointPort{
		{Name: "serve-80-tcp", Protocol: registry.TCP, Port: 80}, {Name: "serve-81-tcp", Protocol: registry.TCP, Port: 81},
		{Name: "serve-80-udp", Protocol: registry.UDP, Port: 80}, {Name: "serve-81-udp", Protocol: registry.UDP, Port: 81},
		{Name: "serve-80-sctp", Protocol: registry.SCTP, Port: 80}, {Name: "serve-81-sctp", Protocol: registry.SCTP, Port: 81},
	}
	return append(ports, map[string]registry.EndpointPort{
		"a": {Name: "web", Protocol: registry.TCP, Port: 80},
		"b": {Name: "web", Protocol: registry.TCP, Port: 81},
		"c": {Name: "web", Protocol: registry.UDP, Port: 80},
	}[pod])
}

// TestPolicyTable probes every cell for every script, with each way of translating VIPs.
func TestPolicyTable(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		settings.MapScale = 0.2
		c := newCluster(t, settings, tableNamespaces, tablePods()...)
		c.runScripts(t, "policies")
		c.expect(t, "") // nothing of it all has stayed
	})
}

// TestPolicyNetworks: the same for containers of two CNI networks, which are closed to each other.
func TestPolicyNetworks(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		settings.MapScale = 0.2
		var pods []*member
		for i, network := range []string{"red", "blue"} {
			for j, name := range []string{"a", "b"} {
				m := podMember(network+"/"+name, byte(10*(i+1)+j+1), nil, nil)
				m.spec.Network = network
				pods = append(pods, m)
			}
		}
		c := newCluster(t, settings, "apiVersion: v1\nkind: Namespace\nmetadata: {name: blue, labels: {ns: blue}}\n", pods...)
		c.base = "deny red/* -> blue/*\ndeny blue/* -> red/*\n"
		c.runScripts(t, "networks")
		c.expect(t, "")
	})
}
