package server

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

func (s *fakeStore) Check(c registry.Change) error {
	if c.Policy != nil && c.Policy.Name.Name == "refused" || c.Namespace != nil && c.Namespace.Name == "refused" {
		return fmt.Errorf("%w: too much", registry.ErrInvalid)
	}
	return nil
}

func (s *fakeStore) Commit(_ context.Context, changes []registry.Change) ([]registry.Outcome, int64, error) {
	if len(changes) == 0 {
		return nil, 0, nil
	}
	if s.fail != nil {
		return nil, 0, s.fail
	}
	var list []registry.Outcome
	for _, c := range changes {
		exists, same := s.stands(c)
		switch {
		case c.Deleted && exists:
			list = append(list, registry.Deleted)
		case c.Deleted:
			list = append(list, registry.NotFound)
		case same:
			list = append(list, registry.Unchanged)
		case exists:
			list = append(list, registry.Configured)
		default:
			list = append(list, registry.Created)
		}
	}
	s.puts = append(s.puts, fmt.Sprint(len(changes), " at once"))
	return list, s.write(changes...), nil
}

// stands reports whether an object is there, and is the same.
func (s *fakeStore) stands(c registry.Change) (exists, same bool) {
	if c.Policy != nil {
		old, ok := s.catalog.Policy(c.Policy.PolicyID)
		return ok, ok && reflect.DeepEqual(old, *c.Policy)
	}
	if c.Slice != nil {
		old, ok := s.catalog.Slice(c.Slice.Name)
		return ok, ok && reflect.DeepEqual(old, *c.Slice)
	}
	for _, n := range s.catalog.Namespaces() {
		if n.Name == c.Namespace.Name && len(n.Labels) > 0 {
			return true, reflect.DeepEqual(n, *c.Namespace)
		}
	}
	return false, false
}

const guarded = `---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {tier: front}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: a}}}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: web}
spec: {priority: 3, subject: {namespaces: {matchLabels: {tier: front}}}, ingress: [{action: Deny, from: [{namespaces: {namespaceSelector: {}}}]}]}
`

// did writes results as KIND NAME ACTION.
func did(r api.Results) string {
	var text []string
	for _, o := range r.Results {
		text = append(text, strings.ToLower(o.Kind)+" "+o.Name.String()+" "+o.Action)
	}
	return strings.Join(text, "; ")
}

