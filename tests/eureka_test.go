package tests

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/nstest"
)

// eurekaWorld is a node on which clients of Eureka of all kinds run, each in a container that it registers.
type eurekaWorld struct {
	n        *nstest.Node
	customer *nstest.Container
	clients  []*eurekaClient
}

// TestEureka: real clients of Eureka register containers, which become backends of services with VIPs and DNS names;
// all of them see what each of them, or an operator, does.
func TestEureka(t *testing.T) {
	w := &eurekaWorld{n: newNode(t, nstest.Settings{})}
	w.customer = addContainer(t, w.n, "customer", nil)
	for _, kind := range []string{speaksJS, readsDelta, speaksJSON, speaksXML} {
		w.clients = append(w.clients, newEurekaClient(t, addContainer(t, w.n, kind, nil), kind, "shop-"+kind))
	}
	for _, c := range w.clients {
		c.start(t, 30)
		w.all(t, c, false, c.instance())
		w.serves(t, c)
	}
	for at, c := range w.clients {
		t.Run(c.kind, func(t *testing.T) { w.live(t, c, w.clients[(at+2)%len(w.clients)]) })
	}
}

// all waits until every client that reads sees of a client's VIP these instances. again: they have registered again,
// of which deltas tell as of new ones, and the client that reads those keeps what it has.
func (w *eurekaWorld) all(t *testing.T, c *eurekaClient, again bool, want ...eurekaInstance) {
	t.Helper()
	for _, reader := range w.clients {
		if reader.reads && !(again && reader.kind == readsDelta) {
			reader.sees(t, c.name, want...)
		}
	}
}

// serves waits until calls to the client's service, by its name and VIP, reach the client's container.
func (w *eurekaWorld) serves(t *testing.T, c *eurekaClient) {
	t.Helper()
	w.awaitBackends(t, c, netip.AddrPortFrom(c.ip, nstest.Port))
	vip := w.resolve(t, c.name+".default.svc.cluster.local.", c.ip.Is4())
	r, err := w.customer.Call(t.Context(), nstest.Call{Net: "tcp", To: netip.AddrPortFrom(vip, nstest.Port), Count: 3})
	if err != nil || r.Failed > 0 || r.Answers[c.in.Name] != 3 {
		t.Errorf("calls to %s at %s: %v, %+v", c.name, vip, err, r)
	}
}

// awaitBackends waits until the kernel sends calls to the client's service to these backends.
func (w *eurekaWorld) awaitBackends(t *testing.T, c *eurekaClient, want ...netip.AddrPort) {
	t.Helper()
	var is []netip.AddrPort
	err := eventually(t, fmt.Sprintf("backends %v of %s", want, c.name), func() (bool, error) {
		svc, err := w.n.API().Service(t.Context(), c.instanceID().ServiceName())
		if err != nil {
			return false, err
		}
		is = nil
		for _, b := range svc.Ports[0].Backends {
			is = append(is, b.Address)
		}
		return slices.Equal(is, want), nil
	})
	if err != nil {
		t.Fatalf("%v; they are %v", err, is)
	}
	check(t, w.n)
}

