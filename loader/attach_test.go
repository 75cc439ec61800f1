package loader

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// TestAttachDetachInterface goes through the life of an interface.
func TestAttachDetachInterface(t *testing.T) {
	modes(t, func(t *testing.T, n *node, o Options) {
		l := n.open(o)
		mustSync(t, l, someServices())
		i := n.veth(1)
		for range 2 {
			if err := l.Attach(i); err != nil {
				t.Fatal(err)
			}
			mustBeClean(t, l)
		}
		id := l.endpoints.byName[i.Name].id
		epoch := l.epochs.load32(id, 0)

		moved := i
		moved.Addrs = []netip.Addr{netip.MustParseAddr("10.244.1.99"), i.Addrs[1]}
		if err := l.VerifyInterface(moved); err == nil {
			t.Error("verified with another address")
		}
		if err := l.Attach(moved); err != nil {
			t.Fatal(err)
		}
		mustBeClean(t, l)
		if err := l.VerifyInterface(moved); err != nil {
			t.Error(err)
		}
		if got := l.epochs.load32(id, 0); got == epoch {
			t.Error("another address did not raise the epoch")
		}
		epoch = l.epochs.load32(id, 0)

		other := n.veth(2)
		other.Addrs = moved.Addrs
		if err := l.Attach(other); err == nil || !strings.Contains(err.Error(), i.Name) {
			t.Errorf("attached an address twice: %v", err)
		}
		mustBeClean(t, l)
		mustHaveNoFilters(t, other)

		for range 2 {
			if err := l.DetachInterface(i.Name); err != nil {
				t.Fatal(err)
			}
			mustBeClean(t, l)
		}
		if got := l.epochs.load32(id, 0); got == epoch {
			t.Error("detaching did not raise the epoch")
		}
		mustHaveNoFilters(t, i)
		if err := l.VerifyInterface(moved); err == nil {
			t.Error("verified what is detached")
		}
		if got := l.Interfaces(); len(got) != 0 {
			t.Errorf("interfaces %v, want none", got)
		}
		if got := len(linkIDs(t, l)); got != len(sockOrder()) {
			t.Errorf("%d links are pinned, want the sockets' alone", got)
		}
	})
}

// TestInterfaceGone: the device goes before anyone says so, with the agent there and away.
func TestInterfaceGone(t *testing.T) {
	modes(t, func(t *testing.T, n *node, o Options) {
		l := n.open(o)
		mustSync(t, l, someServices())
		one, two := n.veth(1), n.veth(2)
		for _, i := range []Interface{one, two} {
			if err := l.Attach(i); err != nil {
				t.Fatal(err)
			}
		}
		n.remove(one)
		if diffs, err := l.Check(); err != nil || len(diffs) != 1 || diffs[0].Object != "interface "+one.Name {
			t.Errorf("check finds %v, %v", diffs, err)
		}
		if err := l.VerifyInterface(one); err == nil {
			t.Error("verified an interface that is gone")
		}
		if err := l.DetachInterface(one.Name); err != nil {
			t.Fatal(err)
		}
		mustBeClean(t, l)
		l.Close()
		n.remove(two)
		l = n.open(o)
		mustSync(t, l, someServices())
		mustBeClean(t, l)
		if got := l.Interfaces(); len(got) != 0 {
			t.Errorf("interfaces %v, want none", got)
		}
		if err := l.DetachInterface(two.Name); err != nil {
			t.Error(err)
		}
	})
}

// TestAttachModeChanges: a restart with another mode leaves nothing of the first.
func TestAttachModeChanges(t *testing.T) {
	n := newNode(t)
	needTCX(t)
	i := n.veth(1)
	for round, mode := range []AttachMode{AttachClsact, AttachTCX, AttachClsact, AttachAuto} {
		o := n.options()
		o.Attach = mode
		l := n.open(o)
		if round == 0 {
			if err := l.Attach(i); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.VerifyInterface(i); err != nil {
			t.Error(err)
		}
		mustSync(t, l, someServices())
		mustBeClean(t, l)
		if mode == AttachTCX {
			mustHaveNoFilters(t, i)
		} else if got := len(linkIDs(t, l)); got != len(sockOrder()) {
			t.Errorf("%d links are pinned, want the sockets' alone", got)
		}
		l.Close()
	}
}

// TestStrays: what an interrupted Attach left is removed at the next start.
func TestStrays(t *testing.T) {
	modes(t, func(t *testing.T, n *node, o Options) {
		l := n.open(o)
		mustSync(t, l, someServices())
		i := n.veth(1)
		if err := l.hooks.attach(i.Name, i.Index, l.programs); err != nil {
			t.Fatal(err)
		}
		// And one that died between pinning a link and giving the pin its name.
		again, err := link.AttachCgroup(link.CgroupOptions{
			Path: n.cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: l.programs.sock["sock_connect4"],
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Pin(filepath.Join(l.linksDir(), "sock_connect4"+tmpSuffix)); err != nil {
			t.Fatal(err)
		}
		again.Close()
		flows, err := l.maps.get("flows").Clone()
		if err != nil {
			t.Fatal(err)
		}
		defer flows.Close()
		if err := flows.Pin(l.maps.path("flows" + tmpSuffix)); err != nil {
			t.Fatal(err)
		}
		diffs, err := l.Check()
		if err != nil || len(diffs) != 3 || diffs[0].Object != "interface "+i.Name {
			t.Errorf("check finds %v, %v", diffs, err)
		}
		l.Close()
		l = n.open(o)
		mustSync(t, l, someServices())
		mustBeClean(t, l)
		mustHaveNoFilters(t, i)
	})
}

func TestAttachRefuses(t *testing.T) {
	n := newNode(t)
	o := n.options()
	o.Sizes.Endpoints = 2
	l := n.open(o)
	mustSync(t, l, someServices())
	good := n.veth(1)
	for name, spoil := range map[string]func(*Interface){
		"no name":       func(i *Interface) { i.Name = "" },
		"long name":     func(i *Interface) { i.Name = strings.Repeat("x", 16) },
		"no index":      func(i *Interface) { i.Index = 0 },
		"unknown index": func(i *Interface) { i.Index = 1 << 20 },
		"no MAC":        func(i *Interface) { i.MAC = nil },
		"no address":    func(i *Interface) { i.Addrs = nil },
		"unspecified":   func(i *Interface) { i.Addrs = []netip.Addr{netip.IPv4Unspecified()} },
		"zero address":  func(i *Interface) { i.Addrs = []netip.Addr{{}} },
		"more than map holds": func(i *Interface) {
			i.Addrs = append(i.Addrs, netip.MustParseAddr("10.244.1.77"))
		},
	} {
		i := good
		spoil(&i)
		if err := l.Attach(i); err == nil {
			t.Errorf("%s: attached", name)
		}
		mustBeClean(t, l)
	}
	if err := l.Attach(good); err != nil {
		t.Fatal(err)
	}
	if err := l.Attach(n.veth(2)); !errors.Is(err, ErrFull) {
		t.Errorf("attach to a full map: %v", err)
	}
	mustBeClean(t, l)
	more := good
	more.Addrs = append(more.Addrs, netip.MustParseAddr("10.244.1.77"))
	if err := l.Attach(more); !errors.Is(err, ErrFull) {
		t.Errorf("attach to a full map: %v", err)
	}
	mustBeClean(t, l)
	if err := l.VerifyInterface(good); err != nil {
		t.Error(err)
	}
}
