package eureka

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// TestRoom: there is an end to what is registered without a token, and what is there can be registered again.
func TestRoom(t *testing.T) {
	m := newMemory()
	s := serve(t, m)
	s.o.Guard.Room = &access.Room{Instances: 1, Registered: func(netip.Addr) int { return 16 * len(m.items) }}
	c := s.o.Guard.Caller(&http.Request{RemoteAddr: "127.0.0.1:1", Header: http.Header{}})
	for _, r := range []struct {
		id   string
		code int
	}{{"a", 204}, {"b", 507}, {"a", 204}} {
		w := &wire.Instance{
			InstanceID: r.id, HostName: "h", App: "WEB", IPAddr: "127.0.0.1", Status: wire.Up, Overridden: wire.Unknown,
			Port: wire.Port{Number: 8080, Enabled: true}, DataCenter: &wire.DataCenter{Name: wire.MyOwn},
		}
		got := s.register(t.Context(), c, "WEB", w, false)
		if got.code != r.code || r.code == 507 && !strings.Contains(got.reason, "deregister some") {
			t.Errorf("register %s: %d %s, want %d", r.id, got.code, got.reason, r.code)
		}
	}
}
