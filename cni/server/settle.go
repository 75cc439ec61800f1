package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/cni/ipam"
	"github.com/sluice-net/sluice/registry"
)

// Settle makes records, devices, dataplane and registry agree after a time without an agent, and then
// starts to watch over them until Close. The registry must have been read: what it knows of this
// node and no record does is deleted.
func (s *Server) Settle(ctx context.Context) error {
	if err := enableForwarding(); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	if err := closeRanges(s.opts.Prefixes); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	// Watched from before the devices are listed, so that none vanishes unseen.
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	events, err := watchLinks(watching)
	if err != nil {
		stop()
		return fmt.Errorf("settle: %w", err)
	}
	endpoints, err := s.opts.Registry.Endpoints(ctx)
	if err != nil {
		stop()
		return fmt.Errorf("settle: %w", err)
	}
	links, err := hostLinks()
	if err != nil {
		stop()
		return fmt.Errorf("settle: %w", err)
	}
	s.restore(links, endpoints)
	// What cannot be settled now is no reason not to serve: the watch tries again.
	if err := errors.Join(
		s.settleSpool(ctx),
		s.settleRecords(ctx, links, endpoints),
		s.settleStrangers(ctx, links, endpoints),
	); err != nil {
		s.log.Error("not everything could be settled", "error", err)
	}
	s.startWatch(watching, stop, events)
	s.settled.Store(true)
	return ctx.Err()
}

// restore writes those records anew that could not be read, or are lost, but that registry, device and
// dataplane still tell of together. Where the registry does not, the interface is left as it is until a
// DEL: its container may be at work.
func (s *Server) restore(links map[string]netlink.Link, endpoints []registry.Endpoint) {
	for _, i := range s.opts.Dataplane.Interfaces() {
		link := links[i.Name]
		if _, ok, _ := s.get(i.Name); ok || link == nil {
			continue
		}
		s.mu.Lock()
		s.take(i.Name, i.Addrs) // whoever it is, nobody else may have them
		s.unreadable[i.Name] = i.Addrs
		s.mu.Unlock()
		n := slices.IndexFunc(endpoints, func(e registry.Endpoint) bool { return endpointHost(e) == i.Name })
		if n < 0 {
			continue
		}
		a := restored(s.boot, i, link.Attrs().MTU, endpoints[n])
		if err := s.put(a); err != nil {
			s.log.Error("an unreadable record could not be restored", "interface", i.Name, "error", err)
			continue
		}
		s.mu.Lock()
		delete(s.unreadable, i.Name)
		s.mu.Unlock()
		s.log.Info("an unreadable record was restored", "interface", i.Name, "attachment", attachmentID(a))
	}
}

func restored(boot string, i Interface, mtu int, e registry.Endpoint) ipam.Attachment {
	return ipam.Attachment{
		Boot: boot, State: ipam.Committed, Reservation: "restored", ReservedAt: time.Now(),
		ContainerID: e.ContainerID, IfName: e.Interface, Network: e.Network,
		HostInterface: i.Name, MAC: net.HardwareAddr(i.MAC).String(), MTU: mtu,
		NetnsCookie: i.NetnsCookie, Addresses: sorted(i.Addrs), Name: e.Name, Labels: e.Labels, Ports: e.Ports,
	}
}

func sorted(addrs []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
}

// endpointHost returns the host interface that an endpoint of this node has.
func endpointHost(e registry.Endpoint) string {
	return cni.HostInterface(cni.AttachmentID{ContainerID: e.ContainerID, IfName: e.Interface})
}

// settleSpool does the DELs that plugins could not bring to the agent.
func (s *Server) settleSpool(ctx context.Context) error {
	ids, err := cni.Spooled(s.opts.Spool)
	errs := []error{err}
	for _, id := range ids {
		errs = append(errs, s.settleSpooled(ctx, id))
	}
	return errors.Join(errs...)
}

func (s *Server) settleSpooled(ctx context.Context, id cni.AttachmentID) error {
	host := cni.HostInterface(id)
	unlock, err := s.locks.lock(ctx, host)
	if err != nil {
		return fmt.Errorf("settle spooled DEL of %s: %w", id, err)
	}
	defer unlock()
	if !cni.IsSpooled(s.opts.Spool, id) {
		return nil // an ADD has settled it meanwhile, and has made the interface anew
	}
	if err := s.remove(ctx, host, id); err != nil {
		return fmt.Errorf("settle spooled DEL of %s: %w", id, err)
	}
	return cni.Unspool(s.opts.Spool, id)
}

// settleRecords brings every recorded attachment to where it should be.
func (s *Server) settleRecords(ctx context.Context, links map[string]netlink.Link, endpoints []registry.Endpoint) error {
	registered := map[registry.EndpointID]bool{}
	for _, e := range endpoints {
		registered[e.EndpointID] = true
	}
	// What was given labels at run time keeps them: only what is missing is put.
	putMissing := func(ctx context.Context, e registry.Endpoint) error {
		if registered[e.EndpointID] {
			return nil
		}
		return s.opts.Registry.PutEndpoint(ctx, e)
	}
	var errs []error
	for _, host := range s.hosts() {
		a, ok, _ := s.get(host)
		if !ok {
			continue
		}
		var err error
		switch link := links[host]; {
		case a.State == ipam.Leaving, a.State == ipam.Reserved && expired(a):
			err = s.removeLocked(ctx, host, attachmentID(a), a.Reservation)
		case a.State == ipam.Reserved: // its plugin may be about to commit
		case link == nil:
			err = s.vanished(ctx, host)
		default:
			err = s.connect(a, link.Attrs().Index)
			if err == nil {
				err = s.register(ctx, a, putMissing)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("settle %s: %w", attachmentID(a), err))
		}
	}
	return errors.Join(errs...)
}

// settleStrangers removes what no record tells of.
func (s *Server) settleStrangers(ctx context.Context, links map[string]netlink.Link, endpoints []registry.Endpoint) error {
	known := func(host string) bool {
		_, ok, unreadable := s.get(host)
		return ok || unreadable && links[host] != nil
	}
	var errs []error
	for _, e := range endpoints {
		if !known(endpointHost(e)) {
			errs = append(errs, s.opts.Registry.DeleteEndpoint(ctx, e.EndpointID))
		}
	}
	for _, i := range s.opts.Dataplane.Interfaces() {
		if !known(i.Name) {
			errs = append(errs, s.opts.Dataplane.DetachInterface(i.Name))
		}
	}
	for host := range links {
		if !known(host) {
			errs = append(errs, deleteLink(host))
		}
	}
	s.mu.Lock()
	lost := make([]string, 0, len(s.unreadable))
	for host := range s.unreadable {
		if links[host] == nil {
			lost = append(lost, host)
		}
	}
	s.mu.Unlock()
	for _, host := range lost {
		errs = append(errs, s.forget(host))
	}
	return errors.Join(errs...)
}
