package api

import (
	"fmt"
	"net/http"
	"strings"
)

// ProblemType is the Content-Type of an Error (RFC 9457).
const ProblemType = "application/problem+json"

// problemBase begins the type of every problem. Nothing need be found there.
const problemBase = "https://sluice.net/problems/"

// Detail is one fault in what a client sent.
type Detail struct {
	Line   int    `json:"line,omitempty"` // in the body, from 1; 0: unknown
	Field  string `json:"field,omitempty"`
	Reason string `json:"reason"`
}

// String returns LINE: FIELD: REASON, without what is unknown.
func (d Detail) String() string {
	var b strings.Builder
	if d.Line > 0 {
		fmt.Fprintf(&b, "%d: ", d.Line)
	}
	if d.Field != "" {
		fmt.Fprintf(&b, "%s: ", d.Field)
	}
	return b.String() + d.Reason
}

// Error is the body of every answer whose status is not 2xx: a problem document of RFC 9457 with two members of
// our own, details and results.
type Error struct {
	// Type is a URI that names the kind of problem, Title says it in words. Both follow from Status.
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Message says what is wrong here.
	Message string   `json:"detail"`
	Details []Detail `json:"details,omitempty"`
	// Results is what had been done when the error came up.
	Results []Result `json:"results,omitempty"`
}

// Problem returns the error with Type and Title, as it is sent.
func (e *Error) Problem() *Error {
	p := *e
	name, title := "internal", "Internal error"
	switch e.Status {
	case http.StatusBadRequest:
		name, title = "malformed", "The request cannot be read"
	case http.StatusUnauthorized:
		name, title = "unauthenticated", "A token or a client certificate is wanted"
	case http.StatusForbidden:
		name, title = "forbidden", "The caller may not do this"
	case http.StatusNotFound:
		name, title = "not-found", "There is no such thing"
	case http.StatusMethodNotAllowed:
		name, title = "method-not-allowed", "The path has no such method"
	case http.StatusConflict:
		name, title = "conflict", "In conflict with what there is"
	case http.StatusGone:
		name, title = "expired", "Too long ago"
	case http.StatusRequestEntityTooLarge:
		name, title = "too-large", "The request is too large"
	case http.StatusUnprocessableEntity:
		name, title = "invalid", "The request has faults"
	case http.StatusTooManyRequests:
		name, title = "too-many-requests", "Too many requests"
	case http.StatusServiceUnavailable:
		name, title = "unavailable", "Not available for now"
	case http.StatusInsufficientStorage:
		name, title = "exhausted", "No room is left"
	}
	p.Type, p.Title = problemBase+name, title
	return &p
}

// Error returns the message and, each on its own line, the details.
func (e *Error) Error() string {
	lines := make([]string, 0, 1+len(e.Details))
	lines = append(lines, e.Message)
	for _, d := range e.Details {
		lines = append(lines, d.String())
	}
	return strings.Join(lines, "\n")
}
