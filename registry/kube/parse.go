// Package kube reads and writes services in the words of Kubernetes: YAML or JSON documents of
// corev1.Service. What it cannot honour it refuses, naming field and line.
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

// Object is a service that a user asks for.
type Object struct {
	registry.ServiceRequest
	Document int // from 1
	lines    map[string]int
	path     string // of the object within its document, for the items of a List
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
	list, err := each(data, func(r *raw) (Object, Errors) { return r.service() })
	if err != nil {
		return nil, err
	}
	seen := map[registry.Name]int{}
	for _, o := range list {
		if line, twice := seen[o.Name]; twice {
			return nil, Errors{{Document: o.Document, Line: o.Line("metadata.name"), Field: "metadata.name",
				Reason: fmt.Sprintf("service %s is given twice, first in line %d", o.Name, line)}}
		}
		seen[o.Name] = o.Line("metadata.name")
	}
	return list, nil
}

// Names reads only which services the documents are about; the rest of them is not looked at.
func Names(data []byte) ([]registry.Name, error) {
	return each(data, func(r *raw) (registry.Name, Errors) { return r.name() })
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

// known reports whether the object is a v1 Service; otherwise faults say why not.
func (r *raw) known() bool {
	n := target(r.node)
	if n.Kind != yaml.MappingNode {
		r.fault(r.node, r.path, "want an object, got %s", describe(n))
		return false
	}
	kind, version := lookup(n, "kind"), lookup(n, "apiVersion")
	at := func(v *yaml.Node) *yaml.Node {
		if v.Line == 0 {
			return n
		}
		return v
	}
	switch {
	case text(kind) == "":
		r.fault(at(kind), join2(r.path, "kind"), "required: only Service of apiVersion v1 is supported")
	case text(kind) != "Service":
		r.fault(at(kind), join2(r.path, "kind"), "%s is not supported: only Service of apiVersion v1 is", shorten(text(kind)))
	case text(version) == "":
		r.fault(at(version), join2(r.path, "apiVersion"), "required: want v1")
	case text(version) != "v1":
		r.fault(at(version), join2(r.path, "apiVersion"), "%s is not supported: want v1", shorten(text(version)))
	default:
		return true
	}
	return false
}

func (r *raw) service() (Object, Errors) {
	if !r.known() {
		return Object{}, r.faults
	}
	r.check(r.node, reflect.TypeFor[corev1.Service](), r.path, 0)
	if len(r.faults) > 0 {
		return Object{}, r.faults
	}
	s, err := r.decode()
	if err != nil {
		r.fault(r.node, r.path, "%s", err)
		return Object{}, r.faults
	}
	o := Object{Document: r.document, lines: r.lines, path: r.path}
	v := validator{object: o}
	o.ServiceRequest = v.service(s)
	return o, v.faults
}

// decode makes the object of the checked document.
func (r *raw) decode() (*corev1.Service, error) {
	var x expander
	v, err := x.value(r.node, 0)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var s corev1.Service
	strict, err := strictjson.UnmarshalStrict(b, &s)
	if err == nil && len(strict) > 0 {
		err = strict[0]
	}
	return &s, err
}

func (r *raw) name() (registry.Name, Errors) {
	if !r.known() {
		return registry.Name{}, r.faults
	}
	meta := target(lookup(r.node, "metadata"))
	n := registry.Name{Namespace: text(lookup(meta, "namespace")), Name: text(lookup(meta, "name"))}
	if n.Namespace == "" {
		n.Namespace = defaultNamespace
	}
	if n.Name == "" {
		r.fault(r.node, join2(r.path, "metadata.name"), "required")
	}
	return n, r.faults
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
