package loader

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// clsact attaches by tc filters.
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

// strays returns the interfaces, by index and name, that have one of our filters but are not among
// those that should.
func (c clsact) strays(names map[int]string, wanted func(name string) bool) (map[int]string, error) {
	qdiscs, err := dump(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	found := map[int]string{}
	for _, q := range qdiscs {
		index := q.Attrs().LinkIndex
		name, there := names[index]
		if q.Type() != "clsact" || !there || wanted(name) {
			continue
		}
		for _, f := range c.filters(index, nil) {
			mine, _, err := c.find(f)
			if err != nil && !isGone(err) {
				return nil, fmt.Errorf("list filters of %s: %w", name, err)
			}
			if mine != nil {
				found[index] = name
			}
		}
	}
	return found, nil
}

// find returns the interface's filter that f names, or nil, and how many others stand beside it.
func (c clsact) find(f *netlink.BpfFilter) (mine *netlink.BpfFilter, others int, err error) {
	device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: f.LinkIndex}}
	filters, err := dump(func() ([]netlink.Filter, error) { return netlink.FilterList(device, f.Parent) })
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
