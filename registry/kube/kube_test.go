package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/sluice-net/sluice/registry"
)

// TestFaults reads each testdata/NAME.yaml and compares the faults, as a user sees them, with
// testdata/NAME.txt. UPDATE_GOLDEN=1 writes the latter.
func TestFaults(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			objects, err := Parse(in)
			var faults Errors
			if !errors.As(err, &faults) || objects != nil {
				t.Fatalf("got %d objects and error %v, want faults only", len(objects), err)
			}
			var got strings.Builder
			for _, e := range faults {
				got.WriteString(filepath.Base(f) + ":" + e.Error() + "\n")
			}
			golden := strings.TrimSuffix(f, ".yaml") + ".txt"
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("faults are\n%s\nwant\n%s", got.String(), want)
			}
		})
	}
}

const good = `
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  labels: {tier: front}
  annotations: {note: kept by nobody}
spec:
  type: ClusterIP
  sessionAffinity: None
  internalTrafficPolicy: Cluster
  selector: &sel
    app: web
  ipFamilyPolicy: PreferDualStack
  ipFamilies: [IPv6, IPv4]
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: dns, port: 53, protocol: UDP, targetPort: 5353}
  - {name: tele, port: 5000, protocol: SCTP, appProtocol: x}
---
# JSON, with tabs
{
	"apiVersion": "v1", "kind": "List",
	"items": [
		{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "none", "creationTimestamp": null},
		 "spec": {"clusterIP": "None", "selector": {"a": "b"}}, "status": {"loadBalancer": {}}},
		{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "fixed"},
		 "spec": {"clusterIPs": ["10.96.0.7", "fd00::7"], "selector": {"a": "b"}, "ports": [{"port": 1}]}}
	]
}
...
`