// resolve asks the node's DNS server from inside the customer for a name's address of one family.
func (w *eurekaWorld) resolve(t *testing.T, name string, v4 bool) netip.Addr {
	t.Helper()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		err = w.customer.InNetns(func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, netip.AddrPortFrom(nodeLocal()[0], 53).String())
			return err
		})
		return conn, err
	}}
	var found netip.Addr
	err := eventually(t, "an address of "+name, func() (bool, error) {
		list, err := r.LookupNetIP(t.Context(), "ip", name)
		if err != nil {
			return false, nil // not yet
		}
		for _, a := range list {
			if a.Unmap().Is4() == v4 {
				found = a.Unmap()
			}
		}
		return found.IsValid(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// live takes a client through what can happen to an instance. stranger is another container's.
func (w *eurekaWorld) live(t *testing.T, c, stranger *eurekaClient) {
	i := c.instance()
	had := vips(t, w.n, c.name)
	registered := c.counts(t).Registered
	c.beats(t, 2)
	w.looks(t, c)

	// An operator takes it out, and nothing that it says brings it back.
	out := i
	out.Status, out.Override = "OUT_OF_SERVICE", "OUT_OF_SERVICE"
	w.setStatus(t, c, "OUT_OF_SERVICE")
	w.all(t, c, false, out)
	w.awaitBackends(t, c)
	if !c.js() {
		c.do(t, eurekaOrder{Do: "reregister", App: i.App, ID: i.ID, Host: i.Host, IP: i.IP, Port: i.Port, SecurePort: 8443,
			VIP: i.VIP, SecureVIP: i.SecureVIP, Renewal: 1, Duration: 30, Metadata: i.Metadata})
	}
	c.beats(t, 2)
	w.all(t, c, false, out)
	w.awaitBackends(t, c)
	if code := c.request(t, http.MethodDelete, w.path(c)+"/status?value=UP"); code != http.StatusOK {
		t.Errorf("DELETE status of %s: %d", c.name, code)
	}
	w.all(t, c, false, i)
	w.serves(t, c)

	// Nobody knows its status until it registers again.
	w.setStatus(t, c, "DOWN")
	w.awaitBackends(t, c)
	if code := c.request(t, http.MethodDelete, w.path(c)+"/status"); code != http.StatusOK {
		t.Errorf("DELETE status of %s: %d", c.name, code)
	}
	w.registersAgain(t, c, registered+1)

	// It is nobody else's.
	if stranger.kind == c.kind {
		t.Fatal("no stranger")
	}
	if code := stranger.request(t, http.MethodPut, w.path(c)+"/status?value=DOWN"); code != http.StatusForbidden && code != http.StatusUnauthorized {
		t.Errorf("another container sets the status of %s: %d", c.name, code)
	}
	if code := stranger.request(t, http.MethodDelete, w.path(c)); code != http.StatusForbidden && code != http.StatusUnauthorized {
		t.Errorf("another container deregisters %s: %d", c.name, code)
	}

	// It is gone, and registers again.
	if _, err := w.n.Sluice(t.Context(), "", "deregister", c.instanceID().String()); err != nil {
		t.Fatal(err)
	}
	w.registersAgain(t, c, registered+2)

	c.stop(t)
	w.ended(t, c)
	if is := vips(t, w.n, c.name); !slices.Equal(is, had) {
		t.Errorf("the service %s has the addresses %v; it had %v", c.name, is, had)
	}
}

// path is that of the client's instance.
func (w *eurekaWorld) path(c *eurekaClient) string {
	return "/apps/" + strings.ToUpper(c.name) + "/" + c.id()
}

// looks reads all the ways that fargo can, and has metadata added.
func (w *eurekaWorld) looks(t *testing.T, c *eurekaClient) {
	t.Helper()
	i := c.instance()
	more := c.instance()
	more.Metadata = maps.Clone(i.Metadata)
	more.Metadata["added"] = "a&b"
	if c.js() {
		if code := c.request(t, http.MethodPut, w.path(c)+"/metadata?added=a%26b"); code != http.StatusOK {
			t.Errorf("PUT metadata of %s: %d", c.name, code)
		}
	} else {
		c.do(t, eurekaOrder{Do: "metadata", App: i.App, ID: i.ID, Key: "added", Value: "a&b"})
	}
	for _, reader := range w.clients {
		want := more
		want.Metadata = reader.understood(more.Metadata)
		if reader.kind == readsDelta || !reader.reads {
			continue // added metadata is told of as a new registration
		}
		reader.sees(t, c.name, more)
		if reader.js() {
			continue
		}
		for _, o := range []eurekaOrder{
			{Do: "instance", App: i.App, ID: i.ID}, {Do: "app", App: i.App}, {Do: "svip", SecureVIP: i.SecureVIP},
		} {
			if is := reader.do(t, o); len(is) != 1 || fmt.Sprint(is[0]) != fmt.Sprint(want) {
				t.Errorf("%s asked for the %s of %s: %+v, want %+v", reader.kind, o.Do, c.name, is, want)
			}
		}
		if is := reader.do(t, eurekaOrder{Do: "apps"}); !slices.ContainsFunc(is, func(is eurekaInstance) bool { return fmt.Sprint(is) == fmt.Sprint(want) }) {
			t.Errorf("%s does not see %s among all: %+v", reader.kind, c.name, is)
		}
	}
	// As it registers it again.
	if _, err := w.n.API().UpdateInstance(t.Context(), c.instanceID(), []byte(`{"metadata": {"added": null}}`)); err != nil {
		t.Fatal(err)
	}
	w.all(t, c, false, i)
}

func (w *eurekaWorld) setStatus(t *testing.T, c *eurekaClient, status string) {
	t.Helper()
	if !c.js() {
		c.do(t, eurekaOrder{Do: "status", App: strings.ToUpper(c.name), ID: c.id(), Status: status})
		return
	}
	if code := c.request(t, http.MethodPut, w.path(c)+"/status?value="+status); code != http.StatusOK {
		t.Fatalf("PUT status of %s: %d", c.name, code)
	}
}

// registersAgain waits until the client has, for the server told it that it does not know it.
func (w *eurekaWorld) registersAgain(t *testing.T, c *eurekaClient, times int) {
	t.Helper()
	err := eventually(t, fmt.Sprintf("%d registrations of %s", times, c.name), func() (bool, error) {
		return c.counts(t).Registered >= times, nil
	})
	if err != nil {
		t.Fatalf("%v; its counts are %+v", err, c.counts(t))
	}
	w.all(t, c, true, c.instance())
	w.serves(t, c)
	c.beats(t, 2)
	if n := c.counts(t); n.Unknown == 0 || n.Failed > 0 {
		t.Errorf("the counts of %s are %+v", c.name, n)
	}
}

// ended waits until nothing of an instance is left but its service.
func (w *eurekaWorld) ended(t *testing.T, c *eurekaClient) {
	t.Helper()
	for _, reader := range w.clients {
		if reader.reads {
			reader.sees(t, c.name)
		}
	}
	w.awaitBackends(t, c)
	if _, err := w.n.API().Instance(t.Context(), c.instanceID()); err == nil {
		t.Errorf("the instance %s is still there", c.instanceID())
	}
	if svc, err := w.n.API().Service(t.Context(), c.instanceID().ServiceName()); err != nil || svc.Labels[registry.RegisteredLabel] != "true" {
		t.Errorf("the service %s: %v, labels %v", c.name, err, svc.Labels)
	}
}
