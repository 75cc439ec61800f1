package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/api/server"
	"github.com/sluice-net/sluice/registry/etcd"
)

// fakeAgent is an agent with a real registry and no kernel: its maps are the catalog.
type fakeAgent struct {
	dir, socket string
	store       *etcd.Store
	catalog     *registry.Catalog
	view        *server.View
	ready       atomic.Bool
	asked       atomic.Int64 // how often for the status
	differences []api.Difference

	mu      sync.Mutex
	changed chan struct{} // closed when the catalog has changed
}

func newAgent(t *testing.T) *fakeAgent {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &fakeAgent{dir: dir, socket: filepath.Join(dir, "sock"), catalog: registry.NewCatalog(""), view: server.NewView(), changed: make(chan struct{})}
	a.ready.Store(true)
	a.store, err = etcd.Open(t.Context(), etcd.Options{
		Dir: filepath.Join(dir, "etcd"), Run: dir, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/30")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.store.Close() })
	go func() {
		for b := range a.store.Watch(t.Context()) {
			a.catalog.Apply(b)
			a.view.Apply(b)
			a.mu.Lock()
			close(a.changed)
			a.changed = make(chan struct{})
			a.mu.Unlock()
		}
	}()
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(server.New(server.Options{
		Store: a.store, Catalog: a.catalog, Agent: a, Version: api.Version{Version: "v0.0.1", Node: "n1"},
		View: a.view, Registrar: a.store, Keeper: keeper{a.store, dir},
	}))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return a
}

type keeper struct {
	*etcd.Store
	dir string
}

func (k keeper) Restore(ctx context.Context, backup io.Reader) (registry.Restored, error) {
	return k.Store.Restore(ctx, k.dir, backup)
}

func (a *fakeAgent) WaitSynced(ctx context.Context, revision int64) error {
	for {
		a.mu.Lock()
		changed := a.changed
		a.mu.Unlock()
		if a.catalog.Synced() && a.catalog.Revision() >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *fakeAgent) Status(context.Context) api.Status {
	if a.asked.Add(1) == 3 {
		a.ready.Store(true)
	}
	return api.Status{
		Node: "n1", Version: "v0.0.1", Ready: a.ready.Load(), Kernel: "6.18.0", Attach: "tcx", Revision: 7,
		Conditions: []api.Condition{{Name: "registry", OK: true}, {Name: "maps", OK: a.ready.Load(), Message: "at revision 7"}},
		Counts:     api.Counts{Services: 1, Backends: 3, Draining: 1, Endpoints: 4, Containers: 1, Policies: 2, Namespaces: 1},
		Maps:       []api.Map{{Name: "services", Entries: 655, Limit: 65536, Bytes: 6 << 20}, {Name: "flows", Limit: 524288, Bytes: 1000}},
		Pools: []api.Pool{
			{Use: "services", CIDR: netip.MustParsePrefix("10.96.0.0/16"), Used: 1, Size: 65534},
			{Use: "containers", CIDR: netip.MustParsePrefix("fd00:10:244:1::/64"), Used: 4, Size: 1 << 63},
		},
	}
}

func (a *fakeAgent) Check(context.Context) (api.CheckResult, error) {
	return api.CheckResult{Services: 1, Backends: 3, Containers: 1, Differences: a.differences}, nil
}

// sluice runs a command line and returns its exit code and output.
func (a *fakeAgent) sluice(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, environment{
		stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs,
		getenv: func(k string) string { return map[string]string{"SLUICE_SOCKET": a.socket}[k] },
	})
	return code, out.String(), errs.String()
}

// expect runs a command line and compares all that a user sees.
func (a *fakeAgent) expect(t *testing.T, wantCode int, wantOut, wantErr, stdin string, args ...string) {
	t.Helper()
	code, out, errs := a.sluice(t, stdin, args...)
	if code != wantCode || out != wantOut || errs != wantErr {
		t.Errorf("sluice %s: exit %d, want %d\nstdout:\n%s\nwant:\n%s\nstderr:\n%s\nwant:\n%s",
			strings.Join(args, " "), code, wantCode, out, wantOut, errs, wantErr)
	}
}

func (a *fakeAgent) wire(t *testing.T, n int, name registry.Name, labels map[string]string) {
	t.Helper()
	rev, err := a.store.PutEndpoint(t.Context(), registry.Endpoint{
		EndpointID: registry.EndpointID{Node: "n1", ContainerID: strings.Repeat(fmt.Sprint(n), 64), Interface: "eth0"},
		Name:       name, Network: "sluice", Labels: labels,
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(n)}), netip.AddrFrom16([16]byte{0xfd, 15: byte(n)})},
	})
	if err == nil {
		err = a.WaitSynced(t.Context(), rev)
	}
	if err != nil {
		t.Fatal(err)
	}
}

