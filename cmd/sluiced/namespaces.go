package main

import (
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	cniserver "github.com/sluice-net/sluice/cni/server"
)

// namespaces knows the network namespaces of this node.
type namespaces struct {
	wired atomic.Pointer[cniserver.Server] // nil until there is one
}

// paths returns those of the containers that were wired here, and those that some process is in: of
// containers that have the node's own network or were wired by others. A namespace may be there many
// times.
func (n *namespaces) paths() ([]string, error) {
	var paths []string
	if s := n.wired.Load(); s != nil {
		paths = s.Namespaces()
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return paths, err
	}
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err == nil {
			paths = append(paths, filepath.Join("/proc", p.Name(), "ns/net"))
		}
	}
	return paths, nil
}
