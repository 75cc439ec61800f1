package registry

import "context"

type mayAlterKey struct{}

// WithMayAlter has a Registrar ask before it replaces or removes an instance that is stored: in the same transaction, so
// that nobody alters what became another's meanwhile. The Registrar returns may's error, wrapped, and changes nothing.
func WithMayAlter(ctx context.Context, may func(stored *Instance) error) context.Context {
	return context.WithValue(ctx, mayAlterKey{}, may)
}

// MayAlter returns what a context of WithMayAlter says of a stored instance. asks is false of any other context.
func MayAlter(ctx context.Context) (may func(stored *Instance) error, asks bool) {
	may, asks = ctx.Value(mayAlterKey{}).(func(*Instance) error)
	return may, asks
}
