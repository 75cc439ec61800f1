package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/api"
)

// fakeStore is a registry in a catalog: what is written is known at once.
type fakeStore struct {
	catalog  *registry.Catalog
	view     *View
	revision int64
	fail     error // of the next write
	puts     []string
	renewed  []registry.InstanceID
}

func (s *fakeStore) write(changes ...registry.Change) int64 {
	s.revision++
	s.catalog.Apply(registry.Batch{Revision: s.revision, Changes: changes})
	s.view.Apply(registry.Batch{Revision: s.revision, Changes: changes})
	return s.revision
}

func (s *fakeStore) CheckServices(_ context.Context, reqs []registry.ServiceRequest) ([]*registry.Service, []error, error) {
	before, refused := make([]*registry.Service, len(reqs)), make([]error, len(reqs))
	for i, req := range reqs {
		if old, ok := s.catalog.Service(req.Name); ok {
			before[i] = &old
		}
		for _, a := range req.VIPs {
			if a == netip.MustParseAddr("10.96.0.66") {
				refused[i] = fmt.Errorf("%w: %s belongs to service x/y", registry.ErrVIPTaken, a)
			}
		}
	}
	return before, refused, nil
}

func (s *fakeStore) PutServices(_ context.Context, reqs []registry.ServiceRequest) (stored []registry.Service, revision int64, err error) {
	for _, req := range reqs {
		s.puts = append(s.puts, req.Name.String())
		if err := s.fail; err != nil && len(s.puts) > 1 {
			return stored, revision, err
		}
		svc := req.Service
		if !svc.Headless {
			svc.Families = nil
		}
		if len(svc.VIPs) == 0 && !svc.Headless {
			svc.VIPs = []netip.Addr{netip.MustParseAddr("10.96.0.1")}
		}
		stored, revision = append(stored, svc), s.write(registry.Change{Service: &svc})
	}
	return stored, revision, nil
}

func (s *fakeStore) DeleteService(_ context.Context, n registry.Name, slices ...registry.Name) (int64, error) {
	if _, ok := s.catalog.Service(n); !ok {
		return 0, fmt.Errorf("delete service %s: %w", n, registry.ErrNotFound)
	}
	changes := []registry.Change{{Service: &registry.Service{Name: n}, Deleted: true}}
	for _, slice := range slices {
		changes = append(changes, registry.Change{Slice: &registry.Slice{Name: slice}, Deleted: true})
	}
	return s.write(changes...), nil
}

func (s *fakeStore) LabelEndpoint(_ context.Context, id registry.EndpointID, set map[string]string, remove []string) (int64, error) {
	for _, e := range s.catalog.Endpoints() {
		if e.EndpointID == id {
			e.Labels = map[string]string{}
			for k, v := range set {
				e.Labels[k] = v
			}
			return s.write(registry.Change{Endpoint: &e}), nil
		}
	}
	return 0, registry.ErrNotFound
}

func (s *fakeStore) MarkEndpoint(_ context.Context, id registry.EndpointID, m registry.Marks) (registry.Endpoint, int64, error) {
	for _, e := range s.catalog.Endpoints() {
		if e.EndpointID == id {
			if m.Unready != nil {
				e.Unready = *m.Unready
			}
			if m.Terminating != nil {
				e.Terminating = *m.Terminating
			}
			return e, s.write(registry.Change{Endpoint: &e}), nil
		}
	}
	return registry.Endpoint{}, 0, registry.ErrNotFound
}

// fakeAgent is a node whose maps may lag.
type fakeAgent struct {
	lag    error
	waited int64
	check  api.CheckResult
}

func (a *fakeAgent) Status(context.Context) api.Status {
	return api.Status{Node: "n1", Ready: true, Kernel: "6.18", Attach: "tcx"}
}

func (a *fakeAgent) Check(context.Context) (api.CheckResult, error) { return a.check, nil }

func (a *fakeAgent) WaitSynced(_ context.Context, revision int64) error {
	a.waited = revision
	return a.lag
}

type fixture struct {
	store  *fakeStore
	agent  *fakeAgent
	client *api.Client
	socket string
	server *Server

	described *description
}

const testToken = "0123456789abcdef"

// testOwn is a node 192.0.2.1 with two containers.
func testOwn(a netip.Addr) []netip.Addr {
	switch a.String() {
	case "10.244.1.2", "10.244.1.3":
		return []netip.Addr{a}
	case "127.0.0.1", "192.0.2.1":
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1")}
	}
	return nil
}

