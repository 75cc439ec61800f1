package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sluice-net/sluice/loader"
)

// document reads one YAML file strictly and remembers on which line each key stood, so that an
// error found later can still name it.
type document struct {
	file  string
	lines map[string]int // by path, such as containers.cidrs[1]
	errs  []located
}

// located is an error and the line it is about.
type located struct {
	line int
	error
}

// decoder takes the value that stands at path.
type decoder func(n *yaml.Node, path string)

// keys are those that an object may have.
type keys map[string]decoder

func newDocument(file string) *document {
	return &document{file: file, lines: map[string]int{}}
}

// err is everything that was wrong, a line each, in the file's order.
func (d *document) err() error {
	slices.SortStableFunc(d.errs, func(a, b located) int { return a.line - b.line })
	var errs []error
	for _, e := range d.errs {
		errs = append(errs, e.error)
	}
	return errors.Join(errs...)
}

// fail records what is wrong with the value at path.
func (d *document) fail(path, format string, args ...any) {
	d.failAt(d.line(path), path, fmt.Sprintf(format, args...))
}

// failLater blames whichever of two keys stands later in the file for a conflict of the two; the
// other one's name is the last argument of format.
func (d *document) failLater(path, other, format string, args ...any) {
	if d.line(other) > d.line(path) {
		path, other = other, path
		slices.Reverse(args)
	}
	d.fail(path, format, append(args, other)...)
}

func (d *document) failAt(line int, path, reason string) {
	at := d.file
	if line > 0 {
		at += ":" + strconv.Itoa(line)
	}
	if path != "" {
		at += ": " + path
	}
	d.errs = append(d.errs, located{line, fmt.Errorf("%s: %s", at, reason)})
}

// line finds path, or the closest key around it; 0 when the file has neither.
func (d *document) line(path string) int {
	for {
		if line, ok := d.lines[path]; ok {
			return line
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return 0
		}
		path = path[:cut]
	}
}

// yamlLine is how the YAML parser names a line.
var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(?s:(.*))$`)

// read hands the file's one document to root. An empty file is fine.
func (d *document) read(data []byte, root decoder) {
	if len(data) > maxConfig {
		d.failAt(0, "", fmt.Sprintf("larger than %d bytes", maxConfig))
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var n, more yaml.Node
	err := dec.Decode(&n)
	if errors.Is(err, io.EOF) {
		return
	}
	if err == nil {
		if err = dec.Decode(&more); err == nil {
			d.failAt(more.Line, "", "a second document: want one")
			return
		}
	}
	if !errors.Is(err, io.EOF) {
		m := yamlLine.FindStringSubmatch(err.Error())
		line, _ := strconv.Atoi(m[1])
		d.failAt(line, "", m[2])
		return
	}
	root(n.Content[0], "")
}

// is tells whether n is of a kind and type, and fails path otherwise. An absent value keeps the
// default.
func (d *document) is(n *yaml.Node, path, want string, kind yaml.Kind, tags ...string) bool {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return false
	}
	if n.Kind == yaml.AliasNode {
		d.failAt(n.Line, path, "an alias cannot be used here")
		return false
	}
	if n.Kind != kind || len(tags) > 0 && !slices.Contains(tags, n.ShortTag()) {
		d.failAt(n.Line, path, fmt.Sprintf("want %s, not %s", want, describe(n)))
		return false
	}
	return true
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.ShortTag() != "!!str" {
		return n.Value
	}
	return strconv.Quote(n.Value)
}

func (d *document) object(ks keys) decoder {
	return func(n *yaml.Node, path string) {
		if !d.is(n, path, "an object", yaml.MappingNode) {
			return
		}
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			at := strings.TrimPrefix(path+"."+key.Value, ".")
			take, ok := ks[key.Value]
			switch {
			case !ok || key.Kind != yaml.ScalarNode:
				d.failAt(key.Line, at, "unknown key"+known(ks))
			case seen[key.Value]:
				d.failAt(key.Line, at, fmt.Sprintf("given twice, first on line %d", d.lines[at]))
			default:
				seen[key.Value] = true
				d.lines[at] = key.Line
				take(value, at)
			}
		}
	}
}

func known(ks keys) string {
	if len(ks) == 0 {
		return "; no key is known here"
	}
	return "; known here: " + strings.Join(slices.Sorted(maps.Keys(ks)), ", ")
}

func (d *document) text(dst *string) decoder {
	return func(n *yaml.Node, path string) {
		if d.is(n, path, "text", yaml.ScalarNode, "!!str") {
			*dst = n.Value
		}
	}
}

func (d *document) boolean(dst *bool) decoder {
	return func(n *yaml.Node, path string) {
		if d.is(n, path, "true or false", yaml.ScalarNode, "!!bool") {
			d.scalar(n, path, dst)
		}
	}
}

func (d *document) integer(dst *int) decoder {
	return func(n *yaml.Node, path string) {
		if d.is(n, path, "a whole number", yaml.ScalarNode, "!!int") {
			d.scalar(n, path, dst)
		}
	}
}

func (d *document) number(dst *float64) decoder {
	return func(n *yaml.Node, path string) {
		if d.is(n, path, "a number", yaml.ScalarNode, "!!int", "!!float") {
			d.scalar(n, path, dst)
		}
	}
}

// lifetime reads how long a flow may be silent.
func (d *document) lifetime(dst *time.Duration) decoder {
	return func(n *yaml.Node, path string) { d.duration(n, path, dst, false) }
}

// lifetimeOrNone is the same where 0 stands for none.
func (d *document) lifetimeOrNone(dst *time.Duration) decoder {
	return func(n *yaml.Node, path string) { d.duration(n, path, dst, true) }
}

func (d *document) duration(n *yaml.Node, path string, dst *time.Duration, none bool) {
	const want = "a duration such as 90s or 2h4m"
	if !d.is(n, path, want, yaml.ScalarNode, "!!str", "!!int") {
		return
	}
	v, err := time.ParseDuration(n.Value)
	switch {
	case err != nil:
		d.fail(path, "%s: want %s", describe(n), want)
	case none && v == 0, v >= loader.MinLifetime && v <= loader.MaxLifetime:
		*dst = v
	case none:
		d.fail(path, "%s: want 0, or %v to %v", n.Value, loader.MinLifetime, loader.MaxLifetime)
	default:
		d.fail(path, "%s: want %v to %v", n.Value, loader.MinLifetime, loader.MaxLifetime)
	}
}

// scalar decodes a value whose type was found right; what can still be wrong is its range.
func (d *document) scalar(n *yaml.Node, path string, dst any) {
	if err := n.Decode(dst); err != nil {
		d.failAt(n.Line, path, fmt.Sprintf("%s: cannot be read", n.Value))
	}
}

// value reads a text that stands for something else.
func value[T any](d *document, dst *T, parse func(string) (T, error)) decoder {
	return func(n *yaml.Node, path string) {
		var text string
		errs := len(d.errs)
		d.text(&text)(n, path)
		if len(d.errs) > errs {
			return
		}
		v, err := parse(text)
		if err != nil {
			d.fail(path, "%v", err)
			return
		}
		*dst = v
	}
}

// list replaces *dst with the values of a list of texts.
func list[T any](d *document, dst *[]T, parse func(string) (T, error)) decoder {
	return func(n *yaml.Node, path string) {
		if !d.is(n, path, "a list", yaml.SequenceNode) {
			return
		}
		*dst = nil
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			d.lines[at] = item.Line
			var v T
			errs := len(d.errs)
			value(d, &v, parse)(item, at)
			if len(d.errs) == errs {
				*dst = append(*dst, v)
			}
		}
	}
}