func TestApplyPolicies(t *testing.T) {
	f := serve(t)
	for _, c := range []struct{ body, want string }{
		{guarded + yaml("a", ""), "namespace shop created; networkpolicy shop/web created; adminnetworkpolicy web created; service default/a created"},
		{guarded, "namespace shop unchanged; networkpolicy shop/web unchanged; adminnetworkpolicy web unchanged"},
		{strings.NewReplacer("front}}\n---", "back}}\n---", "priority: 3", "priority: 4").Replace(guarded),
			"namespace shop configured; networkpolicy shop/web unchanged; adminnetworkpolicy web configured"},
		{strings.Replace(guarded, "{app: a}", "{app: b}", 1), "namespace shop configured; networkpolicy shop/web configured; adminnetworkpolicy web configured"},
	} {
		r, err := f.client.Apply(t.Context(), []byte(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if got := did(r); got != c.want || !r.Synced || f.agent.waited != f.store.revision {
			t.Errorf("results %s, want %s; %+v", got, c.want, r)
		}
	}
	r, err := f.client.DeleteDocuments(t.Context(), []byte(guarded))
	want := "namespace shop deleted; networkpolicy shop/web deleted; adminnetworkpolicy web deleted"
	if err != nil || did(r) != want {
		t.Errorf("delete: %s, %v; want %s", did(r), err, want)
	}
	if n := len(f.store.puts); n != 6 || f.store.puts[0] != "3 at once" {
		t.Errorf("written: %v; want the three objects at once, each time", f.store.puts)
	}
	r, err = f.client.DeleteDocuments(t.Context(), []byte(guarded+guarded))
	want += "; " + want
	if err != nil || did(r) != strings.ReplaceAll(want, "deleted", "not found") {
		t.Errorf("delete again: %s, %v", did(r), err)
	}
}

func TestApplyPoliciesRefuses(t *testing.T) {
	f := serve(t)
	for body, want := range map[string]string{
		guarded + yaml("b", "  selectr: {}\n"):                            "nothing was changed: the input has faults\n22: spec.selectr: unknown field (did you mean selector?)",
		strings.Replace(guarded, "Deny", "deny", 1):                       "nothing was changed: the input has faults\n14: spec.ingress[0].action: \"deny\": want Allow, Deny or Pass",
		strings.Replace(guarded, "{name: web, n", "{name: refused, n", 1): "the registry refuses a policy\n6: invalid object: too much",
		strings.Replace(guarded, "{name: shop,", "{name: refused,", 1):    "the registry refuses a namespace\n2: invalid object: too much",
		guarded + yaml("b", "  clusterIP: 10.96.0.66\n"):                  "the registry refuses a service\n22: spec.clusterIP: address is in use: 10.96.0.66 belongs to service x/y",
	} {
		_, err := f.client.Apply(t.Context(), []byte(body))
		if err == nil || err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
	}
	f.store.fail = fmt.Errorf("%w: so many", registry.ErrInvalid)
	var e *api.Error
	if _, err := f.client.Apply(t.Context(), []byte(yaml("a", "")+guarded)); !errors.As(err, &e) || e.Status != 422 || len(e.Results) > 0 {
		t.Errorf("a commit that is refused: %v", err)
	}
	if _, err := f.client.DeleteDocuments(t.Context(), []byte(yaml("a", "")+guarded)); !errors.As(err, &e) || e.Status != 422 || len(e.Results) > 0 {
		t.Errorf("a deletion that is refused: %v", err)
	}
	if len(f.store.puts) > 0 {
		t.Errorf("%v were written", f.store.puts)
	}
}

func TestGetPolicies(t *testing.T) {
	f := serve(t)
	if _, err := f.client.Apply(t.Context(), []byte(guarded)); err != nil {
		t.Fatal(err)
	}
	e := endpoint("c0ffee00", "w", "10.244.1.2")
	e.Name.Namespace = "shop"
	f.store.write(registry.Change{Endpoint: &e})
	all, err := f.client.Policies(t.Context(), "", false)
	if err != nil || len(all) != 2 {
		t.Fatalf("policies %v, %v", all, err)
	}
	for i, kind := range []registry.Tier{registry.TierAdmin, registry.TierNamespaced} {
		stored, _ := f.store.catalog.Policy(all[i].PolicyID)
		if all[i].Tier != kind || !reflect.DeepEqual(all[i].Policy, stored) || all[i].Selected != 1 || all[i].Containers != nil {
			t.Errorf("policy %+v, want %+v", all[i], stored)
		}
	}
	named, err := f.client.Policies(t.Context(), "shop", true)
	want := []api.Container{{Name: e.Name, EndpointID: e.EndpointID}}
	if err != nil || len(named) != 2 || !reflect.DeepEqual(named[1].Containers, want) {
		t.Errorf("policies %+v, %v, want containers %+v", named, err, want)
	}
	// What is the whole cluster's is everyone's.
	if other, err := f.client.Policies(t.Context(), "other", false); err != nil || len(other) != 1 || other[0].Tier != registry.TierAdmin {
		t.Errorf("of another namespace: %+v, %v", other, err)
	}
	objects, err := f.client.KubernetesPolicies(t.Context(), "shop")
	if err != nil || len(objects) != 2 || !strings.Contains(string(objects[1]), `"kind":"NetworkPolicy"`) ||
		!strings.Contains(string(objects[1]), `"status":{"containers":[{"namespace":"shop","name":"w","node":"n1","containerID":"c0ffee00","interface":"eth0"}]}`) {
		t.Errorf("as Kubernetes: %s, %v", objects, err)
	}
	spaces, err := f.client.Namespaces(t.Context())
	labels := map[string]string{"tier": "front", registry.NamespaceLabel: "shop"}
	if err != nil || !reflect.DeepEqual(spaces, []registry.Namespace{{Name: "shop", Labels: labels}}) {
		t.Errorf("namespaces %v, %v", spaces, err)
	}
	objects, err = f.client.KubernetesNamespaces(t.Context())
	if err != nil || len(objects) != 1 || !strings.Contains(string(objects[0]), `"kind":"Namespace"`) {
		t.Errorf("as Kubernetes: %s, %v", objects, err)
	}
}

func TestDeletePolicies(t *testing.T) {
	f := serve(t)
	if _, err := f.client.Apply(t.Context(), []byte(guarded)); err != nil {
		t.Fatal(err)
	}
	for _, id := range []registry.PolicyID{
		{Tier: registry.TierNamespaced, Name: registry.Name{Namespace: "shop", Name: "web"}},
		{Tier: registry.TierAdmin, Name: registry.Name{Name: "web"}},
	} {
		if r, err := f.client.DeletePolicy(t.Context(), id); err != nil || !r.Synced || len(r.Results) != 1 || r.Results[0].Kind != id.Tier.String() {
			t.Errorf("delete %s: %+v, %v", id, r, err)
		}
		var e *api.Error
		if _, err := f.client.DeletePolicy(t.Context(), id); !errors.As(err, &e) || e.Status != 404 {
			t.Errorf("delete %s twice: %v", id, err)
		}
	}
	if r, err := f.client.DeleteNamespace(t.Context(), "shop"); err != nil || did(r) != "namespace shop deleted" {
		t.Errorf("delete namespace: %+v, %v", r, err)
	}
	if n := len(f.store.catalog.Policies()) + len(f.store.catalog.Namespaces()); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}
