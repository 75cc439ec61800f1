package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// Detach removes what is pinned under a bpffs directory, and what is attached through it, without
// loading anything. It is for interfaces of the network namespace of the calling thread. A directory
// that is not there is no error.
func Detach(bpffs string) error {
	if err := detach(bpffs); err != nil {
		return fmt.Errorf("detach dataplane: %w", err)
	}
	return nil
}

func detach(bpffs string) error {
	links := filepath.Join(bpffs, "links")
	if _, err := os.Stat(bpffs); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// First what runs, then what it runs on.
	if err := detachCgroup(links); err != nil {
		return err
	}
	if err := detachFilters(bpffs); err != nil {
		return err
	}
	t := tcx{links}
	pinned, err := t.interfaces()
	if err != nil {
		return err
	}
	for name, index := range pinned {
		if err := t.detach(name, index); err != nil {
			return err
		}
	}
	// A bpf filesystem frees a map with its last reference, so removing the pins is enough.
	if err := os.RemoveAll(bpffs); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

// detachFilters removes the tc filters of the interfaces that endpoints leads to.
func detachFilters(bpffs string) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(bpffs, sockMapEndpoints), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open map endpoints: %w", err)
	}
	defer m.Close()
	indexes := map[int]bool{}
	err = eachOf(m, func(_ address, e endpoint) error {
		indexes[int(e.Ifindex)] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("read map endpoints: %w", err)
	}
	names, err := interfaceNames()
	if err != nil {
		return err
	}
	for index := range indexes {
		if name, there := names[index]; there {
			if err := (clsact{}).detach(name, index); err != nil {
				return err
			}
		}
	}
	return nil
}