const web = `apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP}
`

func TestServices(t *testing.T) {
	a := newAgent(t)
	a.wire(t, 1, registry.Name{Namespace: "default", Name: "w1"}, map[string]string{"app": "web"})
	a.expect(t, 0, "service default/web   created   10.96.0.1\n", "", web, "apply", "-f", "-")
	a.expect(t, 0, "service default/web   unchanged   10.96.0.1\n", "", web, "apply", "-f", "-")
	a.expect(t, 0, "NAME   TYPE        VIPS        EXTERNAL   PORTS                 BACKENDS   AFFINITY\nweb    ClusterIP   10.96.0.1   -          80->8080/TCP,53/UDP   1          None\n", "",
		"", "get", "services")
	a.expect(t, 0, "NAMESPACE   NAME   TYPE        VIPS        EXTERNAL   PORTS                 BACKENDS   AFFINITY\ndefault     web    ClusterIP   10.96.0.1   -          80->8080/TCP,53/UDP   1          None\n", "",
		"", "get", "svc", "-A")
	a.expect(t, 0, "NAME   TYPE   VIPS   EXTERNAL   PORTS   BACKENDS   AFFINITY\n", "", "", "get", "services", "-n", "other")
	a.expect(t, 1, "", "sluice: service default/db: not found (-A looks in all namespaces)\n", "", "get", "services", "db")
	a.expect(t, 1, "", "sluice: service default/db: not found\n", "", "get", "services", "db", "-o", "yaml")

	// What it shows as YAML, it takes.
	for _, args := range [][]string{{"get", "services", "-o", "yaml"}, {"get", "services", "web", "-o", "json"}} {
		_, text, _ := a.sluice(t, "", args...)
		a.expect(t, 0, "service default/web   unchanged   10.96.0.1\n", "", text, "apply", "-f", "-")
	}
	a.expect(t, 0, "service default/web   deleted\n", "", web, "delete", "-f", "-")
	a.expect(t, 0, "service default/web   not found\n", "", web, "delete", "-f", "-")
	a.expect(t, 1, "", "sluice: delete service default/web: not found\n", "", "delete", "service", "web")
}

func TestFiles(t *testing.T) {
	a := newAgent(t)
	one, two := filepath.Join(a.dir, "one.yaml"), filepath.Join(a.dir, "two.yaml")
	for name, text := range map[string]string{
		one: strings.TrimSuffix(web, "\n"),
		two: strings.ReplaceAll(web, "web", "api") + "  typo: 1\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.expect(t, 1, "", "sluice: nothing was changed: the input has faults\n  "+two+":10: spec.typo: unknown field (did you mean type?)\n", "",
		"apply", "-f", one, "-f", two)
	a.expect(t, 0, "NAME   TYPE   VIPS   EXTERNAL   PORTS   BACKENDS   AFFINITY\n", "", "", "get", "services")
	a.expect(t, 1, "", "sluice: the registry refuses a service\n  stdin:5: spec.clusterIP: service default/web: address is not in the service ranges: 10.99.0.1 (services.cidrs: 10.96.0.0/30)\n",
		strings.Replace(web, "10.96", "10.99", 1), "apply", "-f", "-")
	a.expect(t, 1, "", "sluice: read /nonexistent/x.yaml: no such file or directory\n", "", "apply", "-f", "/nonexistent/x.yaml")

	// Three services do not fit into two addresses: the first two are made and told of.
	many := ""
	for i := range 3 {
		many += "---\n" + strings.NewReplacer("web", fmt.Sprint("s", i), "  clusterIP: 10.96.0.1\n", "").Replace(web)
	}
	code, out, errs := a.sluice(t, many, "apply", "-f", "-")
	if code != 1 || strings.Count(out, "created") != 2 || !strings.Contains(errs, "stdin:23: spec.clusterIP: put service default/s2: no free address is left") {
		t.Errorf("exit %d\n%s\n%s", code, out, errs)
	}
}

