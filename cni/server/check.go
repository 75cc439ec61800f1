package server

import (
	"context"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/cni/ipam"
	"github.com/sluice-net/sluice/registry"
)

// check compares the node's side of an interface with its record.
func (s *Server) check(ctx context.Context, r cni.CheckRequest) (cni.CheckReply, error) {
	host := cni.HostInterface(r.AttachmentID)
	unlock, err := s.locks.lock(ctx, host)
	if err != nil {
		return cni.CheckReply{}, fmt.Errorf("wait for another request for %s: %w", r.AttachmentID, err)
	}
	defer unlock()
	a, ok, unreadable := s.get(host)
	switch {
	case unreadable:
		return cni.CheckReply{}, types.NewError(cni.CodeCheckFailed, fmt.Sprintf("the record of %s is unreadable", r.AttachmentID), "")
	case !ok || attachmentID(a) != r.AttachmentID || a.State != ipam.Committed:
		return cni.CheckReply{}, types.NewError(types.ErrUnknownContainer, fmt.Sprintf("%s is not wired", r.AttachmentID), "")
	}
	reply := cni.CheckReply{HostInterface: host, MAC: a.MAC, MTU: a.MTU, Addresses: a.Addresses}
	if reply.Problems, err = s.checkKernel(a); err != nil {
		return cni.CheckReply{}, err
	}
	endpoints, err := s.opts.Registry.Endpoints(ctx)
	if err != nil {
		return cni.CheckReply{}, fmt.Errorf("check %s: %w", r.AttachmentID, err)
	}
	id := s.endpointID(r.AttachmentID)
	i := slices.IndexFunc(endpoints, func(e registry.Endpoint) bool { return e.EndpointID == id })
	if i < 0 {
		reply.Problems = append(reply.Problems, "the registry does not know the container")
	} else if !slices.Equal(sorted(endpoints[i].Addresses), a.Addresses) {
		reply.Problems = append(reply.Problems, fmt.Sprintf("the registry has addresses %s instead of %s", endpoints[i].Addresses, a.Addresses))
	}
	return reply, nil
}

func (s *Server) checkKernel(a ipam.Attachment) (problems []string, err error) {
	err = withNetlink(func(h *netlink.Handle) error {
		link, err := findLink(h, a.HostInterface)
		if err != nil {
			return err
		}
		if link == nil {
			problems = []string{fmt.Sprintf("interface %s is missing", a.HostInterface)}
			return nil
		}
		if problems, err = checkHost(h, a, link); err != nil {
			return err
		}
		i, err := s.dataplaneInterface(a, link.Attrs().Index)
		if err != nil {
			return err
		}
		if err := s.opts.Dataplane.VerifyInterface(i); err != nil {
			problems = append(problems, err.Error())
		}
		return nil
	})
	return problems, err
}

// status succeeds when an ADD would.
func (s *Server) status(ctx context.Context, _ cni.StatusRequest) (none, error) {
	s.mu.Lock()
	err := s.alloc.Free()
	s.mu.Unlock()
	if err != nil {
		return none{}, types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	if err := s.opts.Registry.Health(ctx); err != nil {
		return none{}, types.NewError(types.ErrLimitedConnectivity, err.Error(), "services no longer follow changes")
	}
	return none{}, nil
}
