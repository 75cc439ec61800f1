package registry

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// cluster is what policies select from, as plain lists.
type cluster struct {
	model
	namespaces map[string]Namespace
	policies   map[PolicyID]Policy
}

func randomSelector(r *rand.Rand, keys ...string) Selector {
	s := Selector{MatchLabels: map[string]string{}}
	for range r.IntN(2) {
		s.MatchLabels[pick(r, keys...)] = pick(r, "a", "b", "x")
	}
	for range r.IntN(2) {
		q := Requirement{Key: pick(r, keys...), Operator: pick(r, In, NotIn, Exists, DoesNotExist)}
		if q.Operator == In || q.Operator == NotIn {
			q.Values = []string{"a", pick(r, "y", "x")}
		}
		s.Expressions = append(s.Expressions, q)
	}
	return s
}

func (c cluster) mutate(r *rand.Rand) Change {
	switch r.IntN(4) {
	case 0:
		n := Namespace{Name: pick(r, "x", "y", "z"), Labels: randomLabels(r)}
		if r.IntN(3) == 0 {
			delete(c.namespaces, n.Name)
			return Change{Namespace: &Namespace{Name: n.Name}, Deleted: true}
		}
		c.namespaces[n.Name] = n
		return Change{Namespace: &n}
	case 1:
		p := Policy{PolicyID: PolicyID{Tier: Tier(r.IntN(3)), Name: Name{Name: fmt.Sprint("p", r.IntN(4))}}, Priority: int32(r.IntN(2))}
		p.Subject.Pods = randomSelector(r, "app", "tier", NetworkLabel)
		if p.Tier == TierNamespaced {
			p.Namespace = pick(r, "x", "y", "empty")
		} else if r.IntN(3) > 0 {
			s := randomSelector(r, "app", "tier", NamespaceLabel)
			p.Subject.Namespaces = &s
		}
		if r.IntN(3) == 0 {
			delete(c.policies, p.PolicyID)
			return Change{Policy: &Policy{PolicyID: p.PolicyID}, Deleted: true}
		}
		c.policies[p.PolicyID] = p
		return Change{Policy: &p}
	}
	change := c.model.mutate(r)
	if change.Endpoint != nil && !change.Deleted {
		change.Endpoint.Network = pick(r, "a", "b")
		c.endpoints[change.Endpoint.EndpointID] = *change.Endpoint
	}
	return change
}

func (c cluster) snapshot(revision int64) Batch {
	b := c.model.snapshot(revision)
	for _, n := range c.namespaces {
		b.Changes = append(b.Changes, Change{Namespace: &n})
	}
	for _, p := range c.policies {
		b.Changes = append(b.Changes, Change{Policy: &p})
	}
	return b
}

// selected asks Policy.Selects about every endpoint.
func (c cluster) selected(p Policy) []EndpointID {
	var list []EndpointID
	for id, e := range c.endpoints {
		n := Namespace{Name: e.Name.Namespace, Labels: c.namespaces[e.Name.Namespace].Labels}
		if p.Selects(&e, NamespaceLabels(&n)) {
			list = append(list, id)
		}
	}
	slices.SortFunc(list, EndpointID.Compare)
	return list
}

// TestSelectedAgainstModel applies random changes: what each policy selects must be what asking it about
// each endpoint gives.
func TestSelectedAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	m := cluster{newModel(""), map[string]Namespace{}, map[PolicyID]Policy{}}
	c := NewCatalog("")
	some := 0
	for i := range int64(3000) {
		b := Batch{Revision: i, Changes: []Change{m.mutate(r)}}
		if i%100 == 0 {
			b = m.snapshot(i)
		}
		c.Apply(b)
		for id, p := range m.policies {
			var got []EndpointID
			for _, e := range c.Selected(id) {
				got = append(got, e.EndpointID)
			}
			slices.SortFunc(got, EndpointID.Compare)
			if want := m.selected(p); !slices.Equal(got, want) || c.SelectedCount(id) != len(want) {
				t.Fatalf("step %d: %s selects %v (%d), want %v", i, id, got, c.SelectedCount(id), want)
			}
			some += len(got)
			if one, ok := c.Policy(id); !ok || !reflect.DeepEqual(one, p) {
				t.Fatalf("step %d: %s is %+v, %t; want %+v", i, id, one, ok, p)
			}
		}
		if n := len(c.Policies()); n != len(m.policies) {
			t.Fatalf("step %d: %d policies, want %d", i, n, len(m.policies))
		}
	}
	if some == 0 {
		t.Error("no policy ever selected anything")
	}
	m.leavesNothing(t, c)
}

