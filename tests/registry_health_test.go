package tests

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

// TestUnhealthyInstance: an instance whose server dies gets no more calls, and gets them again when it is back; so too
// when the server dies, or comes back, while there is no agent.
func TestUnhealthyInstance(t *testing.T) {
	n := newNode(t, nstest.Settings{})
	client := addContainer(t, n, "client", nil)
	shop := []registry.EndpointPort{{Name: "shop", Protocol: registry.TCP, Port: nstest.Port}}
	one := addContainer(t, n, "one", nil)
	two := addContainer(t, n, "two", nil)
	for _, c := range []*nstest.Container{one, two} {
		if _, err := n.API().Register(t.Context(), registry.Instance{
			InstanceID: registry.InstanceID{Namespace: "default", Service: "shop", ID: c.Name}, Status: registry.InstanceUp,
			Addresses: []netip.Addr{c.V4, c.V6}, Ports: shop, Checks: []registry.HealthCheck{{Type: registry.CheckTCP, Interval: 100}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	to := vips(t, n, "shop")
	if len(to) != 2 {
		t.Fatalf("the service of the instances has the addresses %v", to)
	}
	serve := func(want ...string) {
		t.Helper()
		awaitBackends(t, n, "shop", want...)
		for _, vip := range to {
			r, err := client.Call(t.Context(), nstest.Call{Net: "tcp", To: netip.AddrPortFrom(vip, nstest.Port), Count: 100})
			if err != nil {
				t.Fatal(err)
			}
			var answers []string
			for name := range r.Answers {
				answers = append(answers, name)
			}
			if slices.Sort(answers); r.Failed > 0 || !slices.Equal(answers, want) {
				t.Errorf("of calls to %s %d failed; answers are %v, want them from %v", vip, r.Failed, r.Answers, want)
			}
		}
	}
	serve("one", "two")
	two.Quit()
	serve("one")
	out, err := n.Sluice(t.Context(), "", "get", "instances", "-o", "yaml")
	if err != nil || !strings.Contains(string(out), "connection refused") {
		t.Errorf("the reason is not shown: %v\n%s", err, out)
	}
	if err := two.Serve(nstest.Port); err != nil {
		t.Fatal(err)
	}
	serve("one", "two")

	if err := n.KillAgent(); err != nil {
		t.Fatal(err)
	}
	one.Quit()
	if err := n.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	serve("two")
	if err := n.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if err := one.Serve(nstest.Port); err != nil {
		t.Fatal(err)
	}
	if err := n.StartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	serve("one", "two")
}

// awaitBackends waits until a service leads to these containers, and to nothing else.
func awaitBackends(t *testing.T, n *nstest.Node, service string, want ...string) {
	t.Helper()
	var is string
	err := nstest.Await(t.Context(), "backends "+fmt.Sprint(want), func() (bool, error) {
		instances, err := n.API().Instances(t.Context(), api.InstanceQuery{Namespace: "default", Service: service})
		if err != nil {
			return false, err
		}
		names := map[netip.Addr]string{}
		for _, i := range instances {
			for _, a := range i.Addresses {
				names[a] = i.ID
			}
		}
		svc, err := n.API().Service(t.Context(), registry.Name{Namespace: "default", Name: service})
		if err != nil {
			return false, err
		}
		var got []string
		for _, b := range svc.Ports[0].Backends {
			got = append(got, names[b.Address.Addr()])
		}
		is = fmt.Sprint(got)
		slices.Sort(got)
		// Both families are there or both are gone.
		return slices.Equal(slices.Compact(got), want) && len(svc.Ports[0].Backends) == 2*len(want), nil
	})
	if err != nil {
		t.Fatalf("%v; they are %s", err, is)
	}
}
