package etcd

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// TestForeignValues: whatever lies below our prefix, the good is found and the rest is skipped.
func TestForeignValues(t *testing.T) {
	s := open(t, defaultCIDRs...)
	svc, _ := put(t, s, web("good"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batches := s.Watch(ctx)
	c := registry.NewCatalog("")
	c.Apply(receive(t, batches))
	bad := map[string]string{
		servicePrefix + "default/good":              `{"name":`,
		servicePrefix + "default/other":             `{"namespace":"default","name":"another"}`,
		servicePrefix + "default/port":              `{"namespace":"default","name":"port","ports":[{"protocol":"TCP","port":0}]}`,
		servicePrefix + "default/proto":             `{"namespace":"default","name":"proto","ports":[{"protocol":"ICMP","port":1}]}`,
		servicePrefix + "default/vip":               `{"namespace":"default","name":"vip","vips":["not an address"]}`,
		servicePrefix + "default/zone":              `{"namespace":"default","name":"zone","vips":["fe80::1%eth0"]}`,
		servicePrefix + "default/a/b/c":             `{}`,
		servicePrefix + "one":                       `{}`,
		endpointPrefix + "n1/c/eth0/x":              `7`,
		endpointPrefix + "n1/c/eth0":                `{"node":"n1","containerID":"c","interface":"eth0","addresses":[""]}`,
		nodePrefix + "n1":                           `[]`,
		nodePrefix + "n2":                           ``,
		namespacePrefix + "a":                       `{"name":"b"}`,
		namespacePrefix + "a/b":                     `{"name":"a/b"}`,
		namespacePrefix + "c":                       `{"name":"c","labels":[]}`,
		policyPrefix + "Policy/x/a":                 `{"kind":"NetworkPolicy","namespace":"x","name":"a","isolates":["ingress"]}`,
		policyPrefix + "NetworkPolicy/a":            `{"kind":"NetworkPolicy","name":"a","isolates":["ingress"]}`,
		policyPrefix + "AdminNetworkPolicy/x/a":     `{"kind":"AdminNetworkPolicy","namespace":"x","name":"a"}`,
		policyPrefix + "AdminNetworkPolicy/ns":      `{"kind":"AdminNetworkPolicy","namespace":"x","name":"ns"}`,
		policyPrefix + "AdminNetworkPolicy/late":    `{"kind":"AdminNetworkPolicy","name":"late","priority":2000}`,
		policyPrefix + "AdminNetworkPolicy/empty":   `{"kind":"AdminNetworkPolicy","name":"empty","ingress":[{"action":"Deny","peers":[{}]}]}`,
		policyPrefix + "BaselineAdminNetworkPolicy": `{}`,
		vipPrefix + "10.96.0.1":                     `garbage`,
		vipPrefix + "nonsense":                      `garbage`,
		instancePrefix + "a/b/c":                    `{"namespace":"a","service":"b","id":"d","status":"UP"}`,
		instancePrefix + "a/b/d":                    `{"namespace":"a","service":"b","id":"d","status":"UP","lease":-1}`,
		instancePrefix + "a/b/e":                    `{"namespace":"a","service":"b","id":"e","status":"UP","addresses":["x"]}`,
		instancePrefix + "a/b":                      `{}`,
		leasePrefix + "a/b":                         `{}`,
		leasePrefix + "a/B/c":                       `{}`,
		healthPrefix + "a/b/c":                      `{"namespace":"a","service":"b","id":"d"}`,
		prefix + "unknown/kind":                     `x`,
		prefix + "services":                         `x`,
		endpointPrefix + "n1/\xff/\x00":             "\xff",
	}
	var rev int64
	for _, k := range slices.Sorted(maps.Keys(bad)) {
		r, err := s.client.Put(t.Context(), k, bad[k])
		if err != nil {
			t.Fatal(err)
		}
		rev = r.Header.Revision
	}
	for c.Revision() < rev {
		c.Apply(receive(t, batches))
	}
	if n := len(c.Services()) + len(c.Endpoints()) + len(c.Nodes()) + len(c.Policies()) + len(c.Namespaces()); n != 0 {
		t.Errorf("the catalog has %v, %v, %v, %v, %v", c.Services(), c.Endpoints(), c.Nodes(), c.Policies(), c.Namespaces())
	}
	if s.damaged.Load() == 0 {
		t.Error("no value was counted as damaged")
	}
	// Writing the good service again repairs it.
	if again, _ := put(t, s, web("good")); len(again.VIPs) != 1 {
		t.Errorf("repaired: %+v, was %+v", again, svc)
	}
	if _, err := s.PutEndpoint(t.Context(), endpoint(1)); err != nil {
		t.Error(err)
	}
	if _, err := s.Pools(t.Context()); err != nil {
		t.Error(err)
	}
}

func FuzzChange(f *testing.F) {
	f.Add([]byte(servicePrefix+"default/web"), []byte(`{"namespace":"default","name":"web","vips":["10.96.0.1"],"ports":[{"protocol":"TCP","port":80,"targetPort":8080}]}`))
	f.Add([]byte(endpointPrefix+"n1/c/eth0"), []byte(`{"node":"n1","containerID":"c","interface":"eth0","labels":{"a":"b"},"overrides":{"a":null}}`))
	f.Add([]byte(nodePrefix+"n1"), []byte(`{"name":"n1","addresses":["192.0.2.1"]}`))
	f.Add([]byte(namespacePrefix+"x"), []byte(`{"name":"x","labels":{"a":"b"}}`))
	f.Add([]byte(policyPrefix+"NetworkPolicy/x/a"), []byte(`{"kind":"NetworkPolicy","namespace":"x","name":"a","subject":{"pods":{}},"isolates":["ingress"],`+
		`"ingress":[{"action":"Allow","peers":[{"block":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}],"ports":[{"protocol":"TCP","port":0,"endPort":65535}]}]}`))
	f.Add([]byte(policyPrefix+"AdminNetworkPolicy/a"), []byte(`{"kind":"AdminNetworkPolicy","name":"a","priority":5,"subject":{"namespaces":{},"pods":{}},`+
		`"egress":[{"action":"Pass","peers":[{"pods":{"sameLabels":["a"],"pods":{}}}],"ports":[{"name":"http","port":0,"endPort":0}]}]}`))
	f.Add([]byte(instancePrefix+"a/b/c"), []byte(`{"namespace":"a","service":"b","id":"c","addresses":["10.0.0.1"],"status":"NEWER","lease":30,`+
		`"ports":[{"name":"http","protocol":"TCP","port":80}],"checks":[{"type":"http","body":"a+"}],"eureka":{}}`))
	f.Add([]byte(leasePrefix+"a/b/c"), []byte(leaseValue))
	f.Add([]byte(healthPrefix+"a/b/c"), []byte(`{"namespace":"a","service":"b","id":"c","node":"n1","since":"2026-01-01T00:00:00Z","reason":"x"}`))
	f.Fuzz(func(t *testing.T, k, v []byte) {
		c, ok, err := change(k, v)
		if err != nil {
			c, ok, err = unreadable(k)
		}
		if err != nil || !ok {
			return
		}
		if c.Policy != nil && !c.Deleted {
			if err := c.Policy.Validate(); err != nil {
				t.Errorf("policy %+v is passed on: %v", c.Policy, err)
			}
		}
		if c.Instance != nil && !c.Deleted {
			if err := c.Instance.Validate(); err != nil {
				t.Errorf("instance %+v is passed on: %v", c.Instance, err)
			}
		}
		// What is taken once can be told apart by its key, and can be applied.
		registry.NewCatalog("").Apply(registry.Batch{Revision: 1, Snapshot: true, Changes: []registry.Change{c}})
		gone, ok, err := change(k, nil)
		if v != nil && (err != nil || !ok || !gone.Deleted) {
			t.Errorf("key %q can be put but not deleted: %v", k, err)
		}
	})
}
