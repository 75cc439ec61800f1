package registry

import "errors"

// Errors of a store that its callers tell apart. A store wraps them with what and where.
var (
	ErrNotFound      = errors.New("not found")
	ErrVIPTaken      = errors.New("address is in use")
	ErrVIPOutOfRange = errors.New("address is not in the service ranges")
	ErrVIPsExhausted = errors.New("no free address is left")
	// ErrVIPImmutable: a living service becomes headless, or the opposite, or gets a VIP of another family in
	// front without naming it.
	ErrVIPImmutable       = errors.New("the address of a service cannot be changed")
	ErrNodePortTaken      = errors.New("node port is in use")
	ErrNodePortOutOfRange = errors.New("node port is not in the range of node ports")
	ErrNodePortsExhausted = errors.New("no free node port is left")
	// ErrFamily: the IP families asked for contradict each other or have no range.
	ErrFamily = errors.New("IP families do not fit")
	// ErrUnavailable: the store cannot be reached, or has no leader. What was asked may have been done.
	ErrUnavailable = errors.New("the registry's store is not available")
	// ErrCompacted: what came after the revision asked for is not all at hand any more; a snapshot is.
	ErrCompacted = errors.New("the revision is too old")
	// ErrFull: there are as many as may be.
	ErrFull = errors.New("no room is left")
	// ErrInvalid: an object that no store would take.
	ErrInvalid = errors.New("invalid object")
)

// FieldError says which field of an object, as users write it in YAML, an error is about.
type FieldError struct {
	Field string // as in spec.ports[0].nodePort
	Err   error
}

// Error returns what Err says: the field is told beside it.
func (e *FieldError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *FieldError) Unwrap() error { return e.Err }
