package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

const manyWords = `
apiVersion: v1
kind: Service
metadata: {name: dns, annotations: {sluice.net/algorithm: maglev}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  externalIPs: [192.0.2.1]
  loadBalancerIP: 192.0.2.2
  externalTrafficPolicy: Local
  trafficDistribution: PreferClose
  publishNotReadyAddresses: true
  sessionAffinity: ClientIP
  selector: {app: dns}
  ports: [{name: udp, port: 53, protocol: UDP, nodePort: 30053}, {name: tcp, port: 53, targetPort: dns, nodePort: 30053}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, internalTrafficPolicy: Local, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {type: ExternalName, externalName: db.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: none}
spec: {clusterIP: None, selector: {app: dns}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}, annotations: {sluice.net/weight: "5"}}
addressType: IPv4
ports: [{port: 8080}, {name: m, port: 9090, protocol: UDP}]
endpoints:
- {addresses: [10.9.0.1]}
- {addresses: [10.9.0.2], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.9.0.3], conditions: {ready: false}}
`

// TestServiceWords: everything that a service says is shown, and what is shown as YAML is taken.
func TestServiceWords(t *testing.T) {
	a := newAgent(t)
	if code, _, errs := a.sluice(t, manyWords, "apply", "-f", "-"); code != 0 {
		t.Fatal(errs)
	}
	a.wire(t, 1, registry.Name{Namespace: "default", Name: "d1"}, map[string]string{"app": "dns", registry.WeightLabel: "7"})
	_, out, _ := a.sluice(t, "", "get", "services", "-o", "wide")
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		cells := strings.Fields(strings.ReplaceAll(strings.ReplaceAll(line, "ClientIP ", "ClientIP_"), "unready too", "unready_too"))
		got = append(got, strings.Join(append(cells[:5:5], cells[6:]...), " ")) // but for the backends
	}
	want := []string{
		"NAME TYPE VIPS EXTERNAL PORTS AFFINITY ALGORITHM TRAFFIC ENDPOINTS SELECTOR",
		"db ExternalName - db.example.com - None - - 0 -",
		"dns LoadBalancer 10.96.0.1 192.0.2.1,192.0.2.2 53:30053/UDP,53:30053->dns/TCP ClientIP_10800s maglev external=Local,PreferSameZone,unready_too 1 app=dns",
		"none ClusterIP None - - None - - 1 app=dns",
		"web ClusterIP 10.96.0.1 - 80/TCP None - internal=Local 3 -",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("services are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, kind := range []string{"services", "endpointslices"} {
		_, text, _ := a.sluice(t, "", "get", kind, "-o", "yaml")
		code, out, errs := a.sluice(t, text, "apply", "-f", "-")
		if code != 0 || strings.Contains(out, "created") || strings.Contains(out, "configured") || !strings.Contains(out, "unchanged") {
			t.Errorf("%s: exit %d\n%s\n%s\n%s", kind, code, out, errs, text)
		}
	}
	a.expect(t, 1, "", "sluice: the registry refuses a service\n"+
		"  stdin:4: spec.clusterIP: service default/other: address is in use: port 80/TCP of 10.96.0.1 belongs to service default/web\n",
		"apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n", "apply", "-f", "-")
	a.expect(t, 1, "", "sluice: the registry refuses a service\n"+
		"  stdin:7: spec.ports[0].nodePort: service default/other: node port is in use: 30053/TCP belongs to service default/dns\n",
		"apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec:\n  type: NodePort\n  ports:\n  - {port: 80, nodePort: 30053}\n", "apply", "-f", "-")
	a.expect(t, 0, "NAME   STATE   ADDRESSES            NODE   CONTAINER      INTERFACE   NETWORK   LABELS                        WEIGHT   ZONE   PORTS\n"+
		"d1     ready   10.244.1.1,fd00::1   n1     111111111111   eth0        sluice    app=dns,sluice.net/weight=7   7        -      -\n",
		"", "", "get", "endpoints", "-o", "wide")
}

func TestSlices(t *testing.T) {
	a := newAgent(t)
	_, out, errs := a.sluice(t, manyWords, "apply", "-f", "-")
	if !strings.Contains(out, "endpointslice default/web-1   created") {
		t.Fatal(out, errs)
	}
	a.expect(t, 0, "NAME    SERVICE   FAMILY   PORTS                 ENDPOINTS   READY   DRAINING\n"+
		"web-1   web       IPv4     8080/TCP,m=9090/UDP   3           1       1\n", "", "", "get", "endpointslices")
	_, out, _ = a.sluice(t, "", "get", "endpointslice", "web-1", "-o", "yaml")
	for _, text := range []string{"kind: EndpointSlice\n", `sluice.net/weight: "5"`, "kubernetes.io/service-name: web", "serving: true"} {
		if !strings.Contains(out, text) {
			t.Errorf("no %q in\n%s", text, out)
		}
	}
	a.complete(t, "get endpointslices ", "web-1")
	a.complete(t, "delete endpointslice w", "web-1")
	a.expect(t, 1, "", "sluice: endpointslice default/x: not found (-A looks in all namespaces)\n", "", "get", "endpointslices", "x")
	a.expect(t, 0, "endpointslice default/web-1   deleted\n", "", "", "delete", "endpointslice", "web-1")
	a.expect(t, 1, "", "sluice: delete endpointslice default/web-1: not found\n", "", "delete", "endpointslice", "web-1")
}

func TestBackendCounts(t *testing.T) {
	backend := func(text string, draining bool) api.Backend {
		return api.Backend{Address: netip.MustParseAddrPort(text), Weight: 1, Draining: draining}
	}
	vip := []netip.Addr{netip.MustParseAddr("10.96.0.1")}
	for want, v := range map[string]api.Service{
		"0": {Service: registry.Service{VIPs: vip}},
		"2 (+1 draining)": {Service: registry.Service{VIPs: vip}, Ports: []api.Port{
			{Backends: []api.Backend{backend("10.1.0.1:80", false), backend("10.1.0.2:80", false), backend("10.1.0.3:80", true), backend("[fd00::1]:80", false)}},
			{Backends: []api.Backend{backend("10.1.0.1:81", false), backend("10.1.0.3:81", true)}},
		}},
		"0 (+1 draining)": {Service: registry.Service{VIPs: vip}, Ports: []api.Port{{Backends: []api.Backend{backend("10.1.0.3:80", true)}}}},
		"7":               {Service: registry.Service{Headless: true}, Endpoints: 7},
		// Instances on one host differ in their ports.
		"3": {Service: registry.Service{VIPs: vip}, Ports: []api.Port{{Backends: []api.Backend{
			backend("10.1.0.1:81", false), backend("10.1.0.1:82", false), backend("10.1.0.1:83", false), backend("[fd00::1]:81", false),
		}}}},
		"": {Service: registry.Service{Type: registry.TypeExternalName}, Endpoints: 7},
	} {
		if got := backends(&v); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
