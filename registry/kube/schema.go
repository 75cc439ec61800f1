package kube

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// checker compares a document with the Go type that it is to become, as strict decoding does, but
// knows the line of each fault.
type checker struct {
	document int
	before   int            // lines before the document
	lines    map[string]int // of each field met, by path
	nulls    map[string]bool
	nodes    int
	faults   Errors
}

func (c *checker) fault(n *yaml.Node, path, format string, args ...any) {
	c.faults = append(c.faults, Error{
		Document: c.document, Line: n.Line + c.before, Field: path, Reason: fmt.Sprintf(format, args...),
	})
}

// check reports every field of n that t has not, has twice, or has with another type.
func (c *checker) check(n *yaml.Node, t reflect.Type, path string, depth int) {
	if c.nodes++; c.nodes > maxNodes || depth > maxDepth {
		if len(c.faults) == 0 || c.faults[len(c.faults)-1].Reason != errTooLarge.Error() {
			c.fault(n, "", "%s", errTooLarge)
		}
		return
	}
	if _, known := c.lines[path]; !known {
		c.lines[path] = n.Line + c.before
	}
	n = target(n)
	if isNull(n) {
		if c.nulls == nil {
			c.nulls = map[string]bool{}
		}
		c.nulls[path] = true
		return
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[intstr.IntOrString]():
		if c.scalar(n, path, "a number or a name", "!!int", "!!str") && n.ShortTag() == "!!int" {
			c.integer(n, reflect.TypeFor[int32](), path)
		}
	case t == reflect.TypeFor[metav1.Time](), t == reflect.TypeFor[metav1.FieldsV1]():
		// The server's own notes: read past them.
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		c.fault(n, path, "not supported")
	case t.Kind() == reflect.Struct:
		c.structure(n, t, path, depth)
	case t.Kind() == reflect.Map:
		c.mapping(n, path, func(key, value *yaml.Node, path string) {
			c.item(value, t.Elem(), path, depth)
		})
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		if n.Kind != yaml.SequenceNode {
			c.fault(n, path, "want a list, got %s", describe(n))
			return
		}
		for i, item := range n.Content {
			c.item(item, t.Elem(), path+"["+strconv.Itoa(i)+"]", depth)
		}
	case t.Kind() == reflect.String:
		c.scalar(n, path, "a string", "!!str", "!!timestamp")
	case t.Kind() == reflect.Bool:
		c.scalar(n, path, "true or false", "!!bool")
	case t.Kind() == reflect.Int32, t.Kind() == reflect.Int64:
		c.integer(n, t, path)
	default:
		c.fault(n, path, "not supported")
	}
}

// item checks a member of a list or a map. Kubernetes would take null for the zero value, which as a rule
// allows everyone; nobody who writes it means that.
func (c *checker) item(n *yaml.Node, t reflect.Type, path string, depth int) {
	if isNull(target(n)) {
		c.fault(n, path, "want a value, got null")
		return
	}
	c.check(n, t, path, depth+1)
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func (c *checker) integer(n *yaml.Node, t reflect.Type, path string) {
	if !c.scalar(n, path, "a whole number", "!!int") {
		return
	}
	v := reflect.New(t)
	if err := n.Decode(v.Interface()); err != nil {
		c.fault(n, path, "%s is out of range", n.Value)
	}
}

func (c *checker) scalar(n *yaml.Node, path, want string, tags ...string) bool {
	if n.Kind == yaml.ScalarNode {
		for _, t := range tags {
			if n.ShortTag() == t {
				return true
			}
		}
	}
	hint := ""
	if want == "a string" && n.Kind == yaml.ScalarNode {
		hint = fmt.Sprintf(" (write %q in quotes)", n.Value)
	}
	c.fault(n, path, "want %s, got %s%s", want, describe(n), hint)
	return false
}

// mapping visits the keys of a mapping and reports those that come twice.
func (c *checker) mapping(n *yaml.Node, path string, visit func(key, value *yaml.Node, path string)) {
	if n.Kind != yaml.MappingNode {
		c.fault(n, path, "want a mapping, got %s", describe(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := target(n.Content[i])
		switch {
		case k.Kind != yaml.ScalarNode:
			c.fault(k, path, "a key must be a word")
			continue
		case k.ShortTag() == "!!merge":
			c.fault(k, path, "merge keys (<<) are not supported: write the fields out")
			continue
		}
		field := join(path, k.Value)
		if line, twice := seen[k.Value]; twice {
			c.fault(k, field, "field is given twice, first in line %d", line)
			continue
		}
		seen[k.Value] = k.Line + c.before
		c.lines[field] = k.Line + c.before
		visit(k, n.Content[i+1], field)
	}
}

func (c *checker) structure(n *yaml.Node, t reflect.Type, path string, depth int) {
	fields := map[string]reflect.Type{}
	jsonFields(t, fields)
	c.mapping(n, path, func(key, value *yaml.Node, field string) {
		if depth == 0 && key.Value == "status" {
			return // the server's, whatever it is
		}
		ft, ok := fields[key.Value]
		if !ok {
			c.fault(key, field, "unknown field%s", suggest(key.Value, fields))
			return
		}
		c.check(value, ft, field, depth+1)
	})
}

// jsonFields collects a struct's fields by their JSON names, inlined ones included.
func jsonFields(t reflect.Type, into map[string]reflect.Type) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && (name == "" || strings.Contains(options, "inline")):
			jsonFields(f.Type, into)
		default:
			into[name] = f.Type
		}
	}
}

// suggest names the field that was probably meant.
func suggest(word string, fields map[string]reflect.Type) string {
	best, least := "", 3
	for f := range fields {
		if d := distance(strings.ToLower(word), strings.ToLower(f)); d < least || d == least && best != "" && f < best {
			best, least = f, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

// distance is the number of letters to change, add or leave out to get from a to b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func join(path, key string) string {
	if strings.ContainsAny(key, "./[]") {
		return path + "[" + key + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + shorten(n.Value)
	case "!!bool":
		return "the truth value " + shorten(n.Value)
	case "!!str":
		return "the string " + strconv.Quote(shorten(n.Value))
	}
	return shorten(n.Value)
}

func shorten(s string) string {
	if len(s) > 80 {
		return s[:77] + "…"
	}
	return s
}
