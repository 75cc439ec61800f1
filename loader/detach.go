package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
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
	return removePins(bpffs)
}

// removePins removes what this package pins, and the directories if nothing else is in them. Maps and
// links go with their last pin.
func removePins(bpffs string) error {
	spec, err := loadSock()
	if err != nil {
		return err
	}
	links := filepath.Join(bpffs, "links")
	stale, err := staleLinks(links)
	if err != nil {
		return err
	}
	for _, pin := range stale {
		if err := removeLink(pin); err != nil {
			return err
		}
	}
	for name := range pinnedSpecs(spec) {
		for _, suffix := range []string{"", newSuffix, tmpSuffix} {
			if err := removePin(filepath.Join(bpffs, name+suffix)); err != nil {
				return err
			}
		}
	}
	for _, dir := range []string{links, bpffs} {
		err := removePin(dir)
		if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
			return err
		}
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
	// Where the agent died between a filter and its endpoint, only the filter tells.
	strays, err := clsact{}.strays(names, func(string) bool { return false })
	if err != nil {
		return err
	}
	for index := range strays {
		indexes[index] = true
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
