package scale

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
)

// The crew: containers of this node, of which ten each are one service's backends. They are registered and stand in
// the maps as any others, but all are on one veth: the kernel's own devices are not what is measured.
const (
	crewTogether = stallBackends
	crewVeth     = "crew"
)

// crewServices are the services that select the crew, and the crew as the registry knows it.
func crewServices(n int) (all []registry.Change) {
	for i := range (n + crewTogether - 1) / crewTogether {
		s := service(fmt.Sprintf("crew%d", i), stallVIP(i))
		s.Namespace = "crew"
		s.Selector = map[string]string{"app": crewApp(i * crewTogether)}
		s.Ports[0].TargetName, s.Ports[0].TargetPort = "", 8080
		all = append(all, registry.Change{Service: s})
	}
	for i := range n {
		e := crewMember(i)
		all = append(all, registry.Change{Endpoint: &e})
	}
	return all
}

func crewApp(i int) string { return fmt.Sprintf("a%d", i/crewTogether) }

func crewAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 210 + byte(i>>16), byte(i >> 8), byte(i)})
}

func crewMember(i int) registry.Endpoint {
	return endpoint("here", fmt.Sprintf("crew%d", i), "crew", crewApp(i), crewAddr(i))
}

// wireAll attaches the crew.
func (w *World) wireAll() error {
	if w.links[crewVeth] == nil {
		if err := w.wire(crewVeth); err != nil {
			return err
		}
	}
	for w.wired < w.plan.N {
		if err := w.wireOne(w.wired); err != nil {
			return err
		}
		w.wired++
	}
	return nil
}

func (w *World) wireOne(i int) error {
	e := crewMember(i)
	return w.loader.Attach(loader.Interface{
		Name: e.ContainerID, Index: w.links[crewVeth].Attrs().Index, MAC: []byte{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)},
		Addrs: e.Addresses, Endpoint: e,
	})
}

// changedContainer is one of the crew that ceases to be ready, or is so again.
func (w *World) changedContainer() registry.Change {
	w.changes++
	e := crewMember(w.changes * 7919 % w.plan.N)
	e.Unready = w.changes/w.plan.N%2 == 0
	return registry.Change{Endpoint: &e}
}

// Wired is how long containers took to come and to go.
type Wired struct{ Attach, Detach []time.Duration }

// Wire lets containers come beside those that are there, and go again.
func (w *World) Wire(times int, r *Wired) error {
	if w.plan.Grow != "containers" {
		return errors.New("there is no crew")
	}
	for i := range times {
		began := time.Now()
		if err := w.wireOne(w.plan.N + i); err != nil {
			return err
		}
		r.Attach = append(r.Attach, time.Since(began))
		began = time.Now()
		if err := w.loader.DetachInterface(crewMember(w.plan.N + i).ContainerID); err != nil {
			return err
		}
		r.Detach = append(r.Detach, time.Since(began))
	}
	return nil
}
