package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
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
