package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// wider are parts of policies that would allow more if what is not known of them were passed over.
var wider = []string{
	`"subject":{"pods":{}},"ingress":[{"action":"Allow","fqdns":["x.example"]}]`,
	`"subject":{"pods":{}},"ingress":[{"action":"Allow","peer":[{"pods":{"pods":{"matchLabels":{"app":"x"}}}}]}]`,
	`"subject":{"pods":{}},"ingress":[{"action":"Allow","Peers":[{"pods":{"pods":{"matchLabels":{"app":"x"}}}}]}]`,
	`"subject":{"pods":{}},"ingress":[{"action":"Allow","peers":[{"pods":{"pods":{},"serviceAccounts":{"matchLabels":{"a":"b"}}}}]}]`,
	`"subject":{"pods":{}},"ingress":[],"ingress":[{"action":"Allow"}]`,
	`"subject":{"pods":{}},"until":"2026-01-01"`,
}

// TestUnreadablePolicy: of a NetworkPolicy that cannot be read, the isolation is left, also after a
// restart, until someone writes or deletes it.
func TestUnreadablePolicy(t *testing.T) {
	s := open(t)
	p := policy(registry.TierNamespaced, 1)
	k, err := policyKey(p.PolicyID)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batches := s.Watch(ctx)
	c := registry.NewCatalog("")
	c.Apply(receive(t, batches))
	closed := registry.Policy{PolicyID: p.PolicyID, Isolates: p.Isolates}
	values := []string{"", "garbage", `{"kind":"NetworkPolicy","namespace":"shop","name":"p1","isolates":["sideways"]}`}
	for _, rest := range wider {
		values = append(values, `{"kind":"NetworkPolicy","namespace":"shop","name":"p1","isolates":["ingress"],`+rest+`}`)
	}
	for _, value := range values {
		if _, err := s.PutPolicy(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		c.Apply(receive(t, batches))
		if _, err := s.client.Put(t.Context(), k, value); err != nil {
			t.Fatal(err)
		}
		c.Apply(receive(t, batches))
		fresh := registry.NewCatalog("")
		b, err := newReader(s).snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fresh.Apply(b)
		for name, c := range map[string]*registry.Catalog{"following": c, "reading anew": fresh} {
			if got, _ := c.Policy(p.PolicyID); !reflect.DeepEqual(got, closed) {
				t.Errorf("%s, %q is %+v, want %+v", name, value, got, closed)
			}
		}
	}
	other := policy(registry.TierNamespaced, 2)
	if outcomes, _, err := s.Commit(t.Context(), []registry.Change{{Policy: &p}, {Policy: &other}}); err != nil || outcomes[0] != registry.Created {
		t.Errorf("an unreadable policy counts as one that is there: %v, %v", outcomes, err)
	}
	c.Apply(receive(t, batches))
	if _, err := s.DeletePolicy(t.Context(), p.PolicyID); err != nil {
		t.Fatal(err)
	}
	c.Apply(receive(t, batches))
	if _, still := c.Policy(p.PolicyID); still {
		t.Error("the policy was deleted and is still there")
	}
}

// TestUnreadableLasts: policies of the cluster-wide tiers, and namespaces, stay what they were before they
// could not be read, for as long as the watch runs, through new snapshots too. One that has never read them
// leaves them out. Either is logged once.
func TestUnreadableLasts(t *testing.T) {
	out := &logBuffer{}
	s, err := Open(t.Context(), Options{Dir: filepath.Join(t.TempDir(), "etcd"), Run: runDir(t), Logger: slog.New(slog.NewTextHandler(out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	admin, baseline := policy(registry.TierAdmin, 1), policy(registry.TierBaseline, 1)
	shop := registry.Namespace{Name: "shop", Labels: map[string]string{"a": "b"}}
	good := []registry.Change{{Policy: &admin}, {Policy: &baseline}, {Namespace: &shop}}
	bad := map[string]string{
		policyPrefix + "AdminNetworkPolicy/p1": `{"kind":"AdminNetworkPolicy","name":"p1","subject":{"pods":{}},` +
			`"ingress":[{"action":"Deny","peers":[{"pods":{"pods":{},"networks":["10.0.0.0/8"]}}]}]}`,
		policyPrefix + "BaselineAdminNetworkPolicy/p1": `{"kind":"BaselineAdminNetworkPolicy","name":"p1","subject":{"pods":{}},"until":"2026-01-01"}`,
		namespacePrefix + "shop":                       `{"name":"shop","Labels":{"a":"b"}}`,
	}
	watcher, catalog := newReader(s), registry.NewCatalog("")
	snapshot := func(r *reader, c *registry.Catalog) {
		t.Helper()
		b, err := r.snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Apply(b)
	}
	// follow tells the watcher what has become of the keys.
	follow := func() {
		t.Helper()
		for key := range bad {
			kv, err := s.get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			e := &clientv3.Event{Type: mvccpb.PUT, Kv: kv}
			if kv == nil {
				e = &clientv3.Event{Type: mvccpb.DELETE, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: s.written.Load()}}
			}
			for _, b := range watcher.batches([]*clientv3.Event{e}) {
				catalog.Apply(b)
			}
		}
	}
	expect := func(what string, c *registry.Catalog, want bool) {
		t.Helper()
		if !want && len(c.Policies())+len(c.Namespaces()) > 0 {
			t.Errorf("%s: %+v and %+v are there", what, c.Policies(), c.Namespaces())
		}
		if want && (!reflect.DeepEqual(c.Policies(), []registry.Policy{admin, baseline}) || !reflect.DeepEqual(c.Namespaces(), []registry.Namespace{shop})) {
			t.Errorf("%s: %+v and %+v", what, c.Policies(), c.Namespaces())
		}
	}
	commit := func(deleted bool) {
		t.Helper()
		for i := range good {
			good[i].Deleted = deleted
		}
		if _, _, err := s.Commit(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		follow()
		expect(fmt.Sprint("deleted: ", deleted), catalog, !deleted)
	}
	spoil := func() {
		t.Helper()
		for key, value := range bad {
			if _, err := s.client.Put(t.Context(), key, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	logged := func(words string, want int) {
		t.Helper()
		n := 0
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, "level=ERROR") && strings.Contains(line, words) {
				n++
			}
		}
		if n != want {
			t.Errorf("%q was logged %d times, want %d, in\n%s", words, n, want, out)
		}
	}

	snapshot(watcher, catalog)
	commit(false)
	spoil()
	follow()
	expect("following", catalog, true)
	snapshot(watcher, catalog)
	expect("after another snapshot", catalog, true)
	follow()
	logged("stays in force", len(bad))
	logged("left out", 0)

	fresh, other := registry.NewCatalog(""), newReader(s)
	snapshot(other, fresh)
	expect("reading anew", fresh, false)
	snapshot(other, fresh)
	logged("left out", len(bad))

	commit(false)
	commit(true)
	spoil()
	follow()
	expect("unreadable from the first", catalog, false)
	logged("left out", 2*len(bad))
	commit(false)
	for key := range bad { // while the watch has lost its place
		if _, err := s.client.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	snapshot(watcher, catalog)
	spoil()
	follow()
	expect("unreadable since it was deleted", catalog, false)
}
