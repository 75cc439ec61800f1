package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

const (
	fromPodSuffix = "_" + podProgFromPod
	toPodSuffix   = "_" + podProgToPod
)

// tcx attaches by pinned links (kernel 6.6). To attach or detach, the kernel waits for an RCU grace
// period a program, with the rtnl lock held.
type tcx struct{ links string }

// haveTCX asks the kernel, by a link to an interface that cannot exist.
func haveTCX(prog *ebpf.Program) bool {
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: 1<<31 - 1, Program: prog, Attach: ebpf.AttachTCXIngress,
	})
	if err == nil {
		l.Close()
	}
	return !errors.Is(err, ebpf.ErrNotSupported)
}

// pinPrefix is what an interface's pins begin with. bpffs refuses names with a dot.
func (t tcx) pinPrefix(name string) string {
	return filepath.Join(t.links, strings.ReplaceAll(name, ".", "%"))
}

type tcxSide struct {
	pin  string
	at   ebpf.AttachType
	prog *ebpf.Program
}

func (t tcx) sides(name string, p *programs) []tcxSide {
	return []tcxSide{
		{t.pinPrefix(name) + toPodSuffix, ebpf.AttachTCXEgress, p.toPod},
		{t.pinPrefix(name) + fromPodSuffix, ebpf.AttachTCXIngress, p.fromPod},
	}
}

func (t tcx) attach(name string, index int, p *programs) error {
	for _, side := range t.sides(name, p) {
		if err := t.attachSide(side, index); err != nil {
			return fmt.Errorf("attach %s to %s: %w", filepath.Base(side.pin), name, err)
		}
	}
	return nil
}

func (t tcx) attachSide(side tcxSide, index int) error {
	info, err := linkInfo(side.pin)
	if err != nil && !errors.Is(err, errNoLink) {
		return err
	}
	if err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == index {
		if err := updateLink(side.pin, side.prog); !errors.Is(err, errNoLink) {
			return err
		}
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: side.prog, Attach: side.at})
	if err != nil {
		return err
	}
	defer l.Close()
	return pinLink(l, side.pin)
}

func (t tcx) detach(name string, _ int) error {
	return errors.Join(
		removeLink(t.pinPrefix(name)+fromPodSuffix), removeLink(t.pinPrefix(name)+toPodSuffix))
}

func (t tcx) verify(name string, index int, p *programs) error {
	for _, side := range t.sides(name, p) {
		info, err := linkInfo(side.pin)
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(side.pin), err)
		}
		at := info.TCX()
		if at == nil || int(at.Ifindex) != index {
			return fmt.Errorf("%s: the link is not attached to interface %d", filepath.Base(side.pin), index)
		}
		id, err := programID(side.prog)
		if err != nil {
			return err
		}
		if info.Program != id {
			return fmt.Errorf("%s: the link runs program %d, not %d", filepath.Base(side.pin), info.Program, id)
		}
	}
	return nil
}

// interfaces returns the names that have pins, and for each the index of the interface that one of
// its links is attached to; 0: it is gone.
func (t tcx) interfaces() (map[string]int, error) {
	entries, err := os.ReadDir(t.links)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	found := map[string]int{}
	for _, e := range entries {
		name, isFrom := strings.CutSuffix(e.Name(), fromPodSuffix)
		if !isFrom {
			var isTo bool
			if name, isTo = strings.CutSuffix(e.Name(), toPodSuffix); !isTo {
				continue
			}
		}
		info, err := linkInfo(filepath.Join(t.links, e.Name()))
		if err != nil {
			return nil, err
		}
		name = strings.ReplaceAll(name, "%", ".")
		if at := info.TCX(); at != nil {
			found[name] = max(found[name], int(at.Ifindex))
		}
	}
	return found, nil
}
