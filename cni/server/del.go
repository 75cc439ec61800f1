package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/cni/ipam"
)

// del removes an interface. It succeeds also when a part of the work failed: the record stays, its
// addresses with it, and the rest is tried again until it is done.
func (s *Server) del(ctx context.Context, r cni.DelRequest) (none, error) {
	if err := r.AttachmentID.Validate(); err != nil {
		return none{}, nil // an ADD of it was refused
	}
	host := cni.HostInterface(r.AttachmentID)
	unlock, err := s.locks.lock(ctx, host)
	if err != nil {
		return none{}, fmt.Errorf("wait for another request for %s: %w", r.AttachmentID, err)
	}
	defer unlock()
	if a, ok, _ := s.get(host); r.Reservation != "" && (!ok || a.Reservation != r.Reservation) {
		return none{}, nil // of an ADD that another one or a DEL overtook
	}
	err = s.remove(ctx, host, r.AttachmentID)
	if err == nil {
		err = cni.Unspool(s.opts.Spool, r.AttachmentID)
	}
	if err != nil {
		s.log.Error("DEL is not complete and will be tried again", "attachment", r.AttachmentID, "error", err)
	}
	return none{}, nil
}

// remove takes an interface out of service and removes all that belongs to it. The caller holds the
// lock of host. The registry comes first, and its change is awaited: from then on nobody is sent to
// the container any more; then the programs, the device, and at last the record, which holds the
// addresses. A failing step does not keep the others from being done, except that the record stays.
func (s *Server) remove(ctx context.Context, host string, id cni.AttachmentID) error {
	a, ok, unreadable := s.get(host)
	if !ok && !unreadable {
		return deleteLink(host) // the record goes last, so no more than the device can be left
	}
	if ok && attachmentID(a) != id {
		return nil // another container with the same host interface name
	}
	var errs []error
	if ok && a.State != ipam.Leaving {
		a.State = ipam.Leaving
		errs = append(errs, s.put(a))
	}
	errs = append(errs, s.withdraw(ctx, host, id), s.removeLink(host))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.forget(host)
}

func (s *Server) removeLink(host string) error {
	if err := s.step("delete"); err != nil {
		return err
	}
	return deleteLink(host)
}

// withdraw makes registry and dataplane forget an interface.
func (s *Server) withdraw(ctx context.Context, host string, id cni.AttachmentID) error {
	var errs []error
	err := s.step("unregister")
	if err == nil {
		err = s.opts.Registry.DeleteEndpoint(ctx, s.endpointID(id))
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("unregister endpoint: %w", err))
	}
	if err = s.step("detach"); err == nil {
		// Without its programs a container that still lives could send what it likes.
		err = errors.Join(setDown(host), s.opts.Dataplane.DetachInterface(host))
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("detach programs: %w", err))
	}
	return errors.Join(errs...)
}

// gc removes every attachment of a network that the runtime does not name, and what waits in the
// spool.
func (s *Server) gc(ctx context.Context, r cni.GCRequest) (none, error) {
	if r.Network == "" {
		return none{}, types.NewError(types.ErrInvalidNetworkConfig, "GC: no network name", "")
	}
	errs := []error{s.settleSpool(ctx)}
	valid := map[cni.AttachmentID]bool{}
	for _, id := range r.Valid {
		valid[id] = true
	}
	for _, host := range s.hosts() {
		a, ok, _ := s.get(host)
		if !ok || a.Network != r.Network || valid[attachmentID(a)] {
			continue
		}
		errs = append(errs, s.removeLocked(ctx, host, attachmentID(a), a.Reservation))
	}
	if err := errors.Join(errs...); err != nil {
		return none{}, fmt.Errorf("GC of network %s: %w", r.Network, err)
	}
	return none{}, nil
}

// removeLocked is remove for a caller without the lock. Unless reservation is empty, an attachment
// that another ADD made meanwhile is left alone.
func (s *Server) removeLocked(ctx context.Context, host string, id cni.AttachmentID, reservation string) error {
	unlock, err := s.locks.lock(ctx, host)
	if err != nil {
		return fmt.Errorf("wait for another request for %s: %w", id, err)
	}
	defer unlock()
	if a, ok, _ := s.get(host); reservation != "" && (!ok || a.Reservation != reservation) {
		return nil
	}
	if err := s.remove(ctx, host, id); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	return nil
}
