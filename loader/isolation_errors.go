package loader

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// incomplete returns an error that names what is closed, or otherwise not as it should be; or nil.
func (s *isolation) incomplete() error {
	closed, why := s.closedIdentities()
	var errs []error
	if closed > 0 {
		errs = append(errs, fmt.Errorf("isolation: %d identities are closed: %w", closed, why))
	}
	for key, err := range s.dirtyPrefixes {
		if err != nil {
			errs = append(errs, fmt.Errorf("isolation: identity of %s: %w", fromPrefixKey(key), err))
			break
		}
	}
	for a, err := range s.dirtyAddrs {
		if err != nil {
			errs = append(errs, fmt.Errorf("isolation: identity of %s: %w", a, err))
			break
		}
	}
	if s.reapErr != nil {
		errs = append(errs, fmt.Errorf("isolation: remove an identity: %w", s.reapErr))
	}
	return errors.Join(errs...)
}

// closedIdentities counts the identities that are closed, in one direction at least, because something
// could not be written, and tells why for the first.
func (s *isolation) closedIdentities() (n int, why error) {
	closed := map[*identity]error{}
	for side, err := range s.failedSides {
		if closed[side.owner] == nil || side.direction == directionIngress {
			closed[side.owner] = fmt.Errorf("%s: %w", side, err)
		}
	}
	for i, err := range s.unnumbered {
		if err != nil {
			closed[i] = fmt.Errorf("%s: %w", i, err)
		}
	}
	var first *identity
	for i := range closed {
		if first == nil || cmp.Or(cmp.Compare(i.number(), first.number()), strings.Compare(i.String(), first.String())) < 0 {
			first = i
		}
	}
	return len(closed), closed[first]
}

// eachError visits why what failed did.
func (s *isolation) eachError(visit func(error)) {
	for _, err := range s.failedSides {
		visit(err)
	}
	for _, err := range s.unnumbered {
		visit(err)
	}
	for _, err := range s.dirtyAddrs {
		visit(err)
	}
	for _, err := range s.dirtyPrefixes {
		visit(err)
	}
}

// troubles counts what failed.
func (s *isolation) troubles() (n int) {
	s.eachError(func(err error) {
		if err != nil {
			n++
		}
	})
	return n
}

// isFull says whether something found no room.
func (s *isolation) isFull() (full bool) {
	s.eachError(func(err error) { full = full || errors.Is(err, ErrFull) })
	return full
}
