package policy

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// TestAttach tells which of the two who know of a container is asked about what.
func TestAttach(t *testing.T) {
	e := New(thisNode)
	at := func(a netip.Addr) string {
		if w := e.Lookup(a).Workload; w != nil {
			return w.Network + " " + w.Labels["app"]
		}
		return "nobody"
	}
	check := func(when string, want4, want6 string) {
		t.Helper()
		if got4, got6 := at(v4(1)), at(v6(1)); got4 != want4 || got6 != want6 {
			t.Fatalf("%s: %q and %q, want %q and %q", when, got4, got6, want4, want6)
		}
	}
	id := registry.EndpointID{Node: thisNode, ContainerID: "c", Interface: "eth0"}
	held := registry.Endpoint{EndpointID: id, Network: "held", Addresses: []netip.Addr{v4(1)}, Labels: map[string]string{"app": "held"}}
	told := registry.Endpoint{EndpointID: id, Network: "told", Addresses: []netip.Addr{v6(1)}, Labels: map[string]string{"app": "told"}}

	check("at first", "nobody", "nobody")
	e.Attach(held)
	check("attached", "held held", "nobody")
	e.Apply([]registry.Change{{Endpoint: &told}}, false)
	check("attached and told", "held told", "nobody")
	e.Apply(nil, true)
	check("no longer told", "held held", "nobody")
	e.Apply([]registry.Change{{Endpoint: &told}}, false)
	e.Detach(id)
	check("told only", "nobody", "told told")
	e.Apply([]registry.Change{{Endpoint: &told, Deleted: true}}, false)
	check("gone", "nobody", "nobody")
	if d := e.Detach(id); !d.empty() {
		t.Fatalf("detached twice: %+v", d)
	}
}

// TestClaims tells who has an address that several claim.
func TestClaims(t *testing.T) {
	e := New(thisNode)
	who := func(want string) {
		t.Helper()
		q := e.Lookup(v4(1))
		got := "world"
		switch {
		case q.ID == Node:
			got = "node"
		case q.Workload != nil:
			got = q.Workload.Labels["app"]
		}
		if got != want {
			t.Fatalf("%q has the address, want %q", got, want)
		}
		owner, owned := e.Owner(v4(1))
		if owned != (q.Workload != nil) || owned && owner.Labels["app"] != want {
			t.Fatalf("%+v (%t) owns the address, want %q", owner, owned, want)
		}
	}
	ep := func(node string) *registry.Endpoint {
		return &registry.Endpoint{
			EndpointID: registry.EndpointID{Node: node, ContainerID: "c", Interface: "eth0"},
			Addresses:  []netip.Addr{v4(1)}, Labels: map[string]string{"app": node},
		}
	}
	node := registry.Change{Node: &registry.Node{Name: thisNode, Addresses: []netip.Addr{v4(1)}}}
	e.Apply([]registry.Change{{Endpoint: ep("n2")}}, false)
	who("n2")
	e.Apply([]registry.Change{{Endpoint: ep("n1")}}, false)
	who("n1") // the first by id
	e.Attach(*ep("n3"))
	who("n3") // who is held has it for certain
	if d := e.Apply([]registry.Change{node}, false); len(d) > 0 && len(d[0].Addresses)+len(d[0].Blocks) > 0 {
		t.Fatalf("the node took a container's address: %+v", d)
	}
	who("n3") // also when the node is said to have it
	e.Detach(ep("n3").EndpointID)
	who("node") // but not whoever only claims this node's own
	e.Attach(*ep("n3"))
	who("n3")
	node.Deleted = true
	e.Apply([]registry.Change{node}, false)
	who("n3")
	e.Detach(ep("n3").EndpointID)
	who("n1")
	e.Apply([]registry.Change{{Endpoint: ep("n1"), Deleted: true}}, false)
	who("n2")
}

// TestNumbers gives out numbers until the last one, and then those that are free.
func TestNumbers(t *testing.T) {
	e := New(thisNode)
	w := newWorld(1)
	attach := func(n int) ID {
		t.Helper()
		ep := w.endpoint(n)
		ep.Labels["only"] = ep.ContainerID
		d := e.Attach(ep)
		if len(d.New) != 1 {
			t.Fatalf("%+v", d)
		}
		return d.New[0].ID
	}
	got := []ID{attach(1)}
	e.last = ^ID(0) - 1
	got = append(got, attach(2), attach(3))
	if want := []ID{First, ^ID(0), First + 1}; !slices.Equal(got, want) {
		t.Fatalf("numbers are %v, want %v", got, want)
	}
}

