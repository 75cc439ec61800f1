package main

import (
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

const guarded = `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {tier: front}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop, annotations: {sluice.net/audit: "true"}}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{namespaceSelector: {matchLabels: {tier: front}}}]
    ports: [{port: http}, {protocol: UDP, port: 5000, endPort: 6000}]
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: web}
spec:
  priority: 7
  subject: {namespaces: {}}
  egress:
  - {name: no-way-out, action: Deny, to: [{namespaces: {sameLabels: [tier]}}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}
  ingress:
  - {action: Deny, from: [{namespaces: {namespaceSelector: {}}}]}
`

func guard(t *testing.T) *fakeAgent {
	t.Helper()
	a := newAgent(t)
	a.wire(t, 1, registry.Name{Namespace: "shop", Name: "w1"}, map[string]string{"app": "web"})
	a.wire(t, 2, registry.Name{Namespace: "shop", Name: "w2"}, map[string]string{"app": "db"})
	a.wire(t, 3, registry.Name{Namespace: "default", Name: "w3"}, nil)
	a.expect(t, 0, "namespace shop                       created\nnetworkpolicy shop/web               created\n"+
		"adminnetworkpolicy web               created\nbaselineadminnetworkpolicy default   created\n", "", guarded, "apply", "-f", "-")
	return a
}

func TestPolicies(t *testing.T) {
	a := guard(t)
	unchanged := "namespace shop                       unchanged\nnetworkpolicy shop/web               unchanged\n" +
		"adminnetworkpolicy web               unchanged\nbaselineadminnetworkpolicy default   unchanged\n"
	a.expect(t, 0, unchanged, "", guarded, "apply", "-f", "-")
	a.expect(t, 0, "networkpolicy shop/web   configured\n", "", strings.Replace(strings.Split(guarded, "---\n")[1], "port: http", "port: 80", 1), "apply", "-f", "-")
	a.expect(t, 0, "KIND                         NAMESPACE   NAME      PRIORITY   DIRECTIONS       AUDIT   SELECTS\n"+
		"AdminNetworkPolicy           -           web       7          egress           -       3\n"+
		"NetworkPolicy                shop        web       -          ingress,egress   yes     1\n"+
		"BaselineAdminNetworkPolicy   -           default   -          ingress          -       2\n", "", "", "get", "policies", "-A")
	a.expect(t, 0, "KIND                         NAME      PRIORITY   DIRECTIONS   AUDIT   SELECTS   CONTAINERS\n"+
		"AdminNetworkPolicy           web       7          egress       -       3         default/w3,shop/w1,shop/w2\n"+
		"BaselineAdminNetworkPolicy   default   -          ingress      -       2         shop/w1,shop/w2\n", "", "", "get", "policies", "-o", "wide")
	a.expect(t, 0, "KIND            NAME   PRIORITY   DIRECTIONS       AUDIT   SELECTS\n"+
		"NetworkPolicy   web    -          ingress,egress   yes     1\n", "", "", "get", "netpol", "web", "-n", "shop")
	a.expect(t, 0, "KIND   NAME   PRIORITY   DIRECTIONS   AUDIT   SELECTS\n", "", "", "get", "netpol")
	a.expect(t, 1, "", "sluice: policy default/other: not found (-A looks in all namespaces)\n", "", "get", "policy", "other")
	a.expect(t, 0, "NAME      LABELS\ndefault   kubernetes.io/metadata.name=default\nshop      kubernetes.io/metadata.name=shop,tier=front\n", "",
		"", "get", "namespaces")
	a.expect(t, 1, "", "sluice: namespace other: not found\n", "", "get", "ns", "other")

	a.expect(t, 0, "networkpolicy shop/web   deleted\n", "", "", "delete", "networkpolicy", "web", "-n", "shop")
	a.expect(t, 1, "", "sluice: delete networkpolicy shop/web: not found\n", "", "delete", "netpol", "web", "-n", "shop")
	a.expect(t, 0, "adminnetworkpolicy web   deleted\n", "", "", "delete", "anp", "web")
	a.expect(t, 0, "namespace shop                       deleted\nnetworkpolicy shop/web               not found\n"+
		"adminnetworkpolicy web               not found\nbaselineadminnetworkpolicy default   deleted\n", "", guarded, "delete", "-f", "-")
	a.expect(t, 1, "", "sluice: delete namespace shop: not found\n", "", "delete", "namespace", "shop")
}

// TestPoliciesAsObjects: what is shown as YAML or JSON is taken, and says which containers are selected.
func TestPoliciesAsObjects(t *testing.T) {
	a := guard(t)
	code, text, errs := a.sluice(t, "", "get", "policies", "-A", "-o", "yaml")
	if code != 0 || strings.Count(text, `containerID: "`+strings.Repeat("1", 64)) != 3 {
		t.Errorf("exit %d, %s, containers in\n%s", code, errs, text)
	}
	a.expect(t, 0, "adminnetworkpolicy web               unchanged\nnetworkpolicy shop/web               unchanged\n"+
		"baselineadminnetworkpolicy default   unchanged\n", "", text, "apply", "-f", "-")
	_, text, _ = a.sluice(t, "", "get", "anp", "web", "-o", "json")
	if !strings.HasPrefix(text, "{\n  \"kind\": \"AdminNetworkPolicy\"") || !strings.Contains(text, `"name": "w3"`) {
		t.Errorf("one policy as JSON:\n%s", text)
	}
	a.expect(t, 0, "adminnetworkpolicy web   unchanged\n", "", text, "apply", "-f", "-")
	_, text, _ = a.sluice(t, "", "get", "namespaces", "shop", "-o", "yaml")
	a.expect(t, 0, "namespace shop   unchanged\n", "", text, "apply", "-f", "-")
}

// TestPolicyAsGiven: what means nothing is not shown as if it meant something, and is given back as it was.
func TestPolicyAsGiven(t *testing.T) {
	a := newAgent(t)
	given := `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  labels: {team: x}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  egress:
  - to: [{ipBlock: {cidr: 10.0.0.0/8}}]
`
	a.expect(t, 0, "networkpolicy default/web   created\n", "", given, "apply", "-f", "-")
	a.expect(t, 0, "KIND            NAME   PRIORITY   DIRECTIONS   AUDIT   SELECTS\n"+
		"NetworkPolicy   web    -          ingress      -       0\n", "", "", "get", "netpol", "web")
	_, text, _ := a.sluice(t, "", "get", "netpol", "web", "-o", "yaml")
	for _, want := range []string{"team: x", "cidr: 10.0.0.0/8"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	a.expect(t, 0, "networkpolicy default/web   unchanged\n", "", text, "apply", "-f", "-")
}

func TestPoliciesRefused(t *testing.T) {
	a := newAgent(t)
	bad := strings.NewReplacer("endPort: 6000", "endPort: 600", "priority: 7", "priority: -1", `"true"`, "yes please").Replace(guarded)
	a.expect(t, 1, "", "sluice: nothing was changed: the input has faults\n"+
		"  stdin:7: metadata.annotations[sluice.net/audit]: \"yes please\": want \"true\" or \"false\"\n"+
		"  stdin:13: spec.ingress[0].ports[1].endPort: 600 is less than port 5000\n"+
		"  stdin:19: spec.priority: -1: want 0 to 1000\n", bad, "apply", "-f", "-")
	// A policy that reads well and is too large to be stored: what stands before it is not written.
	peer := "  - from: [{podSelector: {matchLabels: {app: " + strings.Repeat("x", 63) + "}}}]\n"
	huge := strings.Split(guarded, "---\n")[0] + "---\n" + strings.SplitN(strings.Split(guarded, "---\n")[1], "  - from", 2)[0] + strings.Repeat(peer, 3000)
	code, out, errs := a.sluice(t, huge, "apply", "-f", "-")
	if code != 1 || out != "" || !strings.Contains(errs, "the registry refuses a policy\n  stdin:5: NetworkPolicy shop/web: invalid object: object has") {
		t.Errorf("exit %d\n%s\n%s", code, out, errs)
	}
	if len(a.catalog.Namespaces())+len(a.catalog.Policies()) > 0 || a.catalog.Revision() > 1 {
		t.Errorf("something was written: revision %d", a.catalog.Revision())
	}
}

func TestPolicyCompletion(t *testing.T) {
	a := guard(t)
	for line, want := range map[string]string{
		"get policies ":                "default web",
		"get policies -n shop w":       "web",
		"get netpol -n shop ":          "web",
		"get netpol ":                  "",
		"get banp ":                    "default",
		"get namespaces ":              "default shop",
		"delete ":                      "adminnetworkpolicy baselineadminnetworkpolicy endpointslice namespace networkpolicy node service",
		"delete adminnetworkpolicy ":   "web",
		"delete networkpolicy ":        "",
		"delete ns s":                  "shop",
		"get policies -n s":            "shop",
		"delete networkpolicy web x ":  "",
		"get baselineadminnetworkpoli": "baselineadminnetworkpolicy",
	} {
		a.complete(t, line, want)
	}
}