func testGuard(t *testing.T, dir string) *access.Guard {
	t.Helper()
	path := filepath.Join(dir, "tokens")
	if err := os.WriteFile(path, []byte("ops "+testToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := access.OpenTokens(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &access.Guard{Tokens: tokens, Own: testOwn}
}

// serve runs the API on a unix socket.
func serve(t *testing.T) *fixture {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fixture{store: &fakeStore{catalog: registry.NewCatalog(""), view: NewView()}, agent: &fakeAgent{}, socket: filepath.Join(dir, "sock")}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	f.store.view.Apply(registry.Batch{Snapshot: true})
	f.server = New(Options{
		Store: f.store, Catalog: f.store.catalog, Agent: f.agent, Version: api.Version{Version: "v1", Node: "n1"}, SyncTimeout: time.Second, View: f.store.view, Registrar: f.store,
		Guard: testGuard(t, dir),
	})
	f.described = describe(t, f.server)
	s := httptest.NewUnstartedServer(f.server)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	f.client = api.NewClient(f.socket)
	t.Cleanup(f.client.Close)
	return f
}

func yaml(name, more string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec:\n  selector: {app: %s}\n  ports: [{port: 80, targetPort: 8080}]\n%s", name, name, more)
}

func nodePort(name, port string) string {
	return strings.Replace(yaml(name, "  type: NodePort\n"), "port: 80,", "port: 80, nodePort: "+port+",", 1)
}

func TestApply(t *testing.T) {
	f := serve(t)
	for _, c := range []struct{ body, want string }{
		{yaml("a", "") + yaml("b", "  clusterIP: 10.96.0.9\n"), "default/a created [10.96.0.1]; default/b created [10.96.0.9]"},
		{yaml("a", "") + yaml("b", "  clusterIP: 10.96.0.9\n  ipFamilies: [IPv4]\n"), "default/a unchanged [10.96.0.1]; default/b unchanged [10.96.0.9]"},
		{strings.ReplaceAll(yaml("a", ""), "8080", "9090"), "default/a configured [10.96.0.1]"},
		{yaml("h", "  clusterIP: None\n"), "default/h created []"},
	} {
		r, err := f.client.Apply(t.Context(), []byte(c.body))
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, o := range r.Results {
			text = append(text, fmt.Sprint(o.Name, " ", o.Action, " ", o.VIPs))
		}
		if got := strings.Join(text, "; "); got != c.want || !r.Synced || f.agent.waited != f.store.revision {
			t.Errorf("results %s, want %s; %+v", got, c.want, r)
		}
	}
	f.agent.lag = errors.New("maps are at revision 3")
	r, err := f.client.Apply(t.Context(), []byte(yaml("late", "")))
	if err != nil || r.Synced || !strings.Contains(r.Warning, "maps are at revision 3") {
		t.Errorf("a node that lags: %+v, %v", r, err)
	}
}

func TestApplyRefuses(t *testing.T) {
	f := serve(t)
	for _, c := range []struct {
		name, body string
		status     int
		detail     string
	}{
		{"empty", "", 422, "1: no document: the input is empty"},
		{"unknown field", yaml("a", "") + yaml("b", "  selectr: {}\n"), 422, "15: spec.selectr: unknown field (did you mean selector?)"},
		{"VIP taken", yaml("a", "") + yaml("b", "  clusterIP: 10.96.0.66\n"), 409, "15: spec.clusterIP: address is in use: 10.96.0.66 belongs to service x/y"},
		{"VIP asked for twice", yaml("a", "  clusterIP: 10.96.0.7\n") + yaml("b", "  clusterIP: 10.96.0.7\n"), 409,
			"16: spec.clusterIP: address is in use: port 80/TCP of 10.96.0.7 is asked for by service default/a too"},
		{"node port asked for twice", nodePort("a", "30080") + nodePort("b", "30080"), 409,
			"15: spec.ports[0].nodePort: node port is in use: 30080/TCP is asked for by service default/a too"},
		{"external address asked for twice", yaml("a", "  externalIPs: [192.0.2.1]\n") + yaml("b", "  externalIPs: [192.0.2.1]\n"), 409,
			"16: spec.externalIPs[0]: address is in use: port 80/TCP of 192.0.2.1 is asked for by service default/a too"},
		{"VIP and external address", yaml("a", "  externalIPs: [192.0.2.1]\n") + yaml("b", "  clusterIP: 192.0.2.1\n"), 409,
			"16: spec.clusterIP: address is in use: 192.0.2.1 is asked for by service default/a too, and cannot be the VIP of one and an external address of another"},
		{"too large", strings.Repeat("#", MaxBody+1), 413, ""},
	} {
		_, err := f.client.Apply(t.Context(), []byte(c.body))
		var e *api.Error
		if !errors.As(err, &e) || e.Status != c.status {
			t.Errorf("%s: error %v, want status %d", c.name, err, c.status)
			continue
		}
		if c.detail != "" && (len(e.Details) != 1 || e.Details[0].String() != c.detail) {
			t.Errorf("%s: details %v, want %s", c.name, e.Details, c.detail)
		}
	}
	if len(f.store.puts) > 0 {
		t.Errorf("%v were written", f.store.puts)
	}
	// What comes up only while writing says how far it got.
	f.store.fail = fmt.Errorf("put service: %w: full", registry.ErrVIPsExhausted)
	_, err := f.client.Apply(t.Context(), []byte(yaml("a", "")+yaml("b", "")))
	var e *api.Error
	if !errors.As(err, &e) || e.Status != 507 || len(e.Results) != 1 || e.Results[0].Name.Name != "a" {
		t.Errorf("a full range: %#v", err)
	}
}

func TestDelete(t *testing.T) {
	f := serve(t)
	if _, err := f.client.Apply(t.Context(), []byte(yaml("a", "")+yaml("b", ""))); err != nil {
		t.Fatal(err)
	}
	r, err := f.client.DeleteService(t.Context(), registry.Name{Namespace: "default", Name: "a"})
	if err != nil || len(r.Results) != 1 || r.Results[0].Action != api.Deleted {
		t.Errorf("delete: %+v, %v", r, err)
	}
	_, err = f.client.DeleteService(t.Context(), registry.Name{Namespace: "default", Name: "a"})
	var e *api.Error
	if !errors.As(err, &e) || e.Status != 404 {
		t.Errorf("delete twice: %v", err)
	}
	r, err = f.client.DeleteDocuments(t.Context(), []byte(yaml("a", "")+yaml("b", "  whatever: 1\n")))
	if err != nil || len(r.Results) != 2 || r.Results[0].Action != api.NotFound || r.Results[1].Action != api.Deleted {
		t.Errorf("delete documents: %+v, %v", r, err)
	}
	if n := len(f.store.catalog.Services()); n != 0 {
		t.Errorf("%d services are left", n)
	}
}

// TestDeleteTakesSlicesAlong: those that a service owns go with it, and are told, each once.
func TestDeleteTakesSlicesAlong(t *testing.T) {
	slice := func(name, more string) string {
		return "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: " + name + ", labels: {kubernetes.io/service-name: a}" + more + "}\n" +
			"addressType: IPv4\nports: []\nendpoints: []\n"
	}
	const owned = ", ownerReferences: [{apiVersion: v1, kind: Service, name: a, uid: x}]"
	all := yaml("a", "") + slice("a-1", owned) + slice("a-2", owned) + slice("mine", "")
	for what, c := range map[string]struct {
		delete func(*api.Client) (api.Results, error)
		want   string
	}{
		"by name": {func(c *api.Client) (api.Results, error) {
			return c.DeleteService(t.Context(), registry.Name{Namespace: "default", Name: "a"})
		}, "Service default/a, EndpointSlice default/a-1, EndpointSlice default/a-2"},
		"by documents": {func(c *api.Client) (api.Results, error) {
			return c.DeleteDocuments(t.Context(), []byte(yaml("a", "")+slice("a-2", "")))
		}, "Service default/a, EndpointSlice default/a-2, EndpointSlice default/a-1"},
	} {
		f := serve(t)
		if _, err := f.client.Apply(t.Context(), []byte(all)); err != nil {
			t.Fatal(err)
		}
		r, err := c.delete(f.client)
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, o := range r.Results {
			told = append(told, o.Kind+" "+o.Name.String())
		}
		left := f.store.catalog.Slices()
		if got := strings.Join(told, ", "); got != c.want || len(left) != 1 || left[0].Name.Name != "mine" {
			t.Errorf("%s: %s are told, want %s; %v are left", what, got, c.want, left)
		}
	}
}

func TestGet(t *testing.T) {
	f := serve(t)
	if _, err := f.client.Apply(t.Context(), []byte(yaml("a", "")+strings.ReplaceAll(yaml("b", ""), "name: b", "name: b, namespace: shop"))); err != nil {
		t.Fatal(err)
	}
	e := endpoint("c0ffee00", "w", "10.244.1.2")
	f.store.write(registry.Change{Endpoint: &e})
	f.store.write(registry.Change{Node: &registry.Node{Name: "n1"}})
	all, err := f.client.Services(t.Context(), "")
	if err != nil || len(all) != 2 {
		t.Fatalf("services %v, %v", all, err)
	}
	s, err := f.client.Service(t.Context(), registry.Name{Namespace: "default", Name: "a"})
	want := []api.Port{{
		ServicePort: registry.ServicePort{Protocol: registry.TCP, Port: 80, TargetPort: 8080},
		Backends:    []api.Backend{{Address: netip.MustParseAddrPort("10.244.1.2:8080"), Weight: 1}},
	}}
	if err != nil || s.Endpoints != 1 || !reflect.DeepEqual(s.Ports, want) {
		t.Errorf("service %+v, %v", s, err)
	}
	kubernetes, err := f.client.KubernetesServices(t.Context(), "shop")
	if err != nil || len(kubernetes) != 1 || !strings.Contains(string(kubernetes[0]), `"kind":"Service"`) {
		t.Errorf("as Kubernetes: %s, %v", kubernetes, err)
	}
	if endpoints, err := f.client.Endpoints(t.Context()); err != nil || !reflect.DeepEqual(endpoints, []registry.Endpoint{e}) {
		t.Errorf("endpoints %v, %v", endpoints, err)
	}
	if nodes, err := f.client.Nodes(t.Context()); err != nil || len(nodes) != 1 {
		t.Errorf("nodes %v, %v", nodes, err)
	}
	if v, err := f.client.Version(t.Context()); err != nil || v.Version != "v1" {
		t.Errorf("version %v, %v", v, err)
	}
	if st, err := f.client.Status(t.Context()); err != nil || !st.Ready {
		t.Errorf("status %v, %v", st, err)
	}
	f.agent.check.Differences = []api.Difference{{Object: "10.96.0.1:80/TCP", Problem: "not in the maps"}}
	if c, err := f.client.Check(t.Context()); err != nil || c.Differences[0].String() != "10.96.0.1:80/TCP: not in the maps" {
		t.Errorf("check %v, %v", c, err)
	}
}

func endpoint(id, name, address string) registry.Endpoint {
	return registry.Endpoint{
		EndpointID: registry.EndpointID{Node: "n1", ContainerID: id, Interface: "eth0"},
		Name:       registry.Name{Namespace: "default", Name: name},
		Addresses:  []netip.Addr{netip.MustParseAddr(address)}, Labels: map[string]string{"app": "a"},
	}
}

func TestMark(t *testing.T) {
	f := serve(t)
	e := endpoint("c0ffee00", "web", "10.244.1.2")
	second := e
	second.Interface = "eth1"
	f.store.write(registry.Change{Endpoint: &e}, registry.Change{Endpoint: &second})
	yes, no := true, false
	for _, c := range []struct {
		marks registry.Marks
		want  string
	}{
		{registry.Marks{Terminating: &yes}, "draining"},
		{registry.Marks{Unready: &yes}, "unready,draining"},
		{registry.Marks{Unready: &yes, Terminating: &no}, "unready"},
		{registry.Marks{Unready: &no}, "ready"},
	} {
		r, err := f.client.Mark(t.Context(), api.MarkRequest{Container: "web", Marks: c.marks})
		if err != nil || len(r.Results) != 1 || !r.Synced || f.agent.waited != f.store.revision {
			t.Fatalf("%+v, %v", r, err)
		}
		if got := r.Results[0]; got.Action != api.Marked || got.Name != e.Name || strings.Join(got.Conditions, ",") != c.want {
			t.Errorf("%+v, want %s", got, c.want)
		}
		for _, now := range f.store.catalog.Endpoints() {
			if got := strings.Join(api.EndpointConditions(&now), ","); got != c.want {
				t.Errorf("%s is %s, want %s", now.Interface, got, c.want)
			}
		}
	}
	for want, req := range map[int]api.MarkRequest{
		404: {Container: "nobody", Marks: registry.Marks{Unready: &yes}}, 422: {Container: "web"},
	} {
		_, err := f.client.Mark(t.Context(), req)
		var e *api.Error
		if !errors.As(err, &e) || e.Status != want {
			t.Errorf("%+v: error %v, want status %d", req, err, want)
		}
	}
	for _, body := range []string{`{"container":"web","unready":true,"drain":true}`, `{"container":`, `[]`} {
		status, answer := f.ask(t, http.MethodPost, "/v1/endpoints/mark", body)
		if status != http.StatusBadRequest || !strings.Contains(answer, "read mark request") {
			t.Errorf("%s: %d %s", body, status, answer)
		}
	}
}

func TestLabel(t *testing.T) {
	f := serve(t)
	for i, e := range []registry.Endpoint{
		endpoint("c0ffee00", "web", "10.244.1.2"), endpoint("c0ffee11", "api", "10.244.1.3"),
		endpoint("deadbeef", "api", "10.244.1.4"), endpoint("c0ffee0", "short", "10.244.1.5"),
	} {
		if i == 2 {
			e.Name.Namespace = "shop"
		}
		f.store.write(registry.Change{Endpoint: &e})
	}
	set := map[string]string{"tier": "x"}
	for _, c := range []struct {
		req    api.LabelRequest
		status int
		want   string // container or part of the error
	}{
		{api.LabelRequest{Container: "c0ffee00", Set: set}, 0, "default/web"},
		{api.LabelRequest{Container: "c0ffee0", Set: set}, 0, "default/short"},
		{api.LabelRequest{Container: "dead", Set: set}, 0, "shop/api"},
		{api.LabelRequest{Container: "shop/api", Set: set}, 0, "shop/api"},
		{api.LabelRequest{Container: "web", Remove: []string{"app"}}, 0, "default/web"},
		{api.LabelRequest{Container: "api", Set: set}, 409, "means any of 2"},
		{api.LabelRequest{Container: "c0ffee", Set: set}, 409, "default/short (container c0ffee0 on n1)"},
		{api.LabelRequest{Container: "dea", Set: set}, 404, "not found"},
		{api.LabelRequest{Container: "web"}, 422, "0 labels"},
		{api.LabelRequest{Container: "web", Set: map[string]string{"a b": "c d"}}, 422, "a b: "},
		{api.LabelRequest{Container: "web", Set: set, Remove: []string{"tier"}}, 422, "set and removed at once"},
		{api.LabelRequest{Container: "web", Set: map[string]string{registry.NetworkLabel: "x"}}, 422, registry.NetworkLabel + ": every container has this label"},
		{api.LabelRequest{Container: "web", Set: map[string]string{registry.WeightLabel: "0"}}, 0, "default/web"},
		{api.LabelRequest{Container: "web", Set: map[string]string{registry.WeightLabel: "257"}}, 422, registry.WeightLabel + `: weight "257": want a whole number from 0 to 256`},
		{api.LabelRequest{Container: "web", Set: map[string]string{registry.WeightLabel: ""}}, 422, "want a whole number"},
		{api.LabelRequest{Container: "web", Remove: []string{registry.NetworkLabel}}, 422, registry.NetworkLabel + ": every container has this label"},
	} {
		r, err := f.client.Label(t.Context(), c.req)
		if c.status == 0 {
			if err != nil || len(r.Results) != 1 || r.Results[0].Name.String() != c.want {
				t.Errorf("%+v: %+v, %v", c.req, r, err)
			}
			continue
		}
		var e *api.Error
		if !errors.As(err, &e) || e.Status != c.status || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %d with %q", c.req, err, c.status, c.want)
		}
	}
}

// TestBadRequests sends what no client of ours would.
func TestBadRequests(t *testing.T) {
	f := serve(t)
	h := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", f.socket)
	}}}
	defer h.CloseIdleConnections()
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v1/nothing", "", 404},
		{"PUT", "/v1/apply", "", 405},
		{"POST", "/v1/endpoints/label", "{", 400},
		{"POST", "/v1/endpoints/label", `{"containr": "x"}`, 400},
		{"POST", "/v1/endpoints/label", `{"container": "` + strings.Repeat("x", maxSmallBody) + `"}`, 413},
		{"GET", "/v1/services?as=xml", "", 400},
		{"GET", "/v1/policies?as=xml", "", 400},
		{"GET", "/v1/namespaces?as=xml", "", 400},
		{"DELETE", "/v1/policies/Service/a/b", "", 404},
		{"DELETE", "/v1/policies/NetworkPolicy/a/b", "", 404},
		{"DELETE", "/v1/policies/NetworkPolicy/a", "", 404},
		{"DELETE", "/v1/policies/AdminNetworkPolicy/a/b", "", 404},
		{"DELETE", "/v1/namespaces/a", "", 404},
		{"GET", "/v1/services/a/b", "", 404},
		{"POST", "/v1/delete", "kind: Pod", 422},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://x"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := h.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		var e api.Error
		if allow := res.Header.Get("Allow"); c.status == 405 && allow != "POST" {
			t.Errorf("%s %s: Allow %q", c.method, c.path, allow)
		}
		if res.StatusCode != c.status || json.Unmarshal(b, &e) != nil || e.Message == "" {
			t.Errorf("%s %s: %s %s, want %d", c.method, c.path, res.Status, b, c.status)
		}
	}
}
