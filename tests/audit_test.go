package tests

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

// TestNodeInAuditMode: on a node in audit mode what policies and closed networks deny passes, and is told;
// it is dropped once the agent is started without.
func TestNodeInAuditMode(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		settings.Audit = true
		s := newShop(t, settings)
		stranger := s.add(t, nstest.Spec{Name: "stranger", Network: "other"})
		for _, denied := range []struct {
			from   *nstest.Container
			to     *nstest.Container
			reason string
		}{{s.client, s.db, "ingress"}, {stranger, s.open, "network"}} {
			for _, network := range []string{"tcp", "udp"} {
				for _, to := range []netip.Addr{denied.to.V4, denied.to.V6} {
					caller, err := denied.from.Caller(nstest.Call{Net: network, To: netip.AddrPortFrom(to, nstest.Port)})
					if err != nil {
						t.Fatal(err)
					}
					e := s.listen(t, api.EventQuery{To: to.String(), Types: []string{string(registry.EventAudit)}, Limit: 1}).event()
					r, err := caller.Stop()
					if err != nil || r.Failed > 0 || r.Calls == 0 {
						t.Errorf("%s by %s to %s in audit mode: %d of %d calls failed, %v", denied.from.Name, network, to, r.Failed, r.Calls, err)
					}
					if e.Reason != denied.reason || e.Source.Container != denied.from.ID {
						t.Errorf("audited: %+v, want %s from %s", e, denied.reason, denied.from.Name)
					}
				}
			}
		}
		if data := string(scrape(t, s.Node)); !strings.Contains(data, `policy="shop/db",verdict="audited"}`) {
			t.Error("no metric of flows that were audited")
		}
		settings.Audit = false
		if err := s.Restart(t.Context(), settings); err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"tcp", "udp"} {
			for _, to := range []netip.Addr{s.db.V4, s.db.V6} {
				r, err := s.client.Call(t.Context(), nstest.Call{
					Net: network, To: netip.AddrPortFrom(to, nstest.Port), Count: 1, Timeout: 300 * time.Millisecond,
				})
				if err != nil || r.Failed != 1 {
					t.Errorf("%s to %s without audit mode: %d of %d calls failed, %v", network, to, r.Failed, r.Calls, err)
				}
			}
		}
		check(t, s.Node)
	})
}
