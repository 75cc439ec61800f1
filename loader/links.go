package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// errNoLink says that there is no pinned link, or that what it was attached to is gone.
var errNoLink = errors.New("no link")

// updateLink makes a pinned link run another program. The kernel swaps them in one step: no packet
// and no system call meets neither or both.
func updateLink(pin string, prog *ebpf.Program) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return errNoLink
	}
	if err != nil {
		return fmt.Errorf("open pinned link %s: %w", pin, err)
	}
	defer l.Close()
	err = l.Update(prog)
	if errors.Is(err, unix.ENOLINK) {
		return errNoLink
	}
	if err != nil {
		return fmt.Errorf("replace program of link %s: %w", pin, err)
	}
	return nil
}

// pinLink pins a link; a pin that is there already goes, and with it the link that it held.
func pinLink(l link.Link, pin string) error {
	tmp := pin + tmpSuffix
	if err := removePin(tmp); err != nil {
		return err
	}
	if err := l.Pin(tmp); err != nil {
		return fmt.Errorf("pin link %s: %w", pin, err)
	}
	if err := os.Rename(tmp, pin); err != nil {
		return fmt.Errorf("pin link %s: %w", pin, err)
	}
	return nil
}

// staleLinks returns the pins that a process left which died in pinLink. Each holds a link whose
// program runs beside the one that belongs there.
func staleLinks(dir string) ([]string, error) {
	stale, err := filepath.Glob(filepath.Join(dir, "*"+tmpSuffix))
	if err != nil {
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	return stale, nil
}

// removeLink detaches a pinned link and removes the pin. One that is not there is no error.
func removeLink(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pinned link %s: %w", pin, err)
	}
	// The kernel ends a link with its last reference. With the pin that would happen some time
	// later; closing the descriptor waits for it.
	defer l.Close()
	return removePin(pin)
}

// linkInfo returns what a pinned link is attached to and which program it runs.
func linkInfo(pin string) (*link.Info, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNoLink
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned link %s: %w", pin, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return nil, fmt.Errorf("read pinned link %s: %w", pin, err)
	}
	return info, nil
}