// TestIgnoredRules: the rules of a direction that a NetworkPolicy does not isolate mean nothing: not even
// their blocks are told apart.
func TestIgnoredRules(t *testing.T) {
	p := registry.Policy{
		PolicyID: registry.PolicyID{Name: registry.Name{Namespace: "x", Name: "p"}}, Isolates: []registry.Direction{registry.Ingress},
		Egress: []registry.Rule{{Action: registry.Allow, Peers: []registry.Peer{{Block: &registry.IPBlock{CIDR: netip.MustParsePrefix("192.0.2.0/24")}}}}},
	}
	e := New(thisNode)
	ep := registry.Endpoint{
		EndpointID: registry.EndpointID{Node: thisNode, ContainerID: "c", Interface: "eth0"},
		Name:       registry.Name{Namespace: "x", Name: "c"}, Addresses: []netip.Addr{v4(1)},
	}
	e.Apply([]registry.Change{{Endpoint: &ep}, {Policy: &p}}, true)
	subject, peer := e.Lookup(v4(1)).ID, e.Lookup(netip.MustParseAddr("192.0.2.1")).ID
	if peer != World {
		t.Errorf("the block has identity %d", peer)
	}
	if r := e.Rules(subject, registry.Egress); r.Default != nil {
		t.Errorf("egress rules %+v", r)
	}
	if r := e.Rules(subject, registry.Ingress); r.Default == nil || r.Default.Other.Allow {
		t.Errorf("ingress rules %+v", r)
	}
	both := p
	both.Isolates = []registry.Direction{registry.Ingress, registry.Egress}
	e.Apply([]registry.Change{{Policy: &both}}, false)
	if e.Lookup(netip.MustParseAddr("192.0.2.1")).ID == World || e.Rules(subject, registry.Egress).Default == nil {
		t.Error("egress is isolated, and nothing has changed")
	}
}

// workloadOf reads a workload from text: fields of lines, in any order and number.
func workloadOf(text string) (*spec, []netip.Prefix) {
	var ep registry.Endpoint
	var blocks []netip.Prefix
	ep.Labels = map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		kind, rest, _ := strings.Cut(line, " ")
		name, value, _ := strings.Cut(rest, "=")
		switch kind {
		case "s":
			ep.Name.Namespace = rest
		case "n":
			ep.Network = rest
		case "l":
			ep.Labels[name] = value
		case "p":
			ep.Ports = append(ep.Ports, registry.EndpointPort{Name: name, Protocol: registry.Protocol(len(value)), Port: uint16(len(rest))})
		case "b":
			if p, err := netip.ParsePrefix(rest); err == nil {
				blocks = append(blocks, p)
			}
		}
	}
	return specOf(&ep), normalAll(blocks)
}

// FuzzIdentityKey looks for different workloads, or blocks, that have one key, or equal ones that have two.
func FuzzIdentityKey(f *testing.F) {
	f.Add("s x\nn net\nl a=b\nl c=d\np web=\nb 10.0.0.0/8", "s x\nn net\nl c=d\nl a=b\np web=\nb 10.0.0.0/8")
	f.Add("l a=b\nl c=", "l a=bc")
	f.Add("s ab\nn c", "s a\nn bc")
	f.Add("p a=\np b=", "p b=\np a=\np a=")
	f.Add("b 10.0.0.0/8\nb 10.0.0.0/16", "b 10.0.0.0/8\nl b=")
	f.Fuzz(func(t *testing.T, a, b string) {
		wa, blocksA := workloadOf(a)
		wb, blocksB := workloadOf(b)
		same := reflect.DeepEqual(wa.Workload, wb.Workload) && slices.Equal(blocksA, blocksB)
		if got := identityKey(wa, blocksA) == identityKey(wb, blocksB); got != same {
			t.Fatalf("%+v %v and %+v %v: equal: %v, one key: %v", wa.Workload, blocksA, wb.Workload, blocksB, same, got)
		}
		if (identityKey(nil, blocksA) == identityKey(nil, blocksB)) != slices.Equal(blocksA, blocksB) {
			t.Fatalf("%v and %v", blocksA, blocksB)
		}
		for _, key := range []string{worldKey, nodeKey, identityKey(nil, blocksA)} {
			if identityKey(wa, blocksA) == key {
				t.Fatalf("a workload has the key %q", key)
			}
		}
	})
}

// FuzzApply feeds policies as a store may hold them, that no parser has seen: nothing may panic, and all of
// it can be taken away again.
func FuzzApply(f *testing.F) {
	w := newWorld(1)
	for n := range 20 {
		b, err := json.Marshal([]*registry.Policy{w.policy(n), w.policy(n + 1)})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var policies []*registry.Policy
		if json.Unmarshal(data, &policies) != nil {
			return
		}
		h, m := newHistory(3), newMirror(t)
		for n := range 3 {
			ep := h.endpoint(n + 1)
			h.known[ep.EndpointID] = ep
		}
		changes := h.everything()
		for _, p := range policies {
			if p != nil {
				changes = append(changes, registry.Change{Policy: p})
			}
		}
		for _, d := range h.engine.Apply(changes, false) {
			m.apply(d)
		}
		m.agree(h.engine)
		h.checkEmpty(t, m)
	})
}
