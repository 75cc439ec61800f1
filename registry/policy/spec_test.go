package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/kube"
)

// clause is a sentence of the specification with a policy that it is about, and packets that pass and
// that do not: "FROM TO PROTOCOL/PORT", where both are tried in both families.
//
// The cluster has the containers x/a, x/b, x/c, y/a ... z/c, labelled pod=a, pod=b, pod=c; all name TCP 80
// "web", c names TCP 81 so instead, a names UDP 53 "dns". The namespaces x and z have the label team=red, y
// has team=blue and z env=prod besides. q has no object, and one container q/a. x/o, labelled pod=o, is of
// another network. 10.1.0.1 and fd00:1::1 are x/a's addresses, 10.2.0.3 and fd00:2::3 are y/c's; the world has
// 192.0.2.1 and 2001:db8::1.
type clause struct {
	says     string
	policies []string
	pass     []string
	drop     []string
}

func np(namespace, spec string) string {
	return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: NAME, namespace: %s}\nspec: %s", namespace, spec)
}

func anp(priority int, spec string) string {
	return fmt.Sprintf("apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: NAME}\nspec: {priority: %d, %s}", priority, spec)
}

func banp(spec string) string {
	return fmt.Sprintf("apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {name: default}\nspec: {%s}", spec)
}

func audit(policy string) string {
	return strings.Replace(policy, "name: NAME", `annotations: {sluice.net/audit: "true"}, name: NAME`, 1)
}

// specCluster is the one that clause tells of.
func specCluster() []registry.Change {
	list := []registry.Change{
		{Namespace: &registry.Namespace{Name: "x", Labels: map[string]string{"team": "red"}}},
		{Namespace: &registry.Namespace{Name: "y", Labels: map[string]string{"team": "blue"}}},
		{Namespace: &registry.Namespace{Name: "z", Labels: map[string]string{"team": "red", "env": "prod"}}},
	}
	for name := range specNames() {
		ns, pod, _ := strings.Cut(name, "/")
		web := registry.EndpointPort{Name: "web", Protocol: registry.TCP, Port: 80}
		if pod == "c" {
			web.Port = 81
		}
		ep := &registry.Endpoint{
			EndpointID: registry.EndpointID{Node: thisNode, ContainerID: name, Interface: "eth0"},
			Name:       registry.Name{Namespace: ns, Name: pod}, Network: "net",
			Addresses: specNames()[name], Labels: map[string]string{"pod": pod}, Ports: []registry.EndpointPort{web},
		}
		switch pod {
		case "o":
			ep.Network = "other"
		case "a":
			ep.Ports = append(ep.Ports, registry.EndpointPort{Name: "dns", Protocol: registry.UDP, Port: 53})
		}
		list = append(list, registry.Change{Endpoint: ep})
	}
	return list
}

// specNames returns the containers' addresses.
func specNames() map[string][]netip.Addr {
	names := map[string][]netip.Addr{}
	for i, ns := range []string{"x", "y", "z", "q"} {
		for j, pod := range []string{"a", "b", "c", "o"} {
			if ns != "q" && (pod != "o" || ns == "x") || pod == "a" {
				names[ns+"/"+pod] = []netip.Addr{
					netip.MustParseAddr(fmt.Sprintf("10.%d.0.%d", i+1, j+1)), netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", i+1, j+1)),
				}
			}
		}
	}
	return names
}

func specAddresses(t *testing.T, name string) []netip.Addr {
	t.Helper()
	if name == "world" {
		return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	}
	if list, ok := specNames()[name]; ok {
		return list
	}
	a, err := netip.ParseAddr(name)
	if err != nil {
		t.Fatal(err)
	}
	return []netip.Addr{a}
}

// TestSpecification reads the clauses aloud.
func TestSpecification(t *testing.T) {
	for _, c := range slices.Concat(networkPolicyClauses, adminClauses, ownClauses) {
		t.Run(c.says, func(t *testing.T) {
			e := New(thisNode)
			changes := specCluster()
			for i, text := range c.policies {
				objects, err := kube.Parse([]byte(strings.Replace(text, "name: NAME", fmt.Sprint("name: p", i), 1)))
				if err != nil {
					t.Fatal(err)
				}
				changes = append(changes, registry.Change{Policy: objects[0].Policy})
			}
			e.Apply(changes, true)
			for _, packet := range c.pass {
				checkPacket(t, e, packet, true)
			}
			for _, packet := range c.drop {
				checkPacket(t, e, packet, false)
			}
		})
	}
}

// checkPacket tries FROM TO PROTOCOL/PORT in the families that both have.
func checkPacket(t *testing.T, e *Engine, packet string, want bool) {
	t.Helper()
	words := strings.Fields(packet)
	name, number, _ := strings.Cut(words[2], "/")
	port, _ := strconv.Atoi(number)
	tried := 0
	for _, src := range specAddresses(t, words[0]) {
		for _, dst := range specAddresses(t, words[1]) {
			if src.Is4() != dst.Is4() {
				continue
			}
			proto := map[string]uint8{"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1}[name]
			if proto == 1 && src.Is6() {
				proto = 58
			}
			tried++
			if got := e.passes(src, dst, proto, uint16(port)); got != want {
				t.Errorf("%s (%v to %v): passes: %v", packet, src, dst, got)
			}
		}
	}
	if tried == 0 {
		t.Errorf("%s: nothing was tried", packet)
	}
}
