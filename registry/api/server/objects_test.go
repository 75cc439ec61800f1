package server

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// shortDir is a directory whose path leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestObjects: every kind is written, read and deleted by its own paths, over a real store.
func TestObjects(t *testing.T) {
	l := newLive(t, registry.HubOptions{})
	const service = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop","labels":{"tier":"front"}},"spec":{"selector":{"app":"web"},"ports":[{"port":80}]}}`
	const slice = `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"web-1","namespace":"shop","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","ports":[{"port":80}],"endpoints":[{"addresses":["10.9.9.9"]}]}`
	const policy = `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"deny","namespace":"shop"},"spec":{"podSelector":{}}}`
	const admin = `{"apiVersion":"policy.networking.k8s.io/v1alpha1","kind":"BaselineAdminNetworkPolicy","metadata":{"name":"default"},"spec":{"subject":{"namespaces":{}},"ingress":[{"action":"Allow","from":[{"namespaces":{"namespaceSelector":{}}}]}]}}`
	const namespace = `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop","labels":{"team":"blue"}}}`
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"PUT", "/v1/services/shop/web", service, 200, `"action":"created"`},
		{"PUT", "/v1/services/shop/web", service, 200, `"action":"unchanged"`},
		{"PUT", "/v1/services/shop/web", strings.Replace(service, `"port":80`, `"port":81`, 1), 200, `"action":"configured"`},
		{"PUT", "/v1/services/default/web", service, 422, `"field":"metadata","reason":"service shop/web, and the path says service default/web"`},
		{"PUT", "/v1/services/shop/web", namespace, 422, `namespace shop, and the path says`},
		{"PUT", "/v1/services/shop/web", service + "\n---\n" + namespace, 422, `2 objects`},
		{"PUT", "/v1/services/shop/web", `{"kind":"Service"}`, 422, `"type":"https://sluice.net/problems/invalid"`},
		{"PUT", "/v1/services/shop/web", strings.Replace(service, `"spec":{`, `"spec":{"clusterIP":"192.0.2.1",`, 1), 422, `"field":"spec.clusterIP"`},
		{"GET", "/v1/services/shop/web", "", 200, `"vips":["10.96.0.`},
		{"GET", "/v1/services/shop/web?as=kubernetes", "", 200, `"kind":"Service"`},
		{"GET", "/v1/services/shop/web?as=xml", "", 400, `want kubernetes`},
		{"GET", "/v1/services?labelSelector=tier+in+(front)", "", 200, `"name":"web"`},
		{"GET", "/v1/services?labelSelector=tier%3Dback", "", 200, `"items":[]`},
		{"GET", "/v1/services?namespace=other", "", 200, `"items":[]`},
		{"GET", "/v1/services/shop/none", "", 404, `service shop/none: not found`},
		{"PUT", "/v1/endpointslices/shop/web-1", slice, 200, `"action":"created"`},
		{"GET", "/v1/endpointslices/shop/web-1", "", 200, `"addresses":["10.9.9.9"]`},
		{"GET", "/v1/endpointslices?namespace=shop&as=kubernetes", "", 200, `"kind":"EndpointSlice"`},
		{"PUT", "/v1/policies/NetworkPolicy/shop/deny", policy, 200, `"action":"created"`},
		{"PUT", "/v1/policies/NetworkPolicy/deny", policy, 404, `no such policy`},
		{"PUT", "/v1/policies/Nonsense/shop/deny", policy, 404, `no such policy`},
		{"GET", "/v1/policies/NetworkPolicy/shop/deny", "", 200, `"isolates":["ingress"]`},
		{"GET", "/v1/policies/NetworkPolicy/shop/none", "", 404, `networkpolicy shop/none: not found`},
		{"PUT", "/v1/policies/BaselineAdminNetworkPolicy/default", admin, 200, `"action":"created"`},
		{"GET", "/v1/policies/BaselineAdminNetworkPolicy/default?as=kubernetes", "", 200, `"kind":"BaselineAdminNetworkPolicy"`},
		{"GET", "/v1/policies?namespace=shop&containers=true", "", 200, `"kind":"NetworkPolicy"`},
		{"PUT", "/v1/namespaces/shop", namespace, 200, `"action":"created"`},
		{"GET", "/v1/namespaces/shop", "", 200, `"team":"blue"`},
		{"GET", "/v1/namespaces?labelSelector=team%3Dblue", "", 200, `"name":"shop"`},
		{"GET", "/v1/namespaces?limit=1", "", 200, `"items":[{"name":"shop"`},
		{"GET", "/v1/namespaces/none", "", 404, `namespace none: not found`},
		{"DELETE", "/v1/namespaces/shop", "", 200, `"action":"deleted"`},
		{"GET", "/v1/namespaces/shop", "", 200, `"kubernetes.io/metadata.name":"shop"`}, // something lies in it
		{"DELETE", "/v1/policies/NetworkPolicy/shop/deny", "", 200, `"action":"deleted"`},
		{"DELETE", "/v1/policies/NetworkPolicy/shop/deny", "", 404, `not found`},
		{"DELETE", "/v1/policies/BaselineAdminNetworkPolicy/default", "", 200, `"action":"deleted"`},
		{"DELETE", "/v1/endpointslices/shop/web-1", "", 200, `"action":"deleted"`},
		{"DELETE", "/v1/services/shop/web", "", 200, `"action":"deleted"`},
		{"GET", "/v1/nodes", "", 200, `"items":[]`},
		{"GET", "/v1/nodes/n9", "", 404, `node n9: not found`},
		{"GET", "/v1/endpoints?node=n1&namespace=x", "", 200, `"items":[]`},
		{"GET", "/v1/endpoints/n1/c/eth0", "", 404, `endpoint n1/c/eth0: not found`},
		{"GET", "/v1/healthz", "", 200, `{"ok":true}`},
		{"GET", "/v1/readyz", "", 200, `{"ok":true}`},
		{"GET", "/v1/metrics", "", 200, `sluice_build_info`},
		{"GET", "/v1/nothing", "", 404, `no such path or method`},
		{"POST", "/v1/healthz", "", 405, `method-not-allowed`},
	} {
		status, body := l.ask(t, step.method, step.path, step.body)
		if status != step.status || !strings.Contains(body, step.want) {
			t.Errorf("%s %s: %d %s, want %d %s", step.method, step.path, status, body, step.status, step.want)
		}
	}
}

