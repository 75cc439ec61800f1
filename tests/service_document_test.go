package tests

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/tests/nstest"
)

// everyProtocol are a service's ports if a row does not say: 80, to the backends' 8080.
const everyProtocol = "ports: [" +
	"{name: tcp, port: 80, targetPort: 8080}, " +
	"{name: udp, port: 80, targetPort: 8080, protocol: UDP}, " +
	"{name: sctp, port: 80, targetPort: 8080, protocol: SCTP}]"

// service returns the document of one, of both families and with these ports unless its spec says otherwise.
// The spec is the inside of a YAML mapping in braces; so are annotations.
func (s *scene) service(name, spec string, annotations ...string) string {
	fields := []string{}
	if spec != "" {
		fields = append(fields, spec)
	}
	if !strings.Contains(spec, "ports: ") {
		fields = append(fields, everyProtocol)
	}
	if !strings.Contains(spec, "ipFamilyPolicy: ") {
		fields = append(fields, "ipFamilyPolicy: RequireDualStack")
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s, annotations: {%s}}\nspec: {%s}\n",
		name, s.namespace, strings.Join(annotations, ", "), strings.Join(fields, ", "))
}

// backendState is what a slice says of a backend.
type backendState string

const (
	ready    backendState = "ready: true, serving: true, terminating: false"
	draining backendState = "ready: false, serving: true, terminating: true"
	unready  backendState = "ready: false, serving: false, terminating: false"
)

// slices returns the documents that list a service's backends: containers with conditions and places, such
// as "a", "b draining", "c unready", "a node=n2 zone=z2". "b port=8081" is a port of all of them.
func (s *scene) slices(service string, backends ...string) string {
	s.Helper()
	var documents []string
	for _, family := range []string{"IPv4", "IPv6"} {
		var endpoints []string
		port := nstest.Port
		for _, b := range backends {
			endpoints = append(endpoints, s.endpoint(way{v6: family == "IPv6"}, b, &port))
		}
		documents = append(documents, fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s-%s, namespace: %s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: %[4]s
ports: [{name: tcp, port: %[5]d}, {name: udp, port: %[5]d, protocol: UDP}, {name: sctp, port: %[5]d, protocol: SCTP}]
endpoints: [%[6]s]
`, service, strings.ToLower(family), s.namespace, family, port, strings.Join(endpoints, ", ")))
	}
	return strings.Join(documents, "---")
}

// endpoint is one of a slice's endpoints; it may also say the slice's port.
func (s *scene) endpoint(w way, backend string, port *int) string {
	s.Helper()
	name, words, _ := strings.Cut(backend, " ")
	c, state, place := s.find(name), ready, "nodeName: n1"
	for word := range strings.FieldsSeq(words) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "draining":
			state = draining
		case "unready":
			state = unready
		case "node":
			place = "nodeName: " + value
		case "zone":
			place += ", zone: " + value
		case "port":
			fmt.Sscan(value, port)
		default:
			s.Fatalf("backend %q: %q means nothing", backend, word)
		}
	}
	return fmt.Sprintf("{addresses: [%q], conditions: {%s}, %s}", w.pick(c.V4, c.V6), state, place)
}

// TestDocuments: what the rows' shorthands stand for.
func TestDocuments(t *testing.T) {
	s := &scene{T: t, stage: &stage{}, namespace: "shop", own: map[string]*nstest.Container{
		"a": {V4: netip.MustParseAddr("10.0.0.1"), V6: netip.MustParseAddr("fd00::1")},
	}}
	got := s.slices("web", "a draining node=n2 zone=z2")
	for _, want := range []string{
		`endpoints: [{addresses: ["10.0.0.1"], conditions: {ready: false, serving: true, terminating: true}, nodeName: n2, zone: z2}]`,
		`name: web-ipv6, namespace: shop`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("slices lack %s:\n%s", want, got)
		}
	}
}
