package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// policy is a policy with something in every field that its kind has.
func policy(tier registry.Tier, n int) registry.Policy {
	p := registry.Policy{PolicyID: registry.PolicyID{Tier: tier, Name: registry.Name{Name: fmt.Sprint("p", n)}}, Audit: n%2 == 1}
	p.Labels = map[string]string{"team": "x"}
	selector := registry.Selector{
		MatchLabels: map[string]string{"app": fmt.Sprint(n)},
		Expressions: []registry.Requirement{{Key: "a", Operator: registry.NotIn, Values: []string{"b", ""}}, {Key: "c", Operator: registry.Exists}},
	}
	p.Subject.Pods = selector
	rule := registry.Rule{Action: registry.Allow, Peers: []registry.Peer{{Pods: &registry.PodSelector{Namespaces: &selector}}}}
	rule.Ports = []registry.PolicyPort{{Protocol: registry.SCTP, Port: 5, EndPort: 6}, {Protocol: registry.UDP, Name: "dns"}}
	if tier == registry.TierNamespaced {
		p.Namespace = "shop"
		p.Isolates = []registry.Direction{registry.Ingress, registry.Egress}
		rule.Peers = append(rule.Peers, registry.Peer{Block: &registry.IPBlock{
			CIDR: netip.MustParsePrefix("fd00::/16"), Except: []netip.Prefix{netip.MustParsePrefix("fd00:1::/32")},
		}})
	} else {
		p.Subject.Namespaces = &registry.Selector{}
		rule.Name, rule.Action = "no", registry.Deny
		rule.Peers[0].Pods = &registry.PodSelector{SameLabels: []string{"tenant"}}
		rule.Ports[1].Protocol = 0
	}
	if tier == registry.TierAdmin {
		p.Priority = 10
	}
	p.Ingress, p.Egress = []registry.Rule{rule}, []registry.Rule{rule}
	return p
}

