package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"text/tabwriter"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/tests/nstest"
)

// skb is the part of struct __sk_buff (linux/bpf.h) up to what BPF_PROG_TEST_RUN reads of it.
type skb struct {
	_       [10]uint32
	Ifindex uint32
	_       [4]uint32
}

// packets measures from_pod by itself, as BPF_PROG_TEST_RUN times it.
func packets(node *nstest.Node, client *nstest.Container, rounds int) error {
	var mac net.HardwareAddr
	err := ns.WithNetNSPath(client.Netns, func(ns.NetNS) error {
		eth0, err := netlink.LinkByName("eth0")
		if err == nil {
			mac = eth0.Attrs().HardwareAddr
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("find client's MAC: %w", err)
	}
	return node.InNetns(func() error {
		b := bench{mac: mac, rounds: rounds}
		if err := b.find(node, client); err != nil {
			return err
		}
		defer b.prog.Close()
		return b.table(client)
	})
}

// bench sends one container's packets through its from_pod.
type bench struct {
	prog   *ebpf.Program
	veth   netlink.Link // host side
	mac    net.HardwareAddr
	rounds int
	// What it adds to a figure to time a single run, in nanoseconds.
	overhead float64
}

// find looks up the client's veth by the route to it, and the program that is attached there.
func (b *bench) find(node *nstest.Node, client *nstest.Container) error {
	routes, err := netlink.RouteGet(client.V4.AsSlice())
	if err != nil {
		return fmt.Errorf("find client's veth: %w", err)
	}
	if b.veth, err = netlink.LinkByIndex(routes[0].LinkIndex); err != nil {
		return err
	}
	return b.open()
}

// open takes hold of the program that is attached to the veth.
func (b *bench) open() error {
	id, err := b.attached()
	if err != nil {
		return fmt.Errorf("find from_pod on %s: %w", b.veth.Attrs().Name, err)
	}
	b.prog, err = ebpf.NewProgramFromID(id)
	return err
}

// attached finds the program on the veth's ingress, by tcx or as a clsact filter.
func (b *bench) attached() (ebpf.ProgramID, error) {
	if programs, err := link.QueryPrograms(link.QueryOptions{
		Target: b.veth.Attrs().Index, Attach: ebpf.AttachTCXIngress,
	}); err == nil && len(programs.Programs) == 1 {
		return programs.Programs[0].ID, nil
	}
	filters, err := netlink.FilterList(b.veth, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return 0, err
	}
	for _, f := range filters {
		if bpf, ok := f.(*netlink.BpfFilter); ok {
			return ebpf.ProgramID(bpf.Id), nil
		}
	}
	return 0, errors.New("there is none")
}

func (b *bench) table(client *nstest.Container) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "from_pod\tns a packet\t\n")
	other := make([]byte, 60)
	binary.BigEndian.PutUint16(other[12:], 0x88cc) // LLDP
	many, err := b.same(other)
	if err != nil {
		return err
	}
	once, err := b.each(func(uint16) []byte { return other })
	if err != nil {
		return err
	}
	b.overhead = once - many
	fmt.Fprintf(w, "not ours\t%.0f\t\n", many)
	for _, family := range []struct {
		name             string
		client, vip, far string
	}{
		{"IPv4", client.V4.String(), "10.96.0.10", "192.0.2.77"},
		{"IPv6", client.V6.String(), "fd00:10:96::10", "2001:db8::77"},
	} {
		stack, err := b.same(b.syn(family.client, family.far, 40000))
		if err != nil {
			return err
		}
		established, err := b.each(func(uint16) []byte { return b.syn(family.client, family.vip, 40000) })
		if err != nil {
			return err
		}
		fresh, err := b.each(func(i uint16) []byte { return b.syn(family.client, family.vip, 1000+i) })
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s, established, to the node's stack\t%.0f\t\n", family.name, stack)
		fmt.Fprintf(w, "%s, established, VIP to container\t%.0f\t\n", family.name, established-b.overhead)
		fmt.Fprintf(w, "%s, new flow, VIP to container\t%.0f\t\n", family.name, fresh-b.overhead)
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// same runs a packet, which the program must leave as it is, so often that a run's own cost shows.
func (b *bench) same(frame []byte) (float64, error) {
	var runs []float64
	for range b.rounds {
		took, err := b.time(frame, 200_000)
		if err != nil {
			return 0, err
		}
		runs = append(runs, took)
	}
	return median(runs, func(ns float64) float64 { return ns }), nil
}

// each runs packets one by one, because the program rewrites them; the figure holds the cost of
// timing a single run.
func (b *bench) each(frame func(i uint16) []byte) (float64, error) {
	var runs []float64
	for i := range uint16(b.rounds * 1000) {
		took, err := b.time(frame(i), 1)
		if err != nil {
			return 0, err
		}
		runs = append(runs, took)
	}
	return median(runs, func(ns float64) float64 { return ns }), nil
}

func (b *bench) time(frame []byte, repeat uint32) (float64, error) {
	ctx := skb{Ifindex: uint32(b.veth.Attrs().Index)}
	run := testRun{
		prog: uint32(b.prog.FD()), repeat: repeat,
		dataIn: unsafe.Pointer(&frame[0]), dataSizeIn: uint32(len(frame)),
		ctxIn: unsafe.Pointer(&ctx), ctxSizeIn: uint32(unsafe.Sizeof(ctx)),
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN,
		uintptr(unsafe.Pointer(&run)), unsafe.Sizeof(run))
	if errno != 0 {
		return 0, os.NewSyscallError("bpf(BPF_PROG_TEST_RUN)", errno)
	}
	return float64(run.duration), nil
}

// testRun is union bpf_attr's part for BPF_PROG_TEST_RUN (linux/bpf.h). The library's Benchmark takes
// no context, and its Run tells no duration.
type testRun struct {
	prog, retval            uint32
	dataSizeIn, dataSizeOut uint32
	dataIn, dataOut         unsafe.Pointer
	repeat, duration        uint32 // duration: ns a run
	ctxSizeIn, ctxSizeOut   uint32
	ctxIn, ctxOut           unsafe.Pointer
	flags, cpu, batch, _    uint32
}

// syn is a TCP segment from the client to port 80. The checksums need not be right: the program only
// carries them on.
func (b *bench) syn(from, to string, sport uint16) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	gateway, _ := net.ParseMAC(cni.GatewayMAC)
	frame := append(append([]byte{}, gateway...), b.mac...)
	if src.Is4() {
		frame = append(frame, 0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0)
	} else {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64)
	}
	frame = append(append(frame, src.AsSlice()...), dst.AsSlice()...)
	frame = binary.BigEndian.AppendUint16(frame, sport)
	frame = binary.BigEndian.AppendUint16(frame, port)
	return append(frame, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0)
}
