package registry

import "errors"

// Errors of a store that its callers tell apart. A store wraps them with what and where.
var (
	ErrNotFound      = errors.New("not found")
	ErrVIPTaken      = errors.New("address is in use")
	ErrVIPOutOfRange = errors.New("address is not in the service ranges")
	ErrVIPsExhausted = errors.New("no free address is left")
	// ErrVIPImmutable: a living service neither changes its address nor becomes headless.
	ErrVIPImmutable = errors.New("the address of a service cannot be changed")
	// ErrFamily: the IP families asked for contradict each other or have no range.
	ErrFamily = errors.New("IP families do not fit")
	// ErrInvalid: an object that no store would take.
	ErrInvalid = errors.New("invalid object")
)
