package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// hooks is a way to run from_pod on what comes out of a container's interface and to_pod on what goes
// in. Its host side sees that as ingress and egress.
type hooks interface {
	// attach attaches both programs or replaces those that are attached, each in one step.
	attach(name string, index int, p *programs) error
	// detach removes both. An interface that is gone, or has none, is no error.
	detach(name string, index int) error
	// verify says what is not as attach left it.
	verify(name string, index int, p *programs) error
}

func programID(p *ebpf.Program) (ebpf.ProgramID, error) {
	info, err := p.Info()
	if err != nil {
		return 0, fmt.Errorf("read program: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("read program: the kernel tells no id")
	}
	return id, nil
}

// dump calls list again when something changed while the kernel was listing: the list would lack
// some of what was there all along.
func dump[T any](list func() ([]T, error)) (found []T, err error) {
	for range 100 {
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return found, err
}

// interfaceNames returns the interfaces of this network namespace by index.
func interfaceNames() (map[int]string, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	return names, nil
}
