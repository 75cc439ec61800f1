package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/cni/ipam"
	"github.com/sluice-net/sluice/registry"
)

// reservationLimit is how long a plugin has from the reservation to the commit; after that it is
// taken for dead.
const reservationLimit = time.Minute

// add reserves what a new interface needs and records it.
func (s *Server) add(ctx context.Context, r cni.AddRequest) (cni.AddReply, error) {
	if err := r.Validate(); err != nil {
		return cni.AddReply{}, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	host := cni.HostInterface(r.AttachmentID)
	unlock, err := s.locks.lock(ctx, host)
	if err != nil {
		return cni.AddReply{}, fmt.Errorf("wait for another request for %s: %w", r.AttachmentID, err)
	}
	defer unlock()
	if err := s.makeRoom(ctx, host, r.AttachmentID); err != nil {
		return cni.AddReply{}, err
	}
	a, err := s.reserve(host, r)
	if err != nil {
		return cni.AddReply{}, err
	}
	reply := cni.AddReply{
		Reservation:   a.Reservation,
		HostInterface: host,
		MAC:           a.MAC,
		MTU:           a.MTU,
		Addresses:     a.Addresses,
	}
	if s.opts.Resolver != nil {
		reply.DNS = s.opts.Resolver(a.Name.Namespace)
	}
	return reply, nil
}

// makeRoom removes what an earlier life of the same interface left: a DEL that waits in the spool, an
// ADD that was never committed, a device without a record. An interface that is in use is an error.
func (s *Server) makeRoom(ctx context.Context, host string, id cni.AttachmentID) error {
	if cni.IsSpooled(s.opts.Spool, id) {
		if err := s.remove(ctx, host, id); err != nil {
			return earlierError(id, err)
		}
		return cni.Unspool(s.opts.Spool, id)
	}
	old, ok, unreadable := s.get(host)
	switch {
	case ok && attachmentID(old) != id:
		return types.NewError(types.ErrInternal, fmt.Sprintf("%s and %s have one host interface name %s", id, attachmentID(old), host), "")
	case unreadable:
		return types.NewError(cni.CodeAttached, fmt.Sprintf("%s is wired but its record is unreadable: DEL it first", id), "")
	case ok && old.State == ipam.Committed:
		index, err := hostIndex(host)
		if err != nil {
			return err
		}
		if index != 0 {
			return types.NewError(cni.CodeAttached, fmt.Sprintf("%s is wired already, with %s", id, old.Addresses), "")
		}
		// Its namespace is gone and no DEL came: some runtimes send none.
	}
	if err := s.remove(ctx, host, id); err != nil {
		return earlierError(id, err)
	}
	return nil
}

func earlierError(id cni.AttachmentID, err error) error {
	return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("remove what an earlier ADD left of %s: %v", id, err), "")
}

// reserve takes addresses and records the attachment.
func (s *Server) reserve(host string, r cni.AddRequest) (ipam.Attachment, error) {
	a := ipam.Attachment{
		Boot:          s.boot,
		State:         ipam.Reserved,
		Reservation:   rand.Text(),
		ReservedAt:    time.Now(),
		ContainerID:   r.ContainerID,
		IfName:        r.IfName,
		Netns:         r.Netns,
		Network:       r.Network,
		HostInterface: host,
		MAC:           r.MAC,
		MTU:           r.MTU,
		Name:          r.Name,
		Labels:        r.Labels,
		Ports:         r.Ports,
	}
	if a.Name.Namespace == "" {
		a.Name.Namespace = "default"
	}
	if a.Name.Name == "" {
		a.Name.Name = a.ContainerID
	}
	if a.MAC == "" {
		a.MAC = cni.DefaultMAC(r.AttachmentID).String()
	}
	if a.MTU == 0 {
		a.MTU = s.opts.MTU
	}
	if a.MTU == 0 {
		mtu, err := s.uplink.MTU()
		if err != nil {
			return a, err
		}
		a.MTU = mtu
	}
	addrs, err := s.allocate(r.IPs)
	if err != nil {
		return a, err
	}
	a.Addresses = addrs
	err = s.step("reserve")
	if err == nil {
		err = s.put(a)
	}
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.alloc.Release(addrs...)
		return a, err
	}
	return a, nil
}

