package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Limits on the input. They are far above what people write and keep memory bounded.
const (
	MaxDocument  = 1 << 20 // bytes
	MaxDocuments = 1000
	maxNodes     = 50000 // of a document, aliases followed
	maxDepth     = 64
	maxFaults    = 50 // told of one input
)

// chunk is the text of one document.
type chunk struct {
	text   []byte
	number int // of the document, from 1
	before int // lines before its first
}

// split cuts the input at document markers. YAML allows a line that begins with one nowhere else.
func split(data []byte) ([]chunk, error) {
	var list []chunk
	line, start, startLine := 0, 0, 0
	end := func(at int) error {
		text := data[start:at]
		if !blank(text) {
			list = append(list, chunk{text: text, number: len(list) + 1, before: startLine})
		}
		if len(list) > MaxDocuments {
			return Errors{{Document: MaxDocuments + 1, Line: startLine + 1, Reason: fmt.Sprintf("more than %d documents", MaxDocuments)}}
		}
		if len(text) > MaxDocument {
			return Errors{{Document: len(list), Line: startLine + 1, Reason: fmt.Sprintf("document has %d bytes, more than the %d allowed", len(text), MaxDocument)}}
		}
		return nil
	}
	for at := 0; at < len(data); {
		next := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			next = at + i + 1
		}
		text := bytes.TrimRight(data[at:next], " \t\r\n")
		switch {
		case bytes.Equal(text, []byte("---")) || bytes.HasPrefix(text, []byte("--- ")):
			if err := end(at); err != nil {
				return nil, err
			}
			start, startLine = at, line
		case bytes.Equal(text, []byte("...")):
			if err := end(at); err != nil {
				return nil, err
			}
			start, startLine = next, line+1
		}
		at = next
		line++
	}
	return list, end(len(data))
}

// blank reports whether a text holds nothing but markers, comments and directives.
func blank(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("---")))
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}

// node parses the document. Its lines count from the chunk's first.
func (c chunk) node() (*yaml.Node, error) {
	text := c.text
	if json.Valid(text) {
		// YAML has its own ideas of tabs; in valid JSON they stand between tokens only.
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
	}
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil {
		line, reason := yamlFault(err)
		return nil, Errors{{Document: c.number, Line: line + c.before, Reason: reason}}
	}
	if n.Kind != yaml.DocumentNode || len(n.Content) != 1 {
		return nil, Errors{{Document: c.number, Line: c.before + 1, Reason: "not one YAML document"}}
	}
	return n.Content[0], nil
}

// yamlFault takes the line out of a parser's message. The parser counts from 0 where it misses
// something, and names no line when it is the first.
func yamlFault(err error) (line int, reason string) {
	reason = strings.TrimPrefix(err.Error(), "yaml: ")
	line = 1
	if number, rest, ok := strings.Cut(strings.TrimPrefix(reason, "line "), ": "); ok && strings.HasPrefix(reason, "line ") {
		if n, err := strconv.Atoi(number); err == nil {
			line, reason = n, rest
			if strings.HasPrefix(reason, "did not find expected") {
				line++
			}
		}
	}
	return line, "not valid YAML: " + reason
}

var errTooLarge = errors.New("document grows too large or too deep when its aliases are followed")

// expander turns nodes into the values that encoding/json would make of the same document.
type expander struct{ nodes int }

func (x *expander) value(n *yaml.Node, depth int) (any, error) {
	if x.nodes++; x.nodes > maxNodes || depth > maxDepth {
		return nil, errTooLarge
	}
	switch n.Kind {
	case yaml.AliasNode:
		return x.value(n.Alias, depth+1)
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			v, err := x.value(n.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			m[target(n.Content[i]).Value] = v
		}
		return m, nil
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := x.value(c, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	}
	return scalar(n)
}

func scalar(n *yaml.Node) (v any, err error) {
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		err = n.Decode(&b)
		return b, err
	case "!!int":
		var i int64
		err = n.Decode(&i)
		return i, err
	case "!!float":
		var f float64
		err = n.Decode(&f)
		return f, err
	}
	return n.Value, nil
}

// target follows an alias.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}