func TestPolicies(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batches := s.Watch(ctx)
	receive(t, batches)
	for _, tier := range []registry.Tier{registry.TierNamespaced, registry.TierAdmin, registry.TierBaseline} {
		p := policy(tier, 1)
		rev, err := s.PutPolicy(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if b := receive(t, batches); b.Revision != rev || len(b.Changes) != 1 || !reflect.DeepEqual(*b.Changes[0].Policy, p) {
			t.Errorf("batch %+v, want %+v at %d", b, p, rev)
		}
		if again, err := s.PutPolicy(t.Context(), p); err != nil || again != rev {
			t.Errorf("the same policy again: revision %d, %v; want %d", again, err, rev)
		}
		p.Audit = false
		if next, err := s.PutPolicy(t.Context(), p); err != nil || next <= rev {
			t.Errorf("a changed policy: revision %d, %v", next, err)
		}
		if b := receive(t, batches); len(b.Changes) != 1 || !reflect.DeepEqual(*b.Changes[0].Policy, p) {
			t.Errorf("batch %+v, want %+v", b, p)
		}
		if rev, err = s.DeletePolicy(t.Context(), p.PolicyID); err != nil {
			t.Fatal(err)
		}
		if b := receive(t, batches); b.Revision != rev || len(b.Changes) != 1 || !b.Changes[0].Deleted || b.Changes[0].Policy.PolicyID != p.PolicyID {
			t.Errorf("batch %+v, want %s deleted at %d", b, p.PolicyID, rev)
		}
		if _, err := s.DeletePolicy(t.Context(), p.PolicyID); !errors.Is(err, registry.ErrNotFound) || !contains(err, "delete "+p.PolicyID.String()) {
			t.Errorf("deleting twice: %v", err)
		}
	}
}

func TestNamespaces(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batches := s.Watch(ctx)
	receive(t, batches)
	n := registry.Namespace{Name: "shop", Labels: map[string]string{"tier": "front"}}
	rev, err := s.PutNamespace(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if b := receive(t, batches); b.Revision != rev || len(b.Changes) != 1 || !reflect.DeepEqual(*b.Changes[0].Namespace, n) {
		t.Errorf("batch %+v, want %+v at %d", b, n, rev)
	}
	if again, err := s.PutNamespace(t.Context(), n); err != nil || again != rev {
		t.Errorf("the same namespace again: revision %d, %v; want %d", again, err, rev)
	}
	if rev, err = s.DeleteNamespace(t.Context(), n.Name); err != nil {
		t.Fatal(err)
	}
	if b := receive(t, batches); b.Revision != rev || !b.Changes[0].Deleted || b.Changes[0].Namespace.Name != n.Name {
		t.Errorf("batch %+v, want the namespace deleted at %d", b, rev)
	}
	if _, err := s.DeleteNamespace(t.Context(), n.Name); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("deleting twice: %v", err)
	}
}

// TestPoliciesRefused: what is not good is refused by Check and Put alike, and nothing is written.
func TestPoliciesRefused(t *testing.T) {
	s := open(t)
	for name, edit := range map[string]func(*registry.Policy){
		"'/' and control characters": func(p *registry.Policy) { p.Name.Name = "a/b" },
		"empty name":                 func(p *registry.Policy) { p.Namespace = "" },
		"longer than 253":            func(p *registry.Policy) { p.Name.Name = strings.Repeat("x", 254) },
		"no protocol":                func(p *registry.Policy) { p.Ingress[0].Ports[0].Protocol = 0 },
		"more than the":              func(p *registry.Policy) { p.Subject.Pods.MatchLabels["x"] = strings.Repeat("x", maxValue) },
		"0 isolated directions":      func(p *registry.Policy) { p.Isolates = nil },
	} {
		p := policy(registry.TierNamespaced, 1)
		edit(&p)
		if err := s.Check(registry.Change{Policy: &p}); !errors.Is(err, registry.ErrInvalid) || !contains(err, name) {
			t.Errorf("check: error %v, want %q", err, name)
		}
		if _, err := s.PutPolicy(t.Context(), p); !errors.Is(err, registry.ErrInvalid) || !contains(err, name) {
			t.Errorf("put: error %v, want %q", err, name)
		}
	}
	for _, n := range []registry.Namespace{{Name: ""}, {Name: "a/b"}, {Name: "a", Labels: map[string]string{"x": strings.Repeat("x", maxValue)}}} {
		if err := s.Check(registry.Change{Namespace: &n}); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("check of namespace %.9q: %v", n.Name, err)
		}
		if _, err := s.PutNamespace(t.Context(), n); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("put of namespace %.9q: %v", n.Name, err)
		}
	}
	if _, err := s.DeletePolicy(t.Context(), registry.PolicyID{}); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("delete of nothing: %v", err)
	}
	if b, err := newReader(s).snapshot(t.Context()); err != nil || len(b.Changes) > 0 {
		t.Errorf("written: %+v, %v", b.Changes, err)
	}
}

