package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Probe gives packets to the programs on the host side of one container's veth, as BPF_PROG_TEST_RUN does:
// they are not sent anywhere. It works in the network namespace of the calling thread, which must be the veth's.
type Probe struct {
	FromPod, ToPod *ebpf.Program
	Ifindex        int              // of the veth's host side
	MAC            net.HardwareAddr // of the container's side
}

// OpenProbe takes hold of what is attached to a veth, by tcx or as a clsact filter. mac is the container's.
func OpenProbe(veth netlink.Link, mac net.HardwareAddr) (p *Probe, err error) {
	p = &Probe{Ifindex: veth.Attrs().Index, MAC: mac}
	defer func() {
		if err != nil {
			p.Close()
			err = fmt.Errorf("find programs on %s: %w", veth.Attrs().Name, err)
		}
	}()
	if p.FromPod, err = attached(veth, ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS); err != nil {
		return nil, err
	}
	p.ToPod, err = attached(veth, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS)
	return p, err
}

func attached(veth netlink.Link, at ebpf.AttachType, parent uint32) (*ebpf.Program, error) {
	programs, err := link.QueryPrograms(link.QueryOptions{Target: veth.Attrs().Index, Attach: at})
	if err == nil && len(programs.Programs) == 1 {
		return ebpf.NewProgramFromID(programs.Programs[0].ID)
	}
	filters, err := netlink.FilterList(veth, parent)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		if bpf, ok := f.(*netlink.BpfFilter); ok {
			return ebpf.NewProgramFromID(ebpf.ProgramID(bpf.Id))
		}
	}
	return nil, errors.New("there is none")
}

// Close lets go of the programs.
func (p *Probe) Close() {
	p.FromPod.Close()
	p.ToPod.Close()
}

// program returns one of the two by its name.
func (p *Probe) program(name string) *ebpf.Program {
	if name == toPod {
		return p.ToPod
	}
	return p.FromPod
}

// SYN is a container's segment that opens a TCP connection. Checksums need not be right, for the programs
// only carry them on.
func (p *Probe) SYN(from netip.AddrPort, to netip.AddrPort) []byte {
	return packet{smac: p.MAC, src: from, dst: to, proto: unix.IPPROTO_TCP, flags: flagSYN}.bytes()
}

// Time gives from_pod a packet so many times and returns how long a run took, in ns: a whole number, as the
// kernel tells it. With one run that includes taking the time, and caches are as the system call left them;
// with more the program must leave the packet as it is.
func (p *Probe) Time(frame []byte, repeat uint32) (float64, error) {
	t := testRun{repeat: repeat}
	_, err := t.do(p.FromPod, frame, skb{Ifindex: uint32(p.Ifindex)})
	return float64(t.duration), err
}

// skb is the part of struct __sk_buff (linux/bpf.h) up to what a test run reads of it.
type skb struct {
	_              [9]uint32
	IngressIfindex uint32
	Ifindex        uint32
	_              [4]uint32
}

// testRun is union bpf_attr's part for BPF_PROG_TEST_RUN (linux/bpf.h). The library's Run and Benchmark tell
// either the result or the time, and copy the packet back.
type testRun struct {
	prog, retval            uint32
	dataSizeIn, dataSizeOut uint32
	dataIn, dataOut         unsafe.Pointer
	repeat, duration        uint32 // duration: ns a run
	ctxSizeIn, ctxSizeOut   uint32
	ctxIn, ctxOut           unsafe.Pointer
	flags, cpu, batch, _    uint32
}

// do runs a program on a packet and returns how long the system call took.
func (t *testRun) do(prog *ebpf.Program, frame []byte, ctx skb) (time.Duration, error) {
	t.prog = uint32(prog.FD())
	t.dataIn, t.dataSizeIn = unsafe.Pointer(&frame[0]), uint32(len(frame))
	t.ctxIn, t.ctxSizeIn = unsafe.Pointer(&ctx), uint32(unsafe.Sizeof(ctx))
	start := time.Now()
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(t)), unsafe.Sizeof(*t))
	took := time.Since(start)
	if errno != 0 {
		return 0, os.NewSyscallError("bpf(BPF_PROG_TEST_RUN)", errno)
	}
	return took, nil
}
