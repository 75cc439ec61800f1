package wire

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits of documents.
const (
	// maxDepth is deeper than any part of the protocol.
	maxDepth = 32
	// maxNodes bounds the values of an instance, so that a small body of tiny values does not become a large tree.
	maxNodes = 4096
)

// node is a value of a document, of either language. An element of an array is a child of the array's parent by the
// array's name, as XML has it, so that a list of one and a single value are the same. An attribute is a child whose name
// begins with @, as the JSON of Eureka has it.
type node struct {
	name string
	kind kind
	text string // of a scalar
	kids []node
}

type kind uint8

const (
	null kind = iota
	scalar
	object
)

// get returns the last child of a name that is not null, or nil.
func (n *node) get(name string) *node {
	for i := len(n.kids) - 1; i >= 0; i-- {
		if k := &n.kids[i]; k.name == name && k.kind != null {
			return k
		}
	}
	return nil
}

// str returns the text of the last scalar child of a name, or "".
func (n *node) str(name string) string {
	if k := n.get(name); k != nil && k.kind == scalar {
		return k.text
	}
	return ""
}

// reader makes trees of documents.
type reader struct {
	xml   bool
	nodes int
	// item, if set, is given each object by the name of items in one by the name of within as soon as it is read,
	// instead of keeping it.
	within, items string
	item          func(*node) error
}

// read returns the document as the only child of a nameless node.
func (r *reader) read(in io.Reader) (*node, error) {
	root := &node{kind: object}
	var err error
	if r.xml {
		err = r.readXML(in, root)
	} else {
		err = r.readJSON(in, root)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	return root, nil
}

func (r *reader) count(depth int) error {
	r.nodes++
	if r.nodes > maxNodes {
		return fmt.Errorf("more than %d values", maxNodes)
	}
	if depth > maxDepth {
		return fmt.Errorf("more than %d levels", maxDepth)
	}
	return nil
}

// keep adds a child that is complete.
func (r *reader) keep(parent *node, kid node) error {
	if r.item != nil && kid.name == r.items && parent.name == r.within && kid.kind == object {
		r.nodes = 0
		return r.item(&kid)
	}
	parent.kids = append(parent.kids, kid)
	return nil
}

func (r *reader) readJSON(in io.Reader, root *node) error {
	d := json.NewDecoder(in)
	d.UseNumber() // for its text
	t, err := d.Token()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return errors.New("not an object")
	}
	if err := r.members(d, root, 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

// members reads those of an object whose brace has been read.
func (r *reader) members(d *json.Decoder, parent *node, depth int) error {
	for {
		t, err := d.Token()
		if err != nil {
			return broken(err)
		}
		name, ok := t.(string)
		if !ok {
			return nil // the closing brace: the decoder lets nothing else be there
		}
		if err := r.value(d, parent, name, depth+1); err != nil {
			return err
		}
	}
}

// value reads one value, or the elements of an array.
func (r *reader) value(d *json.Decoder, parent *node, name string, depth int) error {
	t, err := d.Token()
	if err != nil {
		return broken(err)
	}
	return r.token(d, t, parent, name, depth)
}

func (r *reader) token(d *json.Decoder, t json.Token, parent *node, name string, depth int) error {
	if err := r.count(depth); err != nil {
		return err
	}
	kid := node{name: name, kind: scalar}
	switch t := t.(type) {
	case nil:
		kid.kind = null
	case string:
		kid.text = t
	case json.Number:
		kid.text = t.String()
	case bool:
		kid.text = fmt.Sprint(t)
	case json.Delim:
		if t == '[' {
			return r.elements(d, parent, name, depth)
		}
		kid.kind = object
		if err := r.members(d, &kid, depth); err != nil {
			return err
		}
	}
	return r.keep(parent, kid)
}

func (r *reader) elements(d *json.Decoder, parent *node, name string, depth int) error {
	for {
		t, err := d.Token()
		if err != nil {
			return broken(err)
		}
		if t == json.Delim(']') {
			return nil
		}
		if err := r.token(d, t, parent, name, depth+1); err != nil {
			return err
		}
	}
}

// broken says of a document's end within it what it is.
func broken(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (r *reader) readXML(in io.Reader, root *node) error {
	d := xml.NewDecoder(in)
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) && len(root.kids) == 1 {
			return nil
		}
		if err != nil {
			return broken(err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if len(root.kids) > 0 {
				return errors.New("more than one root")
			}
			if err := r.element(d, t, root, 1); err != nil {
				return err
			}
		case xml.Directive:
			return errors.New("a document type is not taken")
		}
	}
}

// element reads an element whose start has been read.
func (r *reader) element(d *xml.Decoder, start xml.StartElement, parent *node, depth int) error {
	if err := r.count(depth); err != nil {
		return err
	}
	kid := node{name: start.Name.Local, kind: scalar}
	for _, a := range start.Attr {
		if err := r.count(depth); err != nil {
			return err
		}
		kid.kids = append(kid.kids, node{name: "@" + a.Name.Local, kind: scalar, text: a.Value})
	}
	var text strings.Builder
	for {
		t, err := d.Token()
		if err != nil {
			return broken(err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			kid.kind = object
			if err := r.element(d, t, &kid, depth+1); err != nil {
				return err
			}
		case xml.CharData:
			text.Write(t)
		case xml.Directive:
			return errors.New("a document type is not taken")
		case xml.EndElement:
			if kid.kind == scalar {
				kid.text = text.String()
			}
			return r.keep(parent, kid)
		}
	}
}
