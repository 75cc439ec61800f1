package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Attached times what a container's from_pod does, whichever revision it is of: of its maps nothing has to be known.
type Attached struct {
	Name    string // of the class of packets
	harness *harness
	fresh   bool
	done    int // new flows so far, which the harness counts on
	ports   int // that are left for more of them
}

// AttachedTo makes the classes that any revision redirects: packets of flows that there are, and of new ones, to a
// VIP and to the container behind it. It works in the probe's network namespace. The caller closes them.
func AttachedTo(p *Probe, client netip.Addr, vip, server netip.AddrPort) (list []*Attached, err error) {
	defer func() {
		if err != nil {
			for _, a := range list {
				a.Close()
			}
			err = fmt.Errorf("time attached program: %w", err)
		}
	}()
	for _, class := range []struct {
		name  string
		from  uint16
		to    netip.AddrPort
		fresh bool
	}{
		{"established_vip", clientPort, vip, false}, {"new_vip", clientPort, vip, true},
		{"established_direct", directPort, server, false}, {"new_direct", directPort, server, true},
	} {
		syn := packet{smac: p.MAC, src: netip.AddrPortFrom(client, class.from), dst: class.to, proto: tcp, flags: flagSYN}
		a := &Attached{Name: class.name, fresh: class.fresh, ports: leastFresh}
		subject, v := syn, vary{}
		if class.fresh {
			v.port = syn.l4()
			if class.to == server {
				a.done = leastFresh // a new flow to the server may not have the tuple of one by the VIP
			}
		} else {
			subject.flags = flagACK
		}
		ctx := skb{Ifindex: uint32(p.Ifindex)}
		open := testRun{repeat: 1}
		if _, err := open.do(p.FromPod, syn.bytes(), ctx); err != nil {
			return list, err
		}
		if a.harness, err = newHarness(p.FromPod, subject.bytes(), ctx, v); err != nil {
			return list, err
		}
		list = append(list, a)
	}
	return list, nil
}

// Of the source ports, each class of new flows has its own share, which it uses one after the other, so that
// flows need not be forgotten in between.
const leastFresh = manyPorts / 2

// attachedRuns are those of one sample: there are ports for five rounds.
const attachedRuns = leastFresh / samples / 5

// Time measures one round, on a CPU (counted from 1): the ns that a run takes when code and data are in the
// CPU's caches, and how many runs there were.
func (a *Attached) Time(cpu int) (ns float64, runs int, err error) {
	runs = attachedRuns
	if a.fresh {
		if a.ports -= runs * samples; a.ports < 0 {
			return 0, 0, fmt.Errorf("time %s: no source ports are left for further flows", a.Name)
		}
	}
	var full, bare []float64
	err = undisturbed(cpu, func() error {
		for range samples {
			for _, p := range []struct {
				prog *ebpf.Program
				took *[]float64
			}{{a.harness.bare, &bare}, {a.harness.full, &full}} {
				if err := a.harness.rewind(a.done); err != nil {
					return err
				}
				ns, verdict, err := a.harness.run(p.prog, runs)
				if err != nil {
					return err
				}
				if p.prog == a.harness.full && verdict != verdictRedirect {
					return fmt.Errorf("from_pod returned %#x for %s, want %#x", verdict, a.Name, verdictRedirect)
				}
				*p.took = append(*p.took, ns)
			}
			if a.fresh {
				a.done += runs
			}
		}
		return nil
	})
	return low(full) - low(bare), runs * samples, err
}

// Close lets go of what times the program.
func (a *Attached) Close() { a.harness.close() }

// undisturbed calls f on one CPU without signals, on a thread that the caller has locked, and sets both back.
func undisturbed(cpu int, f func() error) (err error) {
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	// A signal ends a test run early, and the runtime sends some to whatever goroutine runs for long.
	var all, mask unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &mask); err != nil {
		return err
	}
	var set unix.CPUSet
	set.Set(cpu - 1)
	defer func() {
		err = errors.Join(err, unix.SchedSetaffinity(0, &before), unix.PthreadSigmask(unix.SIG_SETMASK, &mask, nil))
	}()
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("run on CPU %d: %w", cpu, err)
	}
	return f()
}