// allocate takes the wanted addresses and one of each other family, and stores the place to go on
// from.
func (s *Server) allocate(want []netip.Addr) ([]netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	addrs, err := s.alloc.Allocate(want...)
	switch {
	case errors.Is(err, ipam.ErrFull):
		return nil, types.NewError(cni.CodeRangeFull, err.Error(), "")
	case errors.Is(err, ipam.ErrUsed):
		return nil, types.NewError(cni.CodeAddressUsed, err.Error(), "")
	case err != nil:
		return nil, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	if err := s.store.PutLast(s.alloc.Last()); err != nil {
		s.alloc.Release(addrs...)
		return nil, err
	}
	return addrs, nil
}

// attach makes an interface that the plugin has made carry the container's packets.
func (s *Server) attach(ctx context.Context, r cni.CommitRequest) (none, error) {
	return none{}, s.reserved(ctx, "attach", r, func(a ipam.Attachment, index int) error {
		return s.connect(a, index)
	})
}

// commit puts an interface, whose container can be reached, into service.
func (s *Server) commit(ctx context.Context, r cni.CommitRequest) (none, error) {
	return none{}, s.reserved(ctx, "commit", r, func(a ipam.Attachment, _ int) error {
		if err := s.register(ctx, a, s.opts.Registry.PutEndpoint); err != nil {
			return err
		}
		a.State = ipam.Committed
		err := s.step("record")
		if err == nil {
			err = s.put(a)
		}
		return err
	})
}

// reserved does a step of the ADD that holds the reservation.
func (s *Server) reserved(ctx context.Context, name string, r cni.CommitRequest, do func(a ipam.Attachment, index int) error) error {
	host := cni.HostInterface(r.AttachmentID)
	unlock, err := s.locks.lock(ctx, host)
	if err != nil {
		return fmt.Errorf("wait for another request for %s: %w", r.AttachmentID, err)
	}
	defer unlock()
	a, ok, _ := s.get(host)
	if !ok || a.State == ipam.Leaving || a.Reservation != r.Reservation {
		return types.NewError(types.ErrUnknownContainer,
			fmt.Sprintf("%s %s: the reservation is gone: a DEL or another ADD came between", name, r.AttachmentID), "")
	}
	if r.NetnsCookie != 0 { // an older plugin knows none
		a.NetnsCookie = r.NetnsCookie
	}
	index, err := hostIndex(host)
	if err != nil {
		return err
	}
	if index == 0 {
		return types.NewError(types.ErrInternal, fmt.Sprintf("%s %s: interface %s is not there", name, r.AttachmentID, host), "")
	}
	if err := do(a, index); err != nil {
		return fmt.Errorf("%s %s: %w", name, r.AttachmentID, err)
	}
	return nil
}

// connect makes an interface carry packets: the programs first, so that none passes without them,
// then the device and its routes. It may be repeated.
func (s *Server) connect(a ipam.Attachment, index int) error {
	i, err := s.dataplaneInterface(a, index)
	if err != nil {
		return err
	}
	if err := s.step("attach"); err != nil {
		return err
	}
	if err := s.opts.Dataplane.Attach(i); err != nil {
		return fmt.Errorf("attach programs: %w", err)
	}
	if err := s.step("host"); err != nil {
		return err
	}
	return setUpHost(a, index)
}

// register lets others learn of a container. It may be repeated.
func (s *Server) register(ctx context.Context, a ipam.Attachment, putEndpoint func(context.Context, registry.Endpoint) error) error {
	if err := s.step("register"); err != nil {
		return err
	}
	if err := putEndpoint(ctx, s.endpoint(a)); err != nil {
		return fmt.Errorf("register endpoint: %w", err)
	}
	return nil
}
