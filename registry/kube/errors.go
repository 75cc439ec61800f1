package kube

import (
	"fmt"
	"strings"
)

// Error is one fault in what a user wrote.
type Error struct {
	Document int    // from 1
	Line     int    // from 1, counted over all documents; 0: unknown
	Field    string // as in spec.ports[0].port; empty: the whole document
	Reason   string
}

// Error returns LINE: FIELD: REASON.
func (e Error) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "%d: ", e.Line)
	} else {
		fmt.Fprintf(&b, "document %d: ", e.Document)
	}
	if e.Field != "" {
		fmt.Fprintf(&b, "%s: ", e.Field)
	}
	return b.String() + e.Reason
}

// Errors is what Parse returns: every fault found, in the order of their lines.
type Errors []Error

// Error returns the faults, one a line.
func (list Errors) Error() string {
	lines := make([]string, len(list))
	for i, e := range list {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}
