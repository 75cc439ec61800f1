package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

// change is one change of what is asked of the node.
type change struct {
	name   string
	apply  string // document; or
	delete string // document; or
	member string // labelled with
	label  string // KEY=VALUE
}

func (c *cluster) change(t *testing.T, ch change) error {
	ctx, node := t.Context(), c.node.API()
	var err error
	switch {
	case ch.apply != "":
		_, err = node.Apply(ctx, []byte(ch.apply))
	case ch.delete != "":
		_, err = node.DeleteDocuments(ctx, []byte(ch.delete))
	default:
		key, value, _ := strings.Cut(ch.label, "=")
		_, err = node.Label(ctx, api.LabelRequest{
			Container: c.member(t, ch.member).container.ID, Set: map[string]string{key: value},
		})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", ch.name, err)
	}
	return nil
}

const (
	onlyC      = "  ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: c}}}]}]\n"
	anyoneNotB = `  ingress:
  - from: [{namespaceSelector: {matchLabels: {ns: z}}}]
  - from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [b, d]}]}}]
    ports: [{protocol: UDP, port: 1, endPort: 1000}, {protocol: TCP}]
`
	byAddress = `  ingress:
  - from:
    - ipBlock: {cidr: 10.244.1.0/24, except: [10.244.1.22/31]}
    - ipBlock: {cidr: "fd00:10:244:1::/64", except: ["fd00:10:244:1::22/127"]}
  - from: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: c}}}]
    ports: [{protocol: UDP, port: 80}, {protocol: TCP}]
`
	// Blocks around everybody, named by a policy about somebody else: all identities change.
	blocks = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: blocks, namespace: z}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to:
    - ipBlock: {cidr: 10.244.1.0/28}
    - ipBlock: {cidr: 10.244.1.22/32}
    - ipBlock: {cidr: "fd00:10:244:1::11/128"}
    - ipBlock: {cidr: "fd00:10:244:1::20/123"}
`
	adminDeny = `
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: no-b}
spec:
  priority: 9
  subject: {namespaces: {matchLabels: {ns: x}}}
  ingress:
  - action: Deny
    from: [{pods: {namespaces: {namespaceSelector: {}}, podSelector: {matchLabels: {pod: b}}}}]
`
	// The two keep b from a at different ends: what goes from one to the other must not pass between.
	deniedToA   = eitherEnd + "  ingress:\n" + denyB
	deniedFromB = eitherEnd + "  egress:\n" + denyA
	eitherEnd   = `
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: either-end}
spec:
  priority: 11
  subject:
    pods:
      namespaceSelector: {}
      podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, b]}]}
