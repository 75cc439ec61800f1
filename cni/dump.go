package cni

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumpTries is more often than a change can come in between by chance.
const dumpTries = 100

// Dump calls list again when something changed while the kernel was listing (NLM_F_DUMP_INTR): the list would lack
// some of what was there all along.
func Dump[T any](list func() ([]T, error)) (found []T, err error) {
	for range dumpTries {
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return found, err
}
