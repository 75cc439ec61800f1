package kernels

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
)

// Ports of the VIPs.
const (
	portServed = 80 // container b serves it
	portNone   = 81 // no backend
	portClosed = 82 // b, where nothing listens
	portSelf   = 83 // container a, the client
)

// update returns all services, of both families and protocols.
func update(vips []netip.Addr, a, b *container) registry.Update {
	u := registry.Update{Revision: 1, Snapshot: true}
	for i, vip := range vips {
		for _, proto := range []registry.Protocol{registry.TCP, registry.UDP, registry.SCTP} {
			for port, backends := range map[uint16][]netip.AddrPort{
				portServed: {netip.AddrPortFrom(b.addresses[i], serverPort)},
				portNone:   nil,
				portClosed: {netip.AddrPortFrom(b.addresses[i], 9)},
				portSelf:   {netip.AddrPortFrom(a.addresses[i], serverPort)},
			} {
				u.Set = append(u.Set, registry.Resolved{
					Frontend: registry.Frontend{Addr: vip, Port: port, Protocol: proto},
					Service:  registry.Name{Namespace: "default", Name: "web"}, Backends: registry.Evenly(backends...),
				})
			}
		}
	}
	return u
}

// TestVIP calls services from a container, with translation at the socket and at tc, by either way
// to attach programs.
func TestVIP(t *testing.T) {
	for _, attach := range []loader.AttachMode{loader.AttachClsact, loader.AttachTCX} {
		for name, socket := range map[string]bool{"socket": true, "tc": false} {
			t.Run(string(attach)+"/"+name, func(t *testing.T) {
				if attach == loader.AttachTCX && !haveTCX(t) {
					t.Skip("the kernel has no tcx")
				}
				testVIP(t, attach, socket)
			})
		}
	}
}

func testVIP(t *testing.T, attach loader.AttachMode, socket bool) {
	n := newNode(t, attach, socket)
	a, b := n.wire("a", 1), n.wire("b", 2)
	vips := []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:10:96::1")}
	u := update(vips, a, b)
	n.must(n.Sync(u))

	for i, vip := range vips {
		family := map[bool]string{true: "v4", false: "v6"}[vip.Is4()]
		for network, size := range map[string]int{"tcp": 256 << 10, "udp": 1000, "sendto": 4000} {
			t.Run(family+"/"+network, func(t *testing.T) {
				p := probe{t: t, network: network, from: a, vip: vip, addr: a.addresses[i], size: size}
				p.served(b)
				p.self(a, socket)
				p.refused(portNone, socket)
				if network != "sendto" {
					// Only a connected socket is told.
					p.refused(portClosed, socket)
				}
				if socket {
					p.fromNode(n, b)
				}
			})
		}
	}
	t.Run("reopen", func(t *testing.T) { testReopen(t, n, a, vips, u) })
	n.mustBeClean(t)
}

// haveTCX asks the kernel, by a link to an interface that cannot be.
func haveTCX(t *testing.T) bool {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	_, err = link.AttachTCX(link.TCXOptions{
		Interface: 1<<31 - 1, Program: prog, Attach: ebpf.AttachTCXIngress,
	})
	return !errors.Is(err, ebpf.ErrNotSupported)
}

// probe makes calls of one kind.
type probe struct {
	t       *testing.T
	network string
	from    *container
	vip     netip.Addr
	addr    netip.Addr // of from, in the VIP's family
	size    int        // bytes to send
}

// served wants the call answered by b, by the VIP's name, and b to see who calls.
func (p probe) served(b *container) {
	p.t.Helper()
	to := netip.AddrPortFrom(p.vip, portServed)
	got, err := call(p.from.netns, p.network, to, p.size)
	if err != nil {
		p.t.Errorf("call %s: %v", to, err)
	} else if want := (answer{b.name, p.addr, to}); got != want {
		p.t.Errorf("call %s: got %v, want %v", to, got, want)
	}
}

// self wants the client to reach itself.
func (p probe) self(a *container, socket bool) {
	p.t.Helper()
	to := netip.AddrPortFrom(p.vip, portSelf)
	got, err := call(p.from.netns, p.network, to, p.size)
	want := answer{a.name, p.addr, to}
	if !socket {
		want.seen = netip.MustParseAddr(gatewayV4)
		if p.vip.Is6() {
			want.seen = netip.MustParseAddr(hairpinV6)
		}
	}
	if err != nil {
		p.t.Errorf("call %s, itself: %v", to, err)
	} else if got != want {
		p.t.Errorf("call %s, itself: got %v, want %v", to, got, want)
	}
}

// refused wants ECONNREFUSED.
func (p probe) refused(port uint16, socket bool) {
	p.t.Helper()
	want := unix.ECONNREFUSED
	if p.network == "sendto" {
		if !socket {
			return // an ICMP error does not reach a socket that is not connected
		}
		if features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval) != nil {
			want = unix.EPERM // all that a hook can say before Linux 5.18
		}
	}
	to := netip.AddrPortFrom(p.vip, port)
	if got, err := call(p.from.netns, p.network, to, 10); !errors.Is(err, want) {
		p.t.Errorf("call %s: got %v and error %v, want %v", to, got, err, want)
	}
}

// fromNode wants the node's own processes served.
func (p probe) fromNode(n *node, b *container) {
	p.t.Helper()
	to := netip.AddrPortFrom(p.vip, portServed)
	got, err := call(n.netns, p.network, to, p.size)
	if err != nil {
		p.t.Errorf("call %s from the node: %v", to, err)
	} else if got.name != b.name || got.peer != to {
		p.t.Errorf("call %s from the node: got %v", to, got)
	}
}

// testReopen ends the agent's part and starts it again under connections.
func testReopen(t *testing.T, n *node, from *container, vips []netip.Addr, u registry.Update) {
	var streams []*stream
	for _, vip := range vips {
		s, err := dial(from.netns, netip.AddrPortFrom(vip, portServed))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		streams = append(streams, s)
	}
	ping := func(when string) {
		for i, s := range streams {
			if err := s.ping(); err != nil {
				t.Errorf("%s, connection to %s: %v", when, vips[i], err)
			}
			if _, err := call(from.netns, "tcp", netip.AddrPortFrom(vips[i], portServed), 10); err != nil {
				t.Errorf("%s, new call to %s: %v", when, vips[i], err)
			}
		}
	}
	n.must(n.Close())
	ping("without an agent")
	n.open()
	n.must(n.Sync(u))
	ping("with a new agent")
}

// mustBeClean wants maps and attachments as they should be.
func (n *node) mustBeClean(t *testing.T) {
	t.Helper()
	err := n.in(func() error {
		differences, err := n.Check()
		for _, d := range differences {
			t.Errorf("check: %s", d)
		}
		return err
	})
	n.must(err)
}