`
	denyB = "  - {action: Deny, from: [{pods: {namespaces: {namespaceSelector: {}}, podSelector: {matchLabels: {pod: b}}}}]}\n"
	denyA = "  - {action: Deny, to: [{pods: {namespaces: {namespaceSelector: {}}, podSelector: {matchLabels: {pod: a}}}}]}\n"
)

// changes all leave as it was that y/c may reach x/a and y/b may not, in this order and around.
func changes(round int) []change {
	elsewhere := strings.Replace(np("first", "  policyTypes: [Ingress]\n"), "pod: a", "pod: none", 1)
	second := strings.Replace(np("second", onlyC), "{matchLabels: {pod: a}}", "{}", 1)
	version := fmt.Sprintf("version=%d", round)
	// From a default that denies to one that allows but for b, and back, in one transaction.
	above, below := elsewhere+"---"+adminDeny, np("first", onlyC)+"---"+strings.Replace(adminDeny, "pod: b", "pod: none", 1)
	list := []change{
		{name: "first by expression", apply: np("first", anyoneNotB)},
		{name: "another label of the denied", member: "y/b", label: "pod=d"},
		{name: "its old label again", member: "y/b", label: "pod=b"},
		{name: "first by label", apply: np("first", onlyC)},
		{name: "label of the receiver", member: "x/a", label: version},
		{name: "second", apply: second},
		{name: "label of the denied", member: "y/b", label: version},
		{name: "first about nobody", apply: elsewhere},
		{name: "blocks", apply: blocks},
		{name: "label of the allowed", member: "y/c", label: version},
		{name: "first again", apply: np("first", byAddress)},
		{name: "no second", delete: second},
		{name: "no blocks", delete: blocks},
		{name: "denied above", apply: adminDeny},
		{name: "no first", delete: np("first", byAddress)},
		{name: "blocks without first", apply: blocks},
		{name: "denied to the receiver", apply: deniedToA},
		{name: "nothing else above", delete: adminDeny},
		{name: "denied from the sender", apply: deniedFromB},
		{name: "denied above again", apply: adminDeny},
		{name: "denied by nothing else", delete: deniedFromB},
		{name: "first a third time", apply: np("first", onlyC)},
		{name: "nothing above", delete: adminDeny},
		{name: "no blocks again", delete: blocks},
	}
	// What takes two writes or more is where a moment could be: over and over.
	for range 10 {
		list = append(list, change{name: "to below", apply: below}, change{name: "to above", apply: above})
	}
	list = append(list, change{name: "denied to the receiver", apply: deniedToA}, change{name: "no above", delete: adminDeny})
	for range 10 {
		list = append(list, change{name: "from the sender", apply: deniedFromB}, change{name: "to the receiver", apply: deniedToA})
	}
	return append(list, change{name: "first at last", apply: np("first", onlyC)}, change{name: "only first", delete: deniedToA})
}

// TestPolicyNeverOpens: while policies, labels and namespaces change under traffic, what is denied
// before and after a change never passes, and what is allowed before and after is never dropped.
func TestPolicyNeverOpens(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		c := smallCluster(t, settings)
		c.apply(t, np("first", onlyC))
		tr := c.traffic(t, c.member(t, "y/c"), c.member(t, "y/b"), c.member(t, "x/a"), 0)
		made := 0
		for round := 0; made < 400; round++ {
			for _, ch := range changes(round) {
				// Some traffic between two changes, as much as they come apart in a busy cluster.
				sent(t, tr.no, 100)
				if err := c.change(t, ch); err != nil {
					t.Fatal(err)
				}
				made++
			}
		}
		t.Logf("%d changes", made)
		tr.judge(t)
	})
}

// TestPolicyOutlivesAgent: with the agent killed, gone and started again, also in the middle of a change,
// what is denied stays denied all along, allowed connections go on, and identities keep their numbers.
func TestPolicyOutlivesAgent(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		c := smallCluster(t, settings)
		c.apply(t, np("first", onlyC)+"---"+blocks)
		tr := c.traffic(t, c.member(t, "y/c"), c.member(t, "y/b"), c.member(t, "x/a"), time.Millisecond)
		for i := range 6 {
			before := numbers(t, c.node)
			sent(t, tr.no, 100)
			if i%2 == 0 {
				if err := c.node.KillAgent(); err != nil {
					t.Fatal(err)
				}
			} else {
				c.killIn(t, change{name: "first", apply: np("first", []string{anyoneNotB, byAddress, onlyC}[i/2])})
			}
			sent(t, tr.no, 100)
			if err := c.node.StartAgent(t.Context()); err != nil {
				t.Fatal(err)
			}
			check(t, c.node)
			if i%2 != 0 {
				continue // another policy, other identities
			}
			for what, number := range numbers(t, c.node) {
				if was, known := before[what]; known && was != number {
					t.Errorf("%s had %s, and has %s after the agent was killed", what, was, number)
				}
			}
		}
		c.apply(t, np("first", onlyC))
		tr.judge(t)
		c.expect(t, "deny * -> x/a\nallow */c -> x/a\ndeny z/* -> *\nallow z/* -> y/b v4\nallow z/* -> y/* v6\n")
	})
}

// killIn kills the agent in the middle of a change. Whether it is made then, later or never is open.
func (c *cluster) killIn(t *testing.T, ch change) {
	t.Helper()
	done := make(chan error)
	go func() { done <- c.change(t, ch) }()
	if err := c.node.KillAgent(); err != nil {
		t.Fatal(err)
	}
	<-done
}

// traffic is what goes on while something changes that must not matter to it.
type traffic struct {
	allowed, denied, to *member
	yes, no             *nstest.Flood
	calls               *load // allowed, on connections that last
}

// traffic starts it; what is denied comes with this pause (see nstest.Container.Flood).
func (c *cluster) traffic(t *testing.T, allowed, denied, to *member, gap time.Duration) *traffic {
	t.Helper()
	c.watch(t, to)
	return &traffic{
		allowed: allowed, denied: denied, to: to,
		yes: flood(t, allowed.container, to, time.Millisecond), no: flood(t, denied.container, to, gap),
		calls: startLoad(t, allowed.container, c.lastingCalls(t)),
	}
}

// judge ends the traffic: of what was denied nothing, and of what was allowed everything has arrived.
func (tr *traffic) judge(t *testing.T) {
	t.Helper()
	denied, passes := stopFlood(t, tr.no), stopFlood(t, tr.yes)
	if n := arrivals(t, tr.denied, tr.to); n > 0 {
		t.Errorf("%d of %d datagrams passed that were denied at any time", n, denied)
	}
	if n := arrivals(t, tr.allowed, tr.to); n != passes {
		t.Errorf("of %d datagrams that were allowed at any time %d have arrived", passes, n)
	}
	tr.calls.more(t, 5)
	for i, r := range tr.calls.stop(t) {
		if r.Failed > 0 {
			t.Errorf("%s: an allowed connection failed: %v", title(tr.calls.calls[i]), r.Failures[0])
		}
	}
	t.Logf("%d datagrams denied, %d allowed", denied, passes)
}

// numbers reads what the agent must find again: the pinned numbers by digest, and the identity and
// network of each address.
func numbers(t *testing.T, n *nstest.Node) map[string]string {
	t.Helper()
	all := dump(t, n, "numbers", "number")
	maps.Copy(all, dump(t, n, "endpoints", "identity", "network"))
	return all
}

// dump reads some fields of each value of a pinned map, by the key as bpftool writes it.
func dump(t *testing.T, n *nstest.Node, name string, fields ...string) map[string]string {
	t.Helper()
	out, err := exec.Command("bpftool", "-j", "map", "dump", "pinned", filepath.Join(n.BPFFS, name)).Output()
	if err != nil {
		t.Fatalf("dump %s: %v", name, err)
	}
	var entries []struct {
		Formatted struct {
			Key   json.RawMessage            `json:"key"`
			Value map[string]json.RawMessage `json:"value"`
		} `json:"formatted"`
	}
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&entries); err != nil {
		t.Fatalf("dump %s: %v", name, err)
	}
	if len(entries) == 0 {
		t.Errorf("map %s is empty", name)
	}
	all := map[string]string{}
	for _, e := range entries {
		var text []string
		for _, f := range fields {
			text = append(text, f+" "+string(e.Formatted.Value[f]))
		}
		all[name+" "+string(e.Formatted.Key)] = strings.Join(text, ", ")
	}
	return all
}
