package registry

import (
	"net/netip"
	"testing"
)

func testEvent() *Event {
	return &Event{
		Type: EventDrop, Reason: "ingress", Protocol: "TCP",
		Source: Party{Kind: PartyContainer, Address: netip.MustParseAddr("10.244.1.5"), Port: 40000,
			Workload: &Name{Namespace: "shop", Name: "client"}, Container: "3f2a91c0ffee"},
		Destination: Party{Kind: PartyWorld, Address: netip.MustParseAddr("203.0.113.9"), Port: 443},
		Policy:      &PolicyID{Name: Name{Namespace: "shop", Name: "deny-all"}},
	}
}

func mustParty(t *testing.T, text string) PartyFilter {
	t.Helper()
	f, err := ParsePartyFilter(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestEventFilter(t *testing.T) {
	for _, x := range []struct {
		filter EventFilter
		want   bool
	}{
		{EventFilter{}, true},
		{EventFilter{Types: []EventType{EventAudit, EventDrop}}, true},
		{EventFilter{Types: []EventType{EventVerdict}}, false},
		{EventFilter{Reasons: []string{"egress", "ingress"}}, true},
		{EventFilter{Reasons: []string{"spoofed"}}, false},
		{EventFilter{Namespace: "shop"}, true},
		{EventFilter{Namespace: "default"}, false},
		{EventFilter{Protocol: "TCP"}, true},
		{EventFilter{Protocol: "UDP"}, false},
		{EventFilter{Port: 443}, true},
		{EventFilter{Port: 40000}, true},
		{EventFilter{Port: 80}, false},
		{EventFilter{Policy: "deny-all"}, true},
		{EventFilter{Policy: "shop/deny-all"}, true},
		{EventFilter{Policy: "default/deny-all"}, false},
		{EventFilter{From: mustParty(t, "shop/client")}, true},
		{EventFilter{From: mustParty(t, "client")}, true},
		{EventFilter{From: mustParty(t, "3f2a")}, true},
		{EventFilter{From: mustParty(t, "3f2")}, false},
		{EventFilter{From: mustParty(t, "world")}, false},
		{EventFilter{From: mustParty(t, "10.244.0.0/16")}, true},
		{EventFilter{From: mustParty(t, "10.244.1.6")}, false},
		{EventFilter{To: mustParty(t, "world")}, true},
		{EventFilter{To: mustParty(t, "node")}, false},
		{EventFilter{To: mustParty(t, "::ffff:203.0.113.9")}, true},
		{EventFilter{To: mustParty(t, "2001:db8::/32")}, false},
		{EventFilter{Container: mustParty(t, "shop/client")}, true},
		{EventFilter{Container: mustParty(t, "203.0.113.9")}, true},
		{EventFilter{Container: mustParty(t, "shop/other")}, false},
		{EventFilter{Port: 443, Namespace: "shop", Policy: "other"}, false},
	} {
		if got := x.filter.Matches(testEvent()); got != x.want {
			t.Errorf("%+v: %v, want %v", x.filter, got, x.want)
		}
		if !x.filter.Matches(&Event{Type: EventLost}) {
			t.Errorf("%+v keeps quiet about lost events", x.filter)
		}
	}
	forged := Event{Type: EventDrop, Source: Party{Kind: PartyForged}, Container: &Name{Namespace: "shop", Name: "client"}}
	for _, f := range []EventFilter{{Namespace: "shop"}, {Container: mustParty(t, "shop/client")}} {
		if !f.Matches(&forged) {
			t.Errorf("%+v passes over what the container sent under another address", f)
		}
	}
	lease := Event{Type: EventLease, Reason: LeaseLapsed, Service: &Name{Namespace: "shop", Name: "web"}}
	for _, f := range []EventFilter{{}, {Types: []EventType{EventLease}}, {Reasons: []string{LeaseLapsed}}, {Namespace: "shop"}} {
		if !f.Matches(&lease) {
			t.Errorf("%+v passes over a lease", f)
		}
	}
	for _, f := range []EventFilter{{Types: []EventType{EventDrop}}, {Reasons: []string{LeaseHeld}}, {Namespace: "x"}, {Protocol: "TCP"}, {Port: 1}, {Policy: "x"}, {From: mustParty(t, "node")}} {
		if f.Matches(&lease) {
			t.Errorf("%+v chooses a lease", f)
		}
	}
	for _, text := range []string{"a b", "/a", "a/", "a/b/c"} {
		if _, err := ParsePartyFilter(text); err == nil {
			t.Errorf("%q passes for an end", text)
		}
	}
}

func TestPartyText(t *testing.T) {
	e := testEvent()
	for got, want := range map[string]string{
		e.Source.Endpoint():                                         "shop/client:40000",
		e.Destination.Endpoint():                                    "203.0.113.9:443",
		Party{Kind: PartyNode}.Endpoint():                           "node",
		Party{Kind: PartyWorld, Port: 5}.Endpoint():                 "world:5",
		Party{Address: netip.IPv6Loopback()}.Endpoint():             "::1",
		(&Party{Address: netip.IPv6Loopback(), Port: 8}).Endpoint(): "[::1]:8",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for n := range 256 {
		name := ProtocolName(uint8(n))
		if back, err := ProtocolNumber(name); err != nil || back != uint8(n) {
			t.Errorf("protocol %d is %s, which is %d, %v", n, name, back, err)
		}
	}
	for _, bad := range []string{"", "256", "-1", "tcpp"} {
		if n, err := ProtocolNumber(bad); err == nil {
			t.Errorf("protocol %q is %d", bad, n)
		}
	}
}

func TestJoinVerdicts(t *testing.T) {
	const a, d, u, r, m = VerdictAllowed, VerdictDenied, VerdictAudit, VerdictRefused, VerdictMixed
	for _, x := range []struct {
		all  []Verdict
		want Verdict
	}{
		{nil, ""}, {[]Verdict{a}, a}, {[]Verdict{d, d}, d}, {[]Verdict{a, u, a}, u}, {[]Verdict{d, r}, d},
		{[]Verdict{a, d}, m}, {[]Verdict{d, a, d}, m}, {[]Verdict{m, m}, m}, {[]Verdict{m, d}, m}, {[]Verdict{r, u}, m},
	} {
		if got := JoinVerdicts(x.all...); got != x.want {
			t.Errorf("%v is %s, want %s", x.all, got, x.want)
		}
	}
	if !a.Passes() || !u.Passes() || d.Passes() || r.Passes() || m.Passes() {
		t.Error("what passes does not, or the reverse")
	}
}
