package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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

const (
	fromPodSuffix = "_" + podProgFromPod
	toPodSuffix   = "_" + podProgToPod
)

// tcx attaches by pinned links (kernel 6.6).
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

// clsact attaches by tc filters (kernels before 6.6).
type clsact struct{}

// filterPriority and filterHandle name our filter among an interface's others.
const (
	filterPriority = 1
	filterHandle   = 1
)

func (c clsact) filters(index int, p *programs) []*netlink.BpfFilter {
	filter := func(parent uint32, name string, prog *ebpf.Program) *netlink.BpfFilter {
		f := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: index, Parent: parent, Handle: filterHandle,
				Priority: filterPriority, Protocol: unix.ETH_P_ALL,
			},
			Name: name, DirectAction: true,
		}
		if prog != nil {
			f.Fd = prog.FD()
		}
		return f
	}
	if p == nil {
		p = &programs{}
	}
	return []*netlink.BpfFilter{
		filter(netlink.HANDLE_MIN_EGRESS, podProgToPod, p.toPod),
		filter(netlink.HANDLE_MIN_INGRESS, podProgFromPod, p.fromPod),
	}
}

func clsactQdisc(index int) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

func (c clsact) attach(name string, index int, p *programs) error {
	if err := netlink.QdiscAdd(clsactQdisc(index)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact qdisc to %s: %w", name, err)
	}
	for _, f := range c.filters(index, p) {
		// The same parent, priority and handle: the kernel swaps the programs in one step.
		if err := netlink.FilterReplace(f); err != nil {
			return fmt.Errorf("attach filter %s to %s: %w", f.Name, name, err)
		}
	}
	return nil
}

func (c clsact) detach(name string, index int) error {
	for _, f := range c.filters(index, nil) {
		mine, others, err := c.find(f)
		if isGone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list filters of %s: %w", name, err)
		}
		if mine == nil {
			continue
		}
		if err := netlink.FilterDel(f); err != nil && !isGone(err) {
			return fmt.Errorf("detach filter %s from %s: %w", f.Name, name, err)
		}
		if others > 0 || f.Parent != netlink.HANDLE_MIN_INGRESS {
			continue
		}
		if _, egress, err := c.find(c.filters(index, nil)[0]); err != nil || egress > 0 {
			continue
		}
		if err := netlink.QdiscDel(clsactQdisc(index)); err != nil && !isGone(err) {
			return fmt.Errorf("remove clsact qdisc from %s: %w", name, err)
		}
	}
	return nil
}

// find returns the interface's filter that f names, or nil, and how many others stand beside it.
func (c clsact) find(f *netlink.BpfFilter) (mine *netlink.BpfFilter, others int, err error) {
	device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: f.LinkIndex}}
	filters, err := netlink.FilterList(device, f.Parent)
	if err != nil {
		return nil, 0, err
	}
	for _, g := range filters {
		bpf, ok := g.(*netlink.BpfFilter)
		if ok && bpf.Priority == filterPriority && bpf.Handle == filterHandle && isOurs(bpf.Name, f.Name) {
			mine = bpf
			continue
		}
		others++
	}
	return mine, others, nil
}

// isOurs compares a filter's name as the kernel reports it, "from_pod" or "from_pod:[12]".
func isOurs(reported, name string) bool {
	return reported == name || strings.HasPrefix(reported, name+":")
}

// isGone says whether the error means that the interface, its qdisc or the filter is not there.
func isGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}

func (c clsact) verify(name string, index int, p *programs) error {
	for _, f := range c.filters(index, p) {
		mine, _, err := c.find(f)
		if err != nil {
			return fmt.Errorf("list filters of %s: %w", name, err)
		}
		if mine == nil {
			return fmt.Errorf("filter %s is not attached to %s", f.Name, name)
		}
		prog := p.toPod
		if f.Name == podProgFromPod {
			prog = p.fromPod
		}
		id, err := programID(prog)
		if err != nil {
			return err
		}
		if mine.Id != int(id) {
			return fmt.Errorf("filter %s of %s runs program %d, not %d", f.Name, name, mine.Id, id)
		}
	}
	return nil
}