func TestEndpointsAndLabels(t *testing.T) {
	a := newAgent(t)
	a.wire(t, 1, registry.Name{Namespace: "default", Name: "w1"}, map[string]string{"app": "web"})
	a.wire(t, 2, registry.Name{Namespace: "default", Name: strings.Repeat("2", 64)}, nil)
	a.expect(t, 0, "endpoint default/w1   labelled   tier=x\n", "", "", "label", "1111", "tier=x", "app-")
	a.expect(t, 0, "NAME           STATE   ADDRESSES            NODE   CONTAINER      INTERFACE   NETWORK   LABELS\n"+
		"w1             ready   10.244.1.1,fd00::1   n1     111111111111   eth0        sluice    tier=x\n"+
		"222222222222   ready   10.244.1.2,fd00::2   n1     222222222222   eth0        sluice    -\n", "", "", "get", "endpoints")
	a.expect(t, 1, "", "sluice: nothing was changed: the labels have faults\n"+
		"  a: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"+
		" (e.g. 'MyValue', or 'my_value', or '12345')\n", "", "label", "w1", "a=b c")
	code, _, errs := a.sluice(t, "", "label", "nobody", "a=b")
	if code != 1 || !strings.Contains(errs, `container "nobody": not found`) {
		t.Errorf("exit %d, %s", code, errs)
	}
	if _, err := a.store.PutNode(t.Context(), registry.Node{Name: "n1", Zone: "z1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}); err != nil {
		t.Fatal(err)
	}
	a.wire(t, 1, registry.Name{Namespace: "default", Name: "w1"}, nil) // so that the node is known
	a.expect(t, 0, "NAME   AGENT   ZONE   ADDRESSES   ENDPOINTS\nn1     away    z1     192.0.2.1   2\n", "", "", "get", "nodes")
	a.expect(t, 0, "items:\n- addresses:\n  - 192.0.2.1\n  endpoints: 2\n  name: n1\n  zone: z1\n", "", "", "get", "nodes", "-o", "yaml")
}

func TestMarks(t *testing.T) {
	a := newAgent(t)
	a.wire(t, 1, registry.Name{Namespace: "shop", Name: "w1"}, nil)
	a.expect(t, 0, "endpoint shop/w1   marked   draining\n", "", "", "drain", "1111")
	a.expect(t, 0, "endpoint shop/w1   marked   unready,draining\n", "", "", "unready", "shop/w1")
	a.wire(t, 1, registry.Name{Namespace: "shop", Name: "w1"}, nil) // registered again
	a.expect(t, 0, "endpoint shop/w1   marked   unready\n", "", "", "undrain", "w1")
	a.expect(t, 0, "endpoint shop/w1   marked   ready\n", "", "", "ready", "w1")
	code, out, errs := a.sluice(t, "", "drain", "nobody")
	if code != 1 || out != "" || !strings.Contains(errs, `container "nobody": not found`) {
		t.Errorf("exit %d, %s, %s", code, out, errs)
	}
	_, out, _ = a.sluice(t, "", "drain", "w1", "-o", "json")
	if !strings.Contains(out, `"conditions": [`) || !strings.Contains(out, `"draining"`) {
		t.Errorf("-o json: %s", out)
	}
}

const status = `Node:         n1
Version:      v0.0.1
Kernel:       6.18.0, programs attached by tcx
Ready:        yes
  registry:   ok
  maps:       ok, at revision 7
Registry:     revision 7, 1 service, 3 backends (1 draining), 4 endpoints, 2 policies, 1 namespace
This node:    1 container

ADDRESSES    RANGE                USED   SIZE
services     10.96.0.0/16         1      65534
containers   fd00:10:244:1::/64   4      > 10^9

MAP        ENTRIES   LIMIT    FILL   MEMORY
services   655       65536    1.0%   6.0 MiB
flows      0         524288   0.0%   1000 B
`

func TestStatusAndCheck(t *testing.T) {
	a := newAgent(t)
	a.expect(t, 0, status, "", "", "status")
	a.ready.Store(false)
	code, out, _ := a.sluice(t, "", "status")
	if code != 1 || !strings.Contains(out, "Ready:        NO") || !strings.Contains(out, "NOT OK, at revision 7") {
		t.Errorf("not ready: exit %d\n%s", code, out)
	}
	a.expect(t, 0, status, "", "", "status", "--wait", "1m") // the third to ask finds it ready
	a.expect(t, 0, "maps and registry are equal (1 service, 3 backends, 1 container)\n", "", "", "check")
	a.differences = []api.Difference{{Object: "10.96.0.1:80/TCP", Problem: "is not in the services map"}}
	a.expect(t, 1, "10.96.0.1:80/TCP: is not in the services map\n", "", "", "check")
	code, out, _ = a.sluice(t, "", "check", "-o", "json")
	if code != 1 || !strings.Contains(out, `"problem": "is not in the services map"`) {
		t.Errorf("check -o json: exit %d\n%s", code, out)
	}
	code, out, _ = a.sluice(t, "", "version")
	if code != 0 || !strings.Contains(out, "sluiced   v0.0.1 (node n1)") {
		t.Errorf("version: exit %d\n%s", code, out)
	}
}

func TestNoAgent(t *testing.T) {
	a := &fakeAgent{socket: "/nonexistent/sock"}
	code, _, errs := a.sluice(t, "", "get", "services")
	if code != 1 || !strings.Contains(errs, "no agent at /nonexistent/sock") || !strings.Contains(errs, "is sluiced running") {
		t.Errorf("exit %d, %s", code, errs)
	}
	begin := time.Now()
	code, _, errs = a.sluice(t, "", "status", "--wait", "120ms")
	if code != 1 || !strings.Contains(errs, "not ready after 120ms") {
		t.Errorf("exit %d after %s, %s", code, time.Since(begin), errs)
	}
	if code, out, _ := a.sluice(t, "", "version"); code != 0 || !strings.Contains(out, "not running at /nonexistent/sock") {
		t.Errorf("exit %d, %s", code, out)
	}
}

func TestUsage(t *testing.T) {
	a := newAgent(t)
	for _, line := range []string{
		"nonsense", "get", "get pods", "get services a b", "status extra", "status --wait soon", "apply", "delete",
		"delete service", "delete pod x", "delete policies x", "get networkpolicys", "delete -f x service y", "label c", "label c nothing", "label c =x", "label c -", "label c a=1 a=2", "drain", "drain a b", "ready",
		"check -o xml", "get services --bogus",
	} {
		code, out, errs := a.sluice(t, "", strings.Fields(line)...)
		if code != 2 || out != "" || !strings.HasPrefix(errs, "sluice: ") || !strings.Contains(errs, "--help") {
			t.Errorf("sluice %s: exit %d, stdout %q, stderr %q", line, code, out, errs)
		}
	}
}

func TestCompletion(t *testing.T) {
	a := newAgent(t)
	a.wire(t, 1, registry.Name{Namespace: "shop", Name: "w1"}, nil)
	if code, _, errs := a.sluice(t, web, "apply", "-f", "-"); code != 0 {
		t.Fatal(errs)
	}
	for line, want := range map[string]string{
		"get ":                          "adminnetworkpolicy baselineadminnetworkpolicy endpoints endpointslices instances namespaces networkpolicy nodes policies services",
		"get s":                         "services",
		"get services ":                 "web",
		"get services x":                "",
		"get endpoints -n shop ":        "w1",
		"delete service ":               "web",
		"get services -n ":              "default shop",
		"label shop":                    "shop/w1",
		"drain shop":                    "shop/w1",
		"unready shop/w1 ":              "",
		"status -o ":                    "table wide json yaml",
		"status ":                       "",
		"--socket /nonexistent label x": "",
	} {
		a.complete(t, line, want)
	}
}

// complete compares what a line, up to the cursor, completes to.
func (a *fakeAgent) complete(t *testing.T, line, want string) {
	t.Helper()
	_, out, _ := a.sluice(t, "", append([]string{"__completeNoDesc"}, strings.Split(line, " ")...)...)
	var got []string
	for _, l := range strings.Split(strings.TrimSpace(out), "\n") {
		if !strings.HasPrefix(l, ":") {
			got = append(got, l)
		}
	}
	if strings.Join(got, " ") != want {
		t.Errorf("%q completes to %q, want %q", line, strings.Join(got, " "), want)
	}
}