// leavesNothing deletes all that there is.
func (c cluster) leavesNothing(t *testing.T, cat *Catalog) {
	t.Helper()
	b := c.snapshot(1 << 40)
	b.Snapshot = false
	for i := range b.Changes {
		b.Changes[i].Deleted = true
	}
	cat.Apply(b)
	x := cat.isolation
	if n := len(x.policies) + len(x.namespaces) + len(x.endpoints) + len(cat.Namespaces()); n != 0 {
		t.Errorf("%d entries are left: %+v", n, x)
	}
}

// TestPolicyOrder: policies are listed as they are asked.
func TestPolicyOrder(t *testing.T) {
	c := NewCatalog("")
	for _, p := range []Policy{
		{PolicyID: PolicyID{TierBaseline, Name{"", "default"}}},
		{PolicyID: PolicyID{TierNamespaced, Name{"y", "a"}}},
		{PolicyID: PolicyID{TierNamespaced, Name{"x", "b"}}},
		{PolicyID: PolicyID{TierAdmin, Name{"", "a"}}, Priority: 2},
		{PolicyID: PolicyID{TierAdmin, Name{"", "c"}}, Priority: 1},
		{PolicyID: PolicyID{TierAdmin, Name{"", "b"}}, Priority: 1},
	} {
		c.Apply(Batch{Changes: []Change{{Policy: &p}}})
	}
	var got []string
	for _, p := range c.Policies() {
		got = append(got, p.PolicyID.String())
	}
	want := []string{"AdminNetworkPolicy b", "AdminNetworkPolicy c", "AdminNetworkPolicy a", "NetworkPolicy x/b", "NetworkPolicy y/a",
		"BaselineAdminNetworkPolicy default"}
	if !slices.Equal(got, want) {
		t.Errorf("policies %v, want %v", got, want)
	}
	if list := c.Selected(PolicyID{Name: Name{"no", "such"}}); len(list) != 0 || c.SelectedCount(PolicyID{}) != 0 {
		t.Errorf("a policy that is not there selects %v", list)
	}
}

// TestNamespaces: those with an object, and those that something lies in.
func TestNamespaces(t *testing.T) {
	c := NewCatalog("")
	labels := map[string]string{"a": "b"}
	c.Apply(Batch{Changes: []Change{
		{Namespace: &Namespace{Name: "object", Labels: labels}},
		{Endpoint: &Endpoint{EndpointID: EndpointID{"n", "c", "eth0"}, Name: Name{"endpoint", "w"}}},
		{Service: &Service{Name: Name{"service", "s"}}},
		{Policy: &Policy{PolicyID: PolicyID{TierNamespaced, Name{"policy", "p"}}}},
		{Policy: &Policy{PolicyID: PolicyID{TierAdmin, Name{"", "p"}}}},
	}})
	got := map[string]map[string]string{}
	for _, n := range c.Namespaces() {
		got[n.Name] = n.Labels
	}
	want := map[string]map[string]string{"object": labels, "endpoint": nil, "service": nil, "policy": nil}
	if !maps.EqualFunc(got, want, maps.Equal[map[string]string, map[string]string]) {
		t.Errorf("namespaces %v, want %v", got, want)
	}
}

// BenchmarkSelectedCount counts for one of many policies; the others' namespaces cost nothing.
func BenchmarkSelectedCount(b *testing.B) {
	c := NewCatalog("")
	batch := Batch{Snapshot: true}
	for i := range 5000 {
		batch.Changes = append(batch.Changes, Change{Endpoint: &Endpoint{
			EndpointID: EndpointID{"n1", fmt.Sprint("c", i), "eth0"}, Name: Name{fmt.Sprint("ns", i%100), fmt.Sprint("w", i)},
			Network: "sluice", Labels: map[string]string{"app": fmt.Sprint(i % 7)},
		}})
	}
	id := PolicyID{TierNamespaced, Name{"ns1", "p"}}
	batch.Changes = append(batch.Changes, Change{Policy: &Policy{PolicyID: id, Subject: PodSelector{Pods: Selector{MatchLabels: map[string]string{"app": "1"}}}}})
	c.Apply(batch)
	for b.Loop() {
		if c.SelectedCount(id) == 0 {
			b.Fatal("nothing is selected")
		}
	}
}
