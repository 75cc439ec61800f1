package scale

import (
	"fmt"
	"net/netip"

	"github.com/sluice-net/sluice/registry"
)

// The crowd: as many containers, each with labels of its own, live on other nodes. Every policy
// selects one of them and allows those of two namespaces, so 10 000 policies make a million pairs.
const (
	crowdNamespaces = 100
	crowdApps       = 50 // a namespace
	crowdSize       = crowdNamespaces * crowdApps
)

// throng is what verdicts are about. The last two policies are those that the measured flows meet, always the same.
func throng(policies int) (all []registry.Change) {
	for i := range crowdSize {
		n, a := i%crowdNamespaces, i/crowdNamespaces
		e := endpoint("there", fmt.Sprintf("c%d", i), fmt.Sprintf("n%d", n), fmt.Sprintf("a%d", a), crowdAddr(i))
		all = append(all, registry.Change{Endpoint: &e})
	}
	for j := range policies {
		all = append(all, registry.Change{Policy: crowdPolicy(j, 8000)})
	}
	ports := []registry.PolicyPort{{Protocol: registry.TCP, Port: servicePort, EndPort: servicePort}}
	return append(all,
		registry.Change{Policy: rulePolicy("client", "n0", "client", registry.Egress, registry.Rule{
			Action: registry.Allow, Ports: ports,
			Peers: []registry.Peer{{Pods: &registry.PodSelector{Namespaces: &registry.Selector{}}}},
		})},
		registry.Change{Policy: rulePolicy("server", "n0", "server", registry.Ingress, registry.Rule{
			Action: registry.Allow, Ports: ports,
			Peers: []registry.Peer{{Pods: &registry.PodSelector{Pods: registry.Selector{MatchLabels: map[string]string{"app": "client"}}}}},
		})})
}

// crowdAddr is the address of the crowd's i-th container.
func crowdAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}) }

// crowdPolicy selects one of the crowd's containers and allows two namespaces to it.
func crowdPolicy(j int, first uint16) *registry.Policy {
	n, a, turn := j%crowdNamespaces, j/crowdNamespaces%crowdApps, j/crowdSize
	from := []string{
		fmt.Sprintf("n%d", (n+2*turn+1)%crowdNamespaces), fmt.Sprintf("n%d", (n+2*turn+2)%crowdNamespaces),
	}
	p := first + uint16(j%1000)
	return rulePolicy(fmt.Sprintf("p%d", j), fmt.Sprintf("n%d", n), fmt.Sprintf("a%d", a), registry.Ingress, registry.Rule{
		Action: registry.Allow,
		Peers: []registry.Peer{{Pods: &registry.PodSelector{Namespaces: &registry.Selector{
			Expressions: []registry.Requirement{{Key: registry.NamespaceLabel, Operator: registry.In, Values: from}},
		}}}},
		Ports: []registry.PolicyPort{{Protocol: registry.TCP, Port: p, EndPort: p}},
	})
}

func rulePolicy(name, namespace, app string, d registry.Direction, r registry.Rule) *registry.Policy {
	p := &registry.Policy{
		PolicyID: registry.PolicyID{Name: registry.Name{Namespace: namespace, Name: name}},
		Subject:  registry.PodSelector{Pods: registry.Selector{MatchLabels: map[string]string{"app": app}}},
		Isolates: []registry.Direction{d},
	}
	if d == registry.Egress {
		p.Egress = []registry.Rule{r}
	} else {
		p.Ingress = []registry.Rule{r}
	}
	return p
}

// changedPolicy is one that allows another port.
func (w *World) changedPolicy() registry.Change {
	w.changes++
	j := w.changes % w.plan.N
	return registry.Change{Policy: crowdPolicy(j, 8000+uint16(1000*(1+w.changes/w.plan.N%2)))}
}
