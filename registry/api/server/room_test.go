package server

import (
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
)

// TestInstanceRoom: there is an end to what a container registers without a token, and what it has it keeps.
func TestInstanceRoom(t *testing.T) {
	f := serve(t)
	f.server.Guard.Room = &access.Room{Services: 1, Exists: func(n registry.Name) bool {
		_, made := f.store.catalog.Instance(registry.InstanceID{Namespace: n.Namespace, Service: n.Name, ID: "w1"})
		return made
	}}
	const container = "10.244.1.2"
	other := strings.Replace(web1, `"service":"web"`, `"service":"other"`, 1)
	for _, step := range []struct {
		source, body string
		status       int
		want         string
	}{
		{container, web1, 200, `"registered"`},
		{container, other, 507, "there is no service default/other"},
		{container, web1, 200, `"registered"`},
		{"token " + testToken, other, 200, `"registered"`},
	} {
		status, body := f.from(t, step.source, "POST", "/v1/instances", step.body)
		if status != step.status || !strings.Contains(body, step.want) {
			t.Errorf("%s: %.60s: %d %s, want %d %s", step.source, step.body, status, body, step.status, step.want)
		}
	}
}
