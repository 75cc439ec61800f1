package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// plane is a dataplane that packets are given to: containers, a service of one of them, and others. What is known
// of it comes from its pinned maps, whoever loaded it.
type plane struct {
	places map[string]place
	probes map[string]*Probe // by container
	// services counts them all: one of the server, and others whose backends are elsewhere; see vipOf.
	services int
	flows    *ebpf.Map
	counts   *ebpf.Map
	names    []string // of what is counted: the 64-bit words of the map's value
}

// place is what a packet may come from and go to, by IPv4 and IPv6.
type place [2]netip.Addr

// The places.
const (
	client = "client" // containers that no policy is about
	server = "server"
	closed = "closed" // a policy lets nothing in
	guest  = "guest"  // policies let out of one and into the other what there is
	host   = "host"
	asker  = "asker" // policies let only the one ask the other, at one port
	asked  = "asked"
	vip    = "vip" // of server
	far    = "far" // outside
)

// Ports of the service, and of the server behind it.
const (
	servicePort = 80
	targetPort  = 8080
)

// openMaps opens what is pinned in a bpffs directory.
func (p *plane) openMaps(dir string) (err error) {
	if p.flows, err = ebpf.LoadPinnedMap(filepath.Join(dir, "flows"), nil); err != nil {
		return err
	}
	if p.counts, err = ebpf.LoadPinnedMap(filepath.Join(dir, "counters"), &ebpf.LoadPinOptions{ReadOnly: true}); err != nil {
		return err
	}
	p.names, err = counterNames(p.counts)
	return err
}

// counterNames reads from a map's types what its value's words are called.
func counterNames(m *ebpf.Map) (names []string, err error) {
	handle, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("read types of %s: %w", m, err)
	}
	defer handle.Close()
	spec, err := handle.Spec(nil)
	if err != nil {
		return nil, fmt.Errorf("read types of %s: %w", m, err)
	}
	var counters *btf.Struct
	if err := spec.TypeByName("counters", &counters); err != nil {
		return nil, fmt.Errorf("read types of %s: %w", m, err)
	}
	for _, member := range counters.Members {
		names = append(names, member.Name)
	}
	if uint32(8*len(names)) != m.ValueSize() {
		return nil, fmt.Errorf("%s has %d bytes for %d counters", m, m.ValueSize(), len(names))
	}
	return names, nil
}

// counters returns what the programs count, in the order of the names, over all CPUs.
func (p *plane) counters() ([]uint64, error) {
	var perCPU [][]byte
	if err := p.counts.Lookup(uint32(0), &perCPU); err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	sums := make([]uint64, len(p.names))
	for _, values := range perCPU {
		for i := range sums {
			sums[i] += binary.NativeEndian.Uint64(values[8*i:])
		}
	}
	return sums, nil
}

func (p *plane) close() {
	for _, probe := range p.probes {
		probe.Close()
	}
	p.flows.Close()
	p.counts.Close()
}

// others is how many services have their backend elsewhere.
func (p *plane) others() int { return p.services - 1 }

// fill makes one flow to each of the other services.
func (p *plane) fill() error {
	for family := range 2 {
		packet := stage{p, family}.between(client, quietPort, far, servicePort, tcp, flagSYN)
		for i := range p.others() {
			packet.dst = netip.AddrPortFrom(vipOf(i)[family], servicePort)
			if verdict, err := p.send(sent{fromPod, client, packet}); err != nil || verdict != verdictPass {
				return errors.Join(fmt.Errorf("make flow to service %d: from_pod returned %#x", i, verdict), err)
			}
		}
	}
	return nil
}

// context is what a packet at a container's veth comes with.
func (p *plane) context(program, at string) skb {
	ctx := skb{Ifindex: uint32(p.probes[at].Ifindex)}
	if program == toPod {
		ctx.IngressIfindex = 1 // lo: any that is no container's
	}
	return ctx
}

// send gives a program one packet, and returns what it said.
func (p *plane) send(s sent) (uint32, error) {
	t := testRun{repeat: 1}
	_, err := t.do(p.probes[s.at].program(s.program), s.packet.bytes(), p.context(s.program, s.at))
	return t.retval, err
}

// vipOf returns the VIPs of one of the other services, and backendOf those of its backend.
func vipOf(i int) place { return place{numbered("10.96.0.0", i), numbered("fd00:96::", i)} }

func backendOf(i int) place { return place{numbered("11.0.0.0", i), numbered("fd00:11::", i)} }

// numbered is the i-th address after one: the last three bytes hold the number.
func numbered(from string, i int) netip.Addr {
	b := netip.MustParseAddr(from).AsSlice()
	n := len(b)
	b[n-3], b[n-2], b[n-1] = b[n-3]+byte(i>>16), byte(i>>8), byte(i)
	addr, _ := netip.AddrFromSlice(b)
	return addr
}