func TestParse(t *testing.T) {
	objects, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	var got []registry.ServiceRequest
	for _, o := range objects {
		got = append(got, *o.Service)
	}
	want := []registry.ServiceRequest{
		{
			Service: registry.Service{
				Name:     registry.Name{Namespace: "shop", Name: "web"},
				Labels:   map[string]string{"tier": "front"},
				Selector: map[string]string{"app": "web"},
				Ports: []registry.ServicePort{
					{Name: "http", Protocol: registry.TCP, Port: 80, TargetName: "http"},
					{Name: "dns", Protocol: registry.UDP, Port: 53, TargetPort: 5353},
					{Name: "tele", Protocol: registry.SCTP, Port: 5000, TargetPort: 5000},
				},
				Families: []registry.Family{registry.IPv6, registry.IPv4}, FamilyPolicy: registry.PreferDualStack,
			},
		},
		{Service: registry.Service{
			Name: registry.Name{Namespace: "default", Name: "none"}, Headless: true, Selector: map[string]string{"a": "b"},
		}},
		{
			Service: registry.Service{
				Name: registry.Name{Namespace: "default", Name: "fixed"}, Selector: map[string]string{"a": "b"},
				VIPs:  []netip.Addr{netip.MustParseAddr("10.96.0.7"), netip.MustParseAddr("fd00::7")},
				Ports: []registry.ServicePort{{Protocol: registry.TCP, Port: 1, TargetPort: 1}}, FamilyPolicy: registry.RequireDualStack,
			},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("parsed\n%+v\nwant\n%+v", got, want)
	}
	for _, c := range []struct {
		object int
		field  string
		line   int
	}{{0, "spec.selector", 13}, {0, "spec.clusterIP", 9}, {0, "spec.ports[1].port", 19}, {2, "spec.clusterIPs", 29}, {1, "spec.clusterIP", 27}, {0, "", 2}} {
		if got := objects[c.object].Line(c.field); got != c.line {
			t.Errorf("line of %s of object %d is %d, want %d", c.field, c.object, got, c.line)
		}
	}
	names, err := Names([]byte(good))
	if want := []ID{{Service, got[0].Name}, {Service, got[1].Name}, {Service, got[2].Name}}; err != nil || !reflect.DeepEqual(names, want) {
		t.Errorf("names %v, error %v; want %v", names, err, want)
	}
}

func TestParseBounds(t *testing.T) {
	for name, in := range map[string]string{
		"a long document": "a: " + strings.Repeat("x", MaxDocument),
		"many documents":  strings.Repeat("---\na: b\n", MaxDocuments+1),
		"depth":           strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
	} {
		if objects, err := Parse([]byte(in)); err == nil {
			t.Errorf("%s: parsed %d objects", name, len(objects))
		}
	}
}

// roundTrip says what an object becomes when it is rendered and parsed again.
func roundTrip(o Object) (Object, error) {
	var rendered any
	switch {
	case o.Service != nil:
		rendered = ToService(o.Service.Service)
	case o.Slice != nil:
		rendered = ToSlice(*o.Slice)
	case o.Namespace != nil:
		rendered = ToNamespace(*o.Namespace)
	default:
		p := ToPolicy(o.Policy)
		p.Status = map[string]any{"anything": []int{1}}
		rendered = p
	}
	b, err := json.Marshal(rendered)
	if err != nil {
		return o, err
	}
	if b, err = yaml.JSONToYAML(b); err != nil {
		return o, err
	}
	objects, err := Parse(b)
	if err != nil {
		return o, fmt.Errorf("%w in\n%s", err, b)
	}
	return objects[0], nil
}

// breaks counts what YAML takes for the end of a line.
func breaks(in []byte) (n int) {
	for _, b := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
		n += bytes.Count(in, []byte(b))
	}
	return n
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(networkPolicy("{podSelector: {matchLabels: {a: b}}, ingress: [{from: [{podSelector: {}, namespaceSelector: {}}], ports: [{port: 1, endPort: 2}, {port: http}]}], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}")))
	f.Add(fmt.Appendf(nil, adminTwin, AdminNetworkPolicy, true, "priority: 1", "Pass"))
	f.Add(fmt.Appendf(nil, adminTwin, BaselineAdminNetworkPolicy, false, "", "Allow"))
	f.Add([]byte(everything))
	f.Add([]byte(endpoints))
	f.Add([]byte("{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {kubernetes.io/metadata.name: x, a: b}}}"))
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		objects, err := Parse(in)
		if err != nil {
			var faults Errors
			if !errors.As(err, &faults) || len(faults) == 0 {
				t.Fatalf("error without faults: %v", err)
			}
			for _, e := range faults {
				if e.Document == 0 || e.Reason == "" || e.Line > breaks(in)+2 {
					t.Errorf("fault %+v of an input with %d line breaks", e, breaks(in))
				}
			}
			return
		}
		for _, o := range objects {
			if o.Line("") == 0 {
				t.Errorf("%s has no line", o.ID())
			}
			sameAgain(t, o)
		}
		names, err := Names(in)
		if err != nil || len(names) != len(objects) {
			t.Fatalf("%d objects, %d names, error %v", len(objects), len(names), err)
		}
		for i, o := range objects {
			if names[i] != o.ID() {
				t.Errorf("%s goes by the name of %s", o.ID(), names[i])
			}
		}
	})
}

// sameAgain reports an object that is another one once it is rendered and parsed, or stored and read.
func sameAgain(t *testing.T, o Object) {
	t.Helper()
	again, err := roundTrip(o)
	if err != nil {
		t.Fatalf("%s does not parse once rendered: %v", o.ID(), err)
	}
	switch {
	case o.Service != nil && !reflect.DeepEqual(again.Service.Service, o.Service.Service), !reflect.DeepEqual(again.Slice, o.Slice),
		!reflect.DeepEqual(again.Namespace, o.Namespace), !reflect.DeepEqual(again.Policy, o.Policy):
		t.Errorf("%+v became %+v", o, again)
	}
	if o.Slice != nil {
		if err := o.Slice.Validate(); err != nil {
			t.Errorf("%s is taken, but not valid: %v", o.ID(), err)
		}
	}
	if o.Policy == nil {
		return
	}
	if err := o.Policy.Validate(); err != nil {
		t.Errorf("%s is taken, but not valid: %v", o.ID(), err)
	}
	var stored registry.Policy
	b, err := json.Marshal(o.Policy)
	if err == nil {
		err = json.Unmarshal(b, &stored)
	}
	if err != nil || !reflect.DeepEqual(stored, *o.Policy) {
		t.Errorf("%+v is stored as %+v, %v", *o.Policy, stored, err)
	}
}