// TestPoliciesDurable closes and opens: all is as it was.
func TestPoliciesDurable(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "etcd"), Run: runDir(t)}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	want := []registry.Policy{policy(registry.TierAdmin, 2), policy(registry.TierNamespaced, 1), policy(registry.TierBaseline, 3)}
	for _, p := range want {
		if _, err := s.PutPolicy(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.PutNamespace(t.Context(), registry.Namespace{Name: "zoo", Labels: map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, err := newReader(s).snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := registry.NewCatalog("")
	c.Apply(b)
	if got := c.Policies(); !reflect.DeepEqual(got, want) {
		t.Errorf("policies %+v, want %+v", got, want)
	}
	if got := c.Namespaces(); len(got) != 2 || got[1].Labels["a"] != "b" {
		t.Errorf("namespaces %+v", got)
	}
}

// TestCommit: policies and namespaces that are given together change together.
func TestCommit(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batches := s.Watch(ctx)
	receive(t, batches)
	admin, plain := policy(registry.TierAdmin, 1), policy(registry.TierNamespaced, 1)
	shop := registry.Namespace{Name: "shop", Labels: map[string]string{"a": "b"}}
	changed := admin
	changed.Priority++
	gone := registry.Change{Policy: &plain, Deleted: true}
	for i, c := range []struct {
		changes []registry.Change
		want    []registry.Outcome
		batch   int // changes in it; 0: nothing is written
	}{
		{[]registry.Change{{Policy: &admin}, {Policy: &plain}, {Namespace: &shop}}, []registry.Outcome{"created", "created", "created"}, 3},
		{[]registry.Change{{Policy: &admin}, {Policy: &plain}, {Namespace: &shop}}, []registry.Outcome{"unchanged", "unchanged", "unchanged"}, 0},
		{[]registry.Change{{Policy: &changed}, gone, {Namespace: &shop}}, []registry.Outcome{"configured", "deleted", "unchanged"}, 2},
		{[]registry.Change{gone, {Policy: &changed}}, []registry.Outcome{"not found", "unchanged"}, 0},
		{[]registry.Change{gone}, []registry.Outcome{"not found"}, 0},
		{nil, nil, 0},
	} {
		before := s.written.Load()
		got, rev, err := s.Commit(t.Context(), c.changes)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Fatalf("commit %d: %v, %v; want %v", i, got, err, c.want)
		}
		if c.batch == 0 {
			if s.written.Load() != before || rev > before {
				t.Errorf("commit %d wrote something: revision %d after %d", i, rev, before)
			}
			continue
		}
		if b := receive(t, batches); b.Revision != rev || len(b.Changes) != c.batch {
			t.Errorf("commit %d: batch %+v, want %d changes at %d", i, b, c.batch, rev)
		}
	}
}

// TestCommitBounds: as many as are promised go in one transaction, and one more in none.
func TestCommitBounds(t *testing.T) {
	s := open(t)
	many := func(n, size int) []registry.Change {
		var list []registry.Change
		for i := range n {
			list = append(list, registry.Change{Namespace: &registry.Namespace{
				Name: fmt.Sprintf("%0200d", i), Labels: map[string]string{"x": strings.Repeat("x", size)},
			}})
		}
		return list
	}
	for _, changes := range [][]registry.Change{many(maxTogether, 400), many(16, 250<<10)} {
		if outcomes, _, err := s.Commit(t.Context(), changes); err != nil || len(outcomes) != len(changes) {
			t.Errorf("%d at once: %v", len(changes), err)
		}
	}
	before, err := newReader(s).snapshot(t.Context())
	if err != nil || len(before.Changes) != maxTogether {
		t.Fatalf("%d namespaces, %v", len(before.Changes), err)
	}
	twice := append(many(1, 1), many(1, 1)...)
	for _, changes := range [][]registry.Change{many(maxTogether+1, 1), many(17, 250<<10), twice, {{Node: &registry.Node{Name: "n"}}}} {
		if _, _, err := s.Commit(t.Context(), changes); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%d at once: %v", len(changes), err)
		}
	}
	if after, err := newReader(s).snapshot(t.Context()); err != nil || after.Revision != before.Revision {
		t.Errorf("something was written, %v", err)
	}
}

// TestCommitsMeet: of commits that meet, each is as a whole before or after the other.
func TestCommitsMeet(t *testing.T) {
	s := open(t)
	var group sync.WaitGroup
	for n := range 4 {
		group.Go(func() {
			for i := range 25 {
				labels := map[string]string{"by": fmt.Sprint(n, "-", i)}
				one, two := registry.Namespace{Name: "one", Labels: labels}, registry.Namespace{Name: "two", Labels: labels}
				if _, _, err := s.Commit(t.Context(), []registry.Change{{Namespace: &one}, {Namespace: &two}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	batches := s.Watch(ctx)
	go func() { group.Wait(); cancel() }()
	c := registry.NewCatalog("")
	for b := range batches {
		c.Apply(b)
		list := c.Namespaces()
		if len(list) != 0 && (len(list) != 2 || list[0].Labels["by"] != list[1].Labels["by"]) {
			t.Errorf("at %d: %v", b.Revision, list)
		}
	}
}
