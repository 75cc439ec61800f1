package scale

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// ChangeArgs ask for changes, one after the other.
type ChangeArgs struct {
	Kind  string // of what is changed: see changed
	Times int
}

// Changed is how long they took, each from the batch that told of it to the maps.
type Changed struct {
	Took   []time.Duration
	Writes float64 // entries of the services' maps that one took
}

// Change makes changes.
func (w *World) Change(a ChangeArgs, r *Changed) error {
	before := w.written()
	for range a.Times {
		change, err := w.changed(a.Kind)
		if err != nil {
			return err
		}
		w.revision++
		began := time.Now()
		u := w.catalog.Apply(registry.Batch{Revision: w.revision, Changes: []registry.Change{change}})
		if err := w.loader.Sync(u); err != nil {
			return err
		}
		r.Took = append(r.Took, time.Since(began))
	}
	r.Writes = float64(w.written()-before) / float64(a.Times)
	return nil
}

func (w *World) changed(kind string) (c registry.Change, err error) {
	switch kind {
	case "random", "maglev":
		return w.changedService(registry.Algorithm(kind)), nil
	case "policy":
		return w.changedPolicy(), nil
	case "container":
		return w.changedContainer(), nil
	}
	return c, fmt.Errorf("no kind of change: %q", kind)
}

// written counts the entries of services' maps that were ever written.
func (w *World) written() uint64 {
	n := w.loader.Writes()
	return n.Services + n.Slots + n.Backends + n.ServiceStats
}

// PacketArgs ask for packets of the client, each through from_pod by itself.
type PacketArgs struct {
	Kind  string // see target
	Times int
}

// Packets returns the nanoseconds that a packet takes, those of timing one taken off: a packet that the program
// lets pass at its first look goes between any two.
func (w *World) Packets(a PacketArgs, ns *float64) error {
	other := make([]byte, 60)
	other[12], other[13] = 0x88, 0xcc // LLDP
	if w.sent == nil {
		w.sent = map[string]int{}
	}
	var took, idle []float64
	for range a.Times {
		from, to, err := w.target(a.Kind, w.sent[a.Kind])
		if err != nil {
			return err
		}
		w.sent[a.Kind]++
		for _, one := range []struct {
			frame []byte
			into  *[]float64
		}{{other, &idle}, {w.probe.SYN(from, to), &took}} {
			t, err := w.probe.Time(one.frame, 1)
			if err != nil {
				return err
			}
			*one.into = append(*one.into, t)
		}
	}
	*ns = middle(took) - middle(idle)
	return nil
}

// portsEach is how many source ports each kind of packet has, so that no two kinds' flows meet at a backend.
const portsEach = 9000

// target is the i-th packet of a kind: where from and where to.
func (w *World) target(kind string, i int) (from, to netip.AddrPort, err error) {
	kinds := []string{"established", "new_random", "new_maglev", "new_few_in_turn", "new_all_in_turn", "new_local"}
	place := slices.Index(kinds, kind)
	if place < 0 {
		return from, to, fmt.Errorf("no kind of packet: %q", kind)
	}
	from = netip.AddrPortFrom(clientAddr, uint16(1024+place*portsEach+i%portsEach))
	vip := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, servicePort) }
	switch kind {
	case "established":
		switch w.plan.Grow {
		case "flows":
			from, to = flow(i * 7919 % w.plan.N)
			return from, to, nil
		case "policies": // which let through what is for the server's port
			return netip.AddrPortFrom(clientAddr, 1024), vip(serverAddr), nil
		}
		return netip.AddrPortFrom(clientAddr, 1024), vip(probes[registry.AlgorithmRandom]), nil
	case "new_random":
		return from, vip(probes[registry.AlgorithmRandom]), nil
	case "new_maglev":
		return from, vip(probes[registry.AlgorithmMaglev]), nil
	case "new_local":
		return from, vip(serverAddr), nil
	case "new_few_in_turn":
		return from, vip(w.others(i % 10 * max(w.plan.N/10, 1))), nil
	default:
		return from, vip(w.others(i * 7919)), nil
	}
}

// others are the addresses of what there are many of: services, containers here, or those of the crowd elsewhere.
func (w *World) others(i int) netip.Addr {
	switch w.plan.Grow {
	case "policies":
		return crowdAddr(i % crowdSize)
	case "containers":
		return crewAddr(i % w.plan.N)
	default:
		return stallVIP(i % w.plan.N)
	}
}

// middle returns the mean of the middle half: single runs are timed in steps of 10 ns, which a median would show.
func middle(samples []float64) (mean float64) {
	slices.Sort(samples)
	half := samples[len(samples)/4 : len(samples)-len(samples)/4]
	for _, ns := range half {
		mean += ns / float64(len(half))
	}
	return mean
}
