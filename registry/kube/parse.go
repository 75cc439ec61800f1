// Package kube reads and writes the model in the words of Kubernetes: YAML or JSON documents of services,
// their slices, namespaces and network policies. What it cannot honour it refuses, naming field and line.
package kube

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	strictjson "sigs.k8s.io/json"

	"github.com/sluice-net/sluice/registry"
)

// Object is what a user asks for. Exactly one of the pointers is set.
type Object struct {
	Service   *registry.ServiceRequest
	Slice     *registry.Slice
	Namespace *registry.Namespace
	Policy    *registry.Policy
	Document  int // from 1
	lines     map[string]int
	nulls     map[string]bool // fields given as null
	path      string          // of the object within its document, for the items of a List
}

// ID returns the object's name.
func (o Object) ID() ID {
	switch {
	case o.Service != nil:
		return ID{Kind: Service, Name: o.Service.Name}
	case o.Slice != nil:
		return ID{Kind: EndpointSlice, Name: o.Slice.Name}
	case o.Namespace != nil:
		return ID{Kind: Namespace, Name: registry.Name{Name: o.Namespace.Name}}
	}
	return ID{Kind: o.Policy.Tier.String(), Name: o.Policy.Name}
}

// Line returns the line of a field, as spec.clusterIP, or that of the nearest one around it.
func (o Object) Line(field string) int {
	path := join2(o.path, field)
	for {
		if line, ok := o.lines[path]; ok {
			return line
		}
		if path == "" {
			return 0
		}
		path = parent(path)
	}
}

func parent(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '.' || path[i] == '[' {
			return path[:i]
		}
	}
	return ""
}

// Parse reads all documents. The error is Errors; it names every fault, and then there are no
// objects.
func Parse(data []byte) ([]Object, error) {
	list, err := each(data, func(r *raw) (Object, Errors) { return r.object() })
	if err != nil {
		return nil, err
	}
	seen := map[ID]int{}
	for _, o := range list {
		id := o.ID()
		if line, twice := seen[id]; twice {
			return nil, Errors{{Document: o.Document, Line: o.Line("metadata.name"), Field: "metadata.name",
				Reason: fmt.Sprintf("%s is given twice, first in line %d", id, line)}}
		}
		seen[id] = o.Line("metadata.name")
	}
	return list, nil
}

// Names reads only which objects the documents are about; the rest of them is not looked at.
func Names(data []byte) ([]ID, error) {
	return each(data, func(r *raw) (ID, Errors) { return r.name() })
}

// raw is one object of the input, not yet checked.
type raw struct {
	checker
	node *yaml.Node
	path string
}

// each calls read for every object of the input, items of Lists included.
func each[T any](data []byte, read func(*raw) (T, Errors)) ([]T, error) {
	chunks, err := split(data)
	if err != nil {
		return nil, err
	}
	if len(chunks) == 0 {
		return nil, Errors{{Document: 1, Line: 1, Reason: "no document: the input is empty"}}
	}
	var list []T
	var faults Errors
	for _, c := range chunks {
		n, err := c.node()
		if err != nil {
			faults = append(faults, err.(Errors)...)
			continue
		}
		root := &raw{node: n, checker: checker{document: c.number, before: c.before, lines: map[string]int{}}}
		objects, bad := root.objects()
		faults = append(faults, bad...)
		for _, r := range objects {
			o, bad := read(r)
			faults = append(faults, bad...)
			list = append(list, o)
		}
		if len(faults) > maxFaults {
			break
		}
	}
	if len(faults) > 0 {
		slices.SortStableFunc(faults, func(a, b Error) int { return a.Line - b.Line })
		return nil, faults[:min(len(faults), maxFaults)]
	}
	return list, nil
}

