package eureka_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// state is what is told of an instance: its status, the override, its last action.
func (c *client) state(path string) string {
	i := c.one(path)
	return fmt.Sprint(i.Status, " ", i.Overridden, " ", i.Action)
}

// TestStatusRules goes through what decides about a status, in the order of the rules.
func TestStatusRules(t *testing.T) {
	s, c := start(t, nil)
	const path = "/apps/A/i"
	id := registry.InstanceID{Namespace: "default", Service: "a", ID: "i"}
	post := func(status string) {
		t.Helper()
		c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", fmt.Sprintf(`"status":%q,`, status)))
	}
	step := func(what, want string, backend registry.InstanceStatus) {
		t.Helper()
		equal(t, what, c.state(path), want)
		i, _, err := s.Store.Update(t.Context(), id, func(*registry.Instance) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		equal(t, what+", backend", string(i.Effective()), string(backend))
	}
	post("STARTING")
	step("starts", "STARTING UNKNOWN ADDED", registry.InstanceStarting)
	post("UP")
	step("is up", "UP UNKNOWN ADDED", registry.InstanceUp)
	post("OUT_OF_SERVICE")
	step("does not flip by itself", "UP UNKNOWN ADDED", registry.InstanceUp)
	c.want(http.StatusOK, http.MethodPut, path+"/status?value=UP", "")
	step("is that already", "UP UNKNOWN ADDED", registry.InstanceUp)
	c.want(http.StatusOK, http.MethodPut, path+"/status?value=OUT_OF_SERVICE", "")
	step("is taken out", "OUT_OF_SERVICE OUT_OF_SERVICE MODIFIED", registry.InstanceOutOfService)
	post("UP")
	step("stays out", "OUT_OF_SERVICE OUT_OF_SERVICE ADDED", registry.InstanceOutOfService)
	c.want(http.StatusOK, http.MethodPut, path, "")
	post("DOWN")
	step("is down whatever the override", "DOWN OUT_OF_SERVICE ADDED", registry.InstanceOutOfService)
	post("UP")
	step("is out again", "OUT_OF_SERVICE OUT_OF_SERVICE ADDED", registry.InstanceOutOfService)
	c.want(http.StatusOK, http.MethodPut, path+"/status?value=UP", "")
	step("is forced up", "UP UP MODIFIED", registry.InstanceUp)
	post("DOWN")
	step("is down all the same", "DOWN UP ADDED", registry.InstanceDown)
	c.want(http.StatusOK, http.MethodPut, path, "")
	post("UP")
	step("is up by the override", "UP UP ADDED", registry.InstanceUp)
	equal(t, "overrides", c.get("/serverinfo/statusoverrides"), `{"i":"UP"}`)
	c.want(http.StatusOK, http.MethodDelete, path+"/status?value=OUT_OF_SERVICE", "")
	step("falls back to what is asked for", "OUT_OF_SERVICE UNKNOWN MODIFIED", registry.InstanceOutOfService)
	c.want(http.StatusOK, http.MethodDelete, path+"/status", "")
	step("has no override to drop", "OUT_OF_SERVICE UNKNOWN MODIFIED", registry.InstanceOutOfService)
	c.want(http.StatusOK, http.MethodPut, path+"/status?value=UP", "")
	c.want(http.StatusOK, http.MethodDelete, path+"/status", "")
	step("is unknown", "UNKNOWN UNKNOWN MODIFIED", registry.InstanceUnknown)
	c.want(http.StatusNotFound, http.MethodPut, path, "")
	post("UP")
	step("says it again", "UP UNKNOWN ADDED", registry.InstanceUp)
	equal(t, "overrides", c.get("/serverinfo/statusoverrides"), `{}`)
	c.want(http.StatusInternalServerError, http.MethodPut, path+"/status", "")
	c.want(http.StatusInternalServerError, http.MethodPut, path+"/status?value=up", "")
	c.want(http.StatusInternalServerError, http.MethodDelete, path+"/status?value=gone", "")
	c.want(http.StatusInternalServerError, http.MethodPut, path+"/status?value=UP&lastDirtyTimestamp=x", "")
	c.want(http.StatusNotFound, http.MethodPut, "/apps/A/j/status?value=UP", "")
	c.want(http.StatusNotFound, http.MethodDelete, "/apps/A/j/status?value=UP", "")
}

// TestSeededOverride: an instance may bring an override with it, but not another one later.
func TestSeededOverride(t *testing.T) {
	_, c := start(t, nil)
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", `"overriddenStatus":"OUT_OF_SERVICE",`))
	equal(t, "seeded", c.state("/apps/A/i"), "OUT_OF_SERVICE OUT_OF_SERVICE ADDED")
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", `"overriddenStatus":"UP",`))
	equal(t, "another", c.state("/apps/A/i"), "OUT_OF_SERVICE OUT_OF_SERVICE ADDED")
	c.want(http.StatusOK, http.MethodDelete, "/apps/A/i", "")
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", ""))
	equal(t, "dropped with the instance", c.state("/apps/A/i"), "UP UNKNOWN ADDED")
}

// TestDraining: what is drained in another way is out of service here, and does not come back by registering again.
func TestDraining(t *testing.T) {
	s, c := start(t, nil)
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", ""))
	id := registry.InstanceID{Namespace: "default", Service: "a", ID: "i"}
	_, rev, err := s.Store.Update(t.Context(), id, func(i *registry.Instance) error {
		i.Override = registry.InstanceDraining
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	if got := c.one("/apps/A/i"); got.Status != wire.OutOfService || got.Overridden != wire.OutOfService {
		t.Errorf("drained: %s, %s", got.Status, got.Overridden)
	}
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", ""))
	i, _, err := s.Store.Update(t.Context(), id, func(*registry.Instance) error { return nil })
	if err != nil || i.Effective() != registry.InstanceDraining {
		t.Errorf("registered again: %s, %v", i.Effective(), err)
	}
}

// TestDirty has the table of what a heartbeat's time means beside the one that is known.
func TestDirty(t *testing.T) {
	_, c := start(t, nil)
	peer := c.with("x-netflix-discovery-replication", "true")
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", `"lastDirtyTimestamp":"1000","metadata":{"v":"1"},`))
	const path = "/apps/A/i"
	for _, who := range []*client{c, peer} {
		who.want(http.StatusOK, http.MethodPut, path, "")
		who.want(http.StatusOK, http.MethodPut, path+"?status=UP&lastDirtyTimestamp=1000", "")
		who.want(http.StatusNotFound, http.MethodPut, path+"?lastDirtyTimestamp=1001", "")
		who.want(http.StatusInternalServerError, http.MethodPut, path+"?lastDirtyTimestamp=soon", "")
	}
	c.want(http.StatusOK, http.MethodPut, path+"?lastDirtyTimestamp=999", "")
	c.with("X-Netflix-Discovery-Replication", "TRUE").want(http.StatusOK, http.MethodPut, path+"?lastDirtyTimestamp=999", "")
	a := peer.do(http.MethodPut, path+"?lastDirtyTimestamp=999", "")
	if a.StatusCode != http.StatusConflict || !strings.Contains(a.body, `{"instance":{"instanceId":"i"`) {
		t.Errorf("older, from a peer: %d %s", a.StatusCode, a.body)
	}
	peer.want(http.StatusNotFound, http.MethodPut, path+"?lastDirtyTimestamp=1001&overriddenstatus=DOWN", "")
	equal(t, "a peer's override", c.state(path), "DOWN DOWN MODIFIED")
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", `"lastDirtyTimestamp":"999","metadata":{"v":"old"},`))
	equal(t, "older content", c.one(path).Metadata["v"], "1")
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", `"lastDirtyTimestamp":"1000","metadata":{"v":"2"},`))
	equal(t, "as old", c.one(path).Metadata["v"], "2")
	c.want(http.StatusOK, http.MethodPut, path+"/status?value=OUT_OF_SERVICE&lastDirtyTimestamp=5", "")
	equal(t, "an operator's older time", fmt.Sprint(c.one(path).LastDirty), "1000")
	c.want(http.StatusOK, http.MethodPut, path+"/status?value=UP&lastDirtyTimestamp=2000", "")
	equal(t, "an operator's newer time", fmt.Sprint(c.one(path).LastDirty), "2000")
}

// TestMetadata adds to it, and changes nothing else.
func TestMetadata(t *testing.T) {
	_, c := start(t, nil)
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", `"lastDirtyTimestamp":"1000","metadata":{"a":"1","keep":"x"},`))
	before := c.one("/apps/A/i")
	c.want(http.StatusOK, http.MethodPut, "/apps/A/i/metadata?a=2&a=3&k_1=v+2&zone=z9&e=", "")
	after := c.one("/apps/A/i")
	equal(t, "metadata", fmt.Sprint(after.Metadata), "map[a:2 e: k_1:v 2 keep:x zone:z9]")
	after.Metadata, after.LastUpdated, after.Lease = before.Metadata, before.LastUpdated, before.Lease
	equal(t, "the rest", string(wire.Format{}.AppendInstance(nil, after)), string(wire.Format{}.AppendInstance(nil, before)))
	a := c.do(http.MethodPut, "/apps/A/i/metadata?k="+strings.Repeat("v", 5000), "")
	if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, "metadata") {
		t.Errorf("too long: %d %s", a.StatusCode, a.body)
	}
	c.want(http.StatusNotFound, http.MethodPut, "/apps/A/j/metadata?a=2", "")
}

// TestHealth: an instance whose checks fail is down for readers, and its client does not register again for it.
func TestHealth(t *testing.T) {
	s, c := start(t, nil)
	id := registry.InstanceID{Namespace: "default", Service: "web", ID: "i"}
	_, rev, err := s.Store.Register(t.Context(), registry.Instance{
		InstanceID: id, Status: registry.InstanceUp, Lease: 60, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: []registry.EndpointPort{{Name: "main", Protocol: registry.TCP, Port: 80}}, Checks: []registry.HealthCheck{{Type: registry.CheckTCP}},
	})
	if err == nil {
		err = s.Wait(t.Context(), rev)
	}
	if err != nil {
		t.Fatal(err)
	}
	set := func(h *registry.InstanceHealth) {
		t.Helper()
		rev, err := s.Store.SetHealth(t.Context(), id, h)
		if err == nil {
			err = s.Wait(t.Context(), rev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	set(&registry.InstanceHealth{Node: "n", Since: time.Now(), Reason: "refused"})
	head, list := c.all("/apps/delta")
	equal(t, "failing", head.Hash+" "+words(list), "DOWN_1_ WEB/i=DOWN,MODIFIED")
	c.want(http.StatusOK, http.MethodPut, "/apps/WEB/i", "")
	set(nil)
	head, list = c.all("/apps/delta")
	equal(t, "well", head.Hash+" "+words(list), "UP_1_ WEB/i=UP,MODIFIED")
}

// TestBatch does what a peer's clients did, and answers each, in order.
func TestBatch(t *testing.T) {
	_, c := start(t, nil)
	bare := func(id, more string) *wire.Instance {
		i, err := wire.ParseInstance([]byte(body("A", id, more)), false)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	batch := func(tasks ...wire.Task) string {
		t.Helper()
		a := c.do(http.MethodPost, "/peerreplication/batch/", string(wire.AppendBatch(nil, tasks)))
		results, err := wire.ParseResults([]byte(a.body))
		if err != nil || a.StatusCode != http.StatusOK {
			t.Fatalf("%d %s: %v", a.StatusCode, a.body, err)
		}
		var codes []string
		for _, r := range results {
			text := fmt.Sprint(r.Code)
			if r.Instance != nil {
				text += " " + r.Instance.ID()
			}
			codes = append(codes, text)
		}
		return strings.Join(codes, ",")
	}
	i := bare("i", `"lastDirtyTimestamp":1000,`)
	theirs := bare("t", "")
	theirs.IPAddr = "10.1.2.3"
	equal(t, "first", batch(
		wire.Task{App: "A", ID: "i", Action: wire.TaskHeartbeat},
		wire.Task{App: "A", ID: "i", Action: wire.TaskRegister, Instance: i},
		wire.Task{App: "a", ID: "j", Action: wire.TaskRegister, Instance: bare("j", "")},
		wire.Task{App: "A", ID: "i", Action: wire.TaskHeartbeat, LastDirty: 1000},
		wire.Task{App: "A", ID: "i", Action: wire.TaskHeartbeat, LastDirty: 999},
		wire.Task{App: "B", ID: "i", Action: wire.TaskRegister, Instance: i}, // refused, and nobody minds
		wire.Task{App: "A", ID: "t", Action: wire.TaskRegister, Instance: theirs},
		wire.Task{App: "A", ID: "i", Action: wire.TaskStatus, Status: "OUT_OF_SERVICE"},
		wire.Task{App: "A", ID: "i", Action: wire.TaskStatus, Status: "?"},
		wire.Task{App: "A", ID: "i", Action: "Else"},
		wire.Task{App: "A", ID: "x", Action: wire.TaskCancel},
	), "404,200,200,200,409 i,200,403,200,500,500,404")
	_, list := c.all("/apps")
	equal(t, "then", words(list), "A/i=OUT_OF_SERVICE,MODIFIED A/j=UP,ADDED")
	equal(t, "second", batch(
		wire.Task{App: "A", ID: "i", Action: wire.TaskDeleteStatus, Status: "UP"},
		wire.Task{App: "A", ID: "j", Action: wire.TaskCancel},
	), "200,200")
	_, list = c.all("/apps")
	equal(t, "at last", words(list), "A/i=UP,MODIFIED")
	equal(t, "none", batch(), "")
	if a := c.do(http.MethodPost, "/peerreplication/batch", "{"); a.StatusCode != http.StatusBadRequest {
		t.Errorf("half a batch: %d", a.StatusCode)
	}
}