// TestAnybody: what those may do who have no token.
func TestAnybody(t *testing.T) {
	f := serve(t)
	const anybody, node = "203.0.113.9", "192.0.2.1"
	for _, step := range []struct {
		source, method, path string
		status               int
	}{
		{anybody, "GET", "/v1/services", 200}, {anybody, "GET", "/v1/instances", 200}, {anybody, "GET", "/v1/healthz", 200},
		{anybody, "GET", "/v1/readyz", 200}, {anybody, "GET", "/v1/version", 200}, {anybody, "GET", "/v1/policies", 200},
		{anybody, "GET", "/v1/status", 401}, {node, "GET", "/v1/status", 200}, {"token " + testToken, "GET", "/v1/status", 200},
		{anybody, "GET", "/v1/check", 401}, {node, "GET", "/v1/check", 401}, {"token " + testToken, "GET", "/v1/check", 200},
		{node, "POST", "/v1/apply", 401}, {node, "POST", "/v1/delete", 401}, {node, "PUT", "/v1/services/a/b", 401},
		{node, "DELETE", "/v1/services/a/b", 401}, {node, "PUT", "/v1/endpointslices/a/b", 401}, {node, "DELETE", "/v1/endpointslices/a/b", 401},
		{node, "PUT", "/v1/policies/NetworkPolicy/a/b", 401}, {node, "DELETE", "/v1/policies/NetworkPolicy/a/b", 401},
		{node, "PUT", "/v1/namespaces/a", 401}, {node, "DELETE", "/v1/namespaces/a", 401},
		{node, "POST", "/v1/endpoints/label", 401}, {node, "POST", "/v1/endpoints/mark", 401},
		{"token 0123456789abcdeg", "POST", "/v1/apply", 401},
	} {
		status, body := f.from(t, step.source, step.method, step.path, "")
		if status != step.status {
			t.Errorf("%s: %s %s: %d %s, want %d", step.source, step.method, step.path, status, body, step.status)
		}
		if status == http.StatusUnauthorized && !strings.Contains(body, "unauthenticated") {
			t.Errorf("%s: %s %s: %s", step.source, step.method, step.path, body)
		}
	}
}