// objects returns the document itself, or the items of a List.
func (r *raw) objects() ([]*raw, Errors) {
	if target(r.node).Kind != yaml.MappingNode {
		r.fault(r.node, "", "want an object with apiVersion, kind and metadata, got %s", describe(target(r.node)))
		return nil, r.faults
	}
	if text(lookup(r.node, "kind")) != "List" || text(lookup(r.node, "apiVersion")) != "v1" {
		return []*raw{r}, nil
	}
	items := target(lookup(r.node, "items"))
	if items.Kind != yaml.SequenceNode {
		r.fault(r.node, "items", "want a list of objects")
		return nil, r.faults
	}
	if len(items.Content) > MaxDocuments {
		r.fault(items, "items", "more than %d objects", MaxDocuments)
		return nil, r.faults
	}
	list := make([]*raw, len(items.Content))
	for i, n := range items.Content {
		list[i] = &raw{
			node: n, path: fmt.Sprintf("items[%d]", i),
			checker: checker{document: r.document, before: r.before, lines: map[string]int{}, nodes: r.nodes},
		}
	}
	return list, nil
}

func (r *raw) object() (Object, Errors) {
	kind, ok := r.known()
	if !ok {
		return Object{}, r.faults
	}
	decoded := empty(kind)
	r.check(r.node, reflect.TypeOf(decoded), r.path, 0)
	if len(r.faults) > 0 {
		return Object{}, r.faults
	}
	if err := r.decode(decoded); err != nil {
		r.fault(r.node, r.path, "%s", err)
		return Object{}, r.faults
	}
	if s, ok := decoded.(*corev1.Service); ok {
		s.Status.LoadBalancer.Ingress = r.ingress()
	}
	o := Object{Document: r.document, lines: r.lines, nulls: r.nulls, path: r.path}
	v := validator{object: o}
	v.read(decoded, &o)
	return o, v.faults
}

// decode makes the object of the checked document.
func (r *raw) decode(into any) error {
	var x expander
	v, err := x.value(without(target(r.node), "status"), 0) // of no interest, and not every kind has one
	if err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	strict, err := strictjson.UnmarshalStrict(b, into)
	if err == nil && len(strict) > 0 {
		err = strict[0]
	}
	return err
}

// ingress returns what a service's status says about load balancers: it is where Kubernetes keeps their
// addresses. Whatever else stands in a status is its server's own note.
func (r *raw) ingress() []corev1.LoadBalancerIngress {
	list := target(lookup(lookup(lookup(r.node, "status"), "loadBalancer"), "ingress"))
	if list.Kind != yaml.SequenceNode {
		return nil
	}
	var all []corev1.LoadBalancerIngress
	for i, n := range list.Content {
		ip, mode := lookup(n, "ip"), corev1.LoadBalancerIPMode(text(lookup(n, "ipMode")))
		all = append(all, corev1.LoadBalancerIngress{IP: text(ip), IPMode: &mode})
		if ip.Line > 0 {
			r.lines[join2(r.path, fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i))] = ip.Line + r.before
		}
	}
	return all
}

// without returns a mapping that lacks a key.
func without(n *yaml.Node, key string) *yaml.Node {
	rest := *n
	rest.Content = nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		if target(n.Content[i]).Value != key {
			rest.Content = append(rest.Content, n.Content[i], n.Content[i+1])
		}
	}
	return &rest
}

func (r *raw) name() (ID, Errors) {
	kind, ok := r.known()
	if !ok {
		return ID{}, r.faults
	}
	meta := target(lookup(r.node, "metadata"))
	id := ID{Kind: kind, Name: registry.Name{Name: text(lookup(meta, "name"))}}
	if Namespaced(kind) {
		if id.Namespace = text(lookup(meta, "namespace")); id.Namespace == "" {
			id.Namespace = defaultNamespace
		}
	}
	if id.Name.Name == "" {
		r.fault(r.node, join2(r.path, "metadata.name"), "required")
	}
	return id, r.faults
}

// lookup returns the value of a mapping's key, or an empty node.
func lookup(n *yaml.Node, key string) *yaml.Node {
	n = target(n)
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i+1]
			}
		}
	}
	return &yaml.Node{}
}

// text returns a string scalar's value, or "".
func text(n *yaml.Node) string {
	if n = target(n); n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
		return n.Value
	}
	return ""
}

// join2 joins two paths, either of which may be empty.
func join2(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "." + b
}
