// Package server is the agent's side of the CNI plugin: it hands out addresses, owns the node's end
// of every container's veth, and keeps dataplane and registry in step with what is wired.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/cni/ipam"
	"github.com/sluice-net/sluice/registry"
)

// Interface is a container's veth as the dataplane knows it.
type Interface struct {
	Name  string           // of the host side
	Index int              // of the host side
	MAC   net.HardwareAddr // of the container's side
	Addrs []netip.Addr     // of the container
	// NetnsCookie is the kernel's number of the container's network namespace; 0: unknown.
	NetnsCookie uint64
	// Endpoint is the container as the registry knows it or will: its policies hold from the first
	// packet on.
	Endpoint registry.Endpoint
}

// Dataplane serves containers' packets. All calls may be repeated.
type Dataplane interface {
	// Attach serves the interface from now on.
	Attach(Interface) error
	// DetachInterface ends that, also when the device is gone.
	DetachInterface(name string) error
	// VerifyInterface returns nil when everything is as Attach left it.
	VerifyInterface(Interface) error
	// Interfaces lists what is attached.
	Interfaces() []Interface
}

// Registry makes containers known. Changes return when this node's maps reflect them.
type Registry interface {
	PutEndpoint(context.Context, registry.Endpoint) error
	// DeleteEndpoint removes an endpoint; one that is not there is no error.
	DeleteEndpoint(context.Context, registry.EndpointID) error
	// Endpoints lists those of this node.
	Endpoints(context.Context) ([]registry.Endpoint, error)
	// Health returns nil when the registry takes changes.
	Health(context.Context) error
}

// Options says what a Server works with. All but Keep, MTU and Logger are required.
type Options struct {
	Node      string         // name of this node in the registry
	Prefixes  []netip.Prefix // addresses for containers
	Keep      []netip.Addr   // addresses among them that are the node's own, until Server.Keep says more
	MTU       int            // of containers' interfaces, in bytes; 0: that of the uplink
	State     string         // directory of the attachment records
	Spool     string         // directory of what plugins could not tell the agent
	Dataplane Dataplane
	Registry  Registry
	Resolver  func(namespace string) types.DNS // what a container's resolv.conf is to say; nil: nothing
	Logger    *slog.Logger                     // nil discards
}

// Server answers the plugin. Requests for one interface are served one after the other, all others
// side by side.
type Server struct {
	opts    Options
	log     *slog.Logger
	boot    string
	disk    *ipam.Disk // what Close closes; store is what is used
	store   ipam.Store
	metrics *metrics
	uplink  uplink
	locks   locks // by host interface; taken before mu
	settled atomic.Bool

	mu          sync.Mutex
	alloc       *ipam.Allocator
	attachments map[string]ipam.Attachment // by host interface
	// unreadable holds host interfaces whose record could not be read, with the addresses that the
	// dataplane knows of. They are left as they are until a DEL comes or the device is gone.
	unreadable map[string][]netip.Addr
	// withdrawn holds those of attachments whose device vanished without a DEL: the dataplane and
	// the registry no longer know them.
	withdrawn map[string]bool
	watch     *watch

	// fault, when set, is asked before each step and fails it with what it returns.
	fault func(step string) error
}

// New opens the records under opts.State. Settle must be called before the first request is served.
func New(opts Options) (*Server, error) {
	boot, err := ipam.BootID()
	if err != nil {
		return nil, err
	}
	disk, contents, err := ipam.OpenDisk(opts.State, boot)
	if err != nil {
		return nil, err
	}
	s, err := newServer(opts, boot, disk, contents)
	if err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	s.disk = disk
	return s, nil
}

func newServer(opts Options, boot string, store ipam.Store, contents ipam.Contents) (*Server, error) {
	s := &Server{
		opts: opts, log: opts.Logger, boot: boot, store: store,
		attachments: map[string]ipam.Attachment{},
		unreadable:  map[string][]netip.Addr{},
		withdrawn:   map[string]bool{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	prefixes := opts.Prefixes
	if _, err := os.Stat("/proc/sys/net/ipv6"); errors.Is(err, os.ErrNotExist) {
		prefixes = slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return p.Addr().Is6() })
		s.log.Warn("the kernel has no IPv6: containers get IPv4 addresses only")
	}
	if len(prefixes) == 0 {
		return nil, errors.New("open CNI server: no address range for containers")
	}
	var err error
	if s.alloc, err = ipam.NewAllocator(prefixes, opts.Keep...); err != nil {
		return nil, fmt.Errorf("open CNI server: %w", err)
	}
	s.alloc.Resume(contents.Last)
	for _, a := range contents.Attachments {
		s.attachments[a.HostInterface] = a
		s.take(a.HostInterface, a.Addresses)
	}
	for _, host := range contents.Unreadable {
		s.log.Error("an attachment record is unreadable and was set aside", "interface", host, "directory", opts.State)
		s.unreadable[host] = nil
	}
	s.metrics = newMetrics(s.Usage)
	return s, nil
}

// Close ends the watch and lets go of the records. What is wired stays wired.
func (s *Server) Close() error {
	s.mu.Lock()
	w := s.watch
	s.watch = nil
	s.mu.Unlock()
	if w != nil {
		w.stop()
		w.done.Wait()
	}
	if s.disk == nil {
		return nil
	}
	return s.disk.Close()
}

// take marks the addresses of a living container. That they lie outside the ranges happens when the
// configuration was changed; that they are taken cannot be, and is logged.
func (s *Server) take(host string, addrs []netip.Addr) {
	for _, addr := range addrs {
		if err := s.alloc.Retake(addr); err != nil {
			s.log.Warn("a wired container's address cannot be taken from the ranges", "interface", host, "error", err)
		}
	}
}

// Keep has no container get one of these addresses from now on: they are the node's own, all that there are.
func (s *Server) Keep(addrs []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alloc.Keep(addrs...)
}

// Owners returns the containers that have some of these addresses.
func (s *Server) Owners(addrs []netip.Addr) map[netip.Addr]registry.Name {
	s.mu.Lock()
	defer s.mu.Unlock()
	owners := map[netip.Addr]registry.Name{}
	for _, addr := range addrs {
		if !s.alloc.Used(addr) {
			continue
		}
		for _, a := range s.attachments {
			if slices.Contains(a.Addresses, addr) {
				owners[addr] = a.Name
			}
		}
	}
	return owners
}

// Usage returns how full the ranges are.
func (s *Server) Usage() []ipam.Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alloc.Usage()
}

// get returns the record of a host interface.
func (s *Server) get(host string) (a ipam.Attachment, ok, unreadable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok = s.attachments[host]
	_, unreadable = s.unreadable[host]
	return a, ok, unreadable
}

// put stores a record, on disk first.
func (s *Server) put(a ipam.Attachment) error {
	if err := s.store.Put(a); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attachments[a.HostInterface] = a
	return nil
}

// forget removes a record, from the disk first, and frees its addresses.
func (s *Server) forget(host string) error {
	if err := s.step("forget"); err != nil {
		return err
	}
	if err := s.store.Delete(host); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alloc.Release(s.attachments[host].Addresses...)
	s.alloc.Release(s.unreadable[host]...)
	delete(s.attachments, host)
	delete(s.unreadable, host)
	delete(s.withdrawn, host)
	return nil
}

// Namespaces returns the paths of the network namespaces of wired containers, as the runtime named
// them. Some may be gone.
func (s *Server) Namespaces() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var paths []string
	for _, a := range s.attachments {
		if a.Netns != "" { // restored from what the kernel holds
			paths = append(paths, a.Netns)
		}
	}
	return paths
}

// Own returns the addresses of the container that has one of them, of all its interfaces; nil: none here has it.
func (s *Server) Own(addr netip.Addr) []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var own []netip.Addr
	for _, a := range s.attachments {
		if !slices.Contains(a.Addresses, addr) {
			continue
		}
		for _, other := range s.attachments {
			// What was restored from the kernel alone may have no id.
			if other.HostInterface == a.HostInterface || a.ContainerID != "" && other.ContainerID == a.ContainerID {
				own = append(own, other.Addresses...)
			}
		}
	}
	return own
}

// hosts returns the host interfaces of all records.
func (s *Server) hosts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for host := range s.attachments {
		out = append(out, host)
	}
	return out
}

func (s *Server) step(name string) error {
	if s.fault != nil {
		return s.fault(name)
	}
	return nil
}

// isWithdrawn tells whether a committed attachment's device is known to be gone.
func (s *Server) isWithdrawn(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.withdrawn[host]
}

func (s *Server) setWithdrawn(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.withdrawn[host] = true
}

func attachmentID(a ipam.Attachment) cni.AttachmentID {
	return cni.AttachmentID{ContainerID: a.ContainerID, IfName: a.IfName}
}

// endpointID returns the registry's name of an interface.
func (s *Server) endpointID(id cni.AttachmentID) registry.EndpointID {
	return registry.EndpointID{Node: s.opts.Node, ContainerID: id.ContainerID, Interface: id.IfName}
}

// endpoint returns what the registry is told of an attachment.
func (s *Server) endpoint(a ipam.Attachment) registry.Endpoint {
	return registry.Endpoint{
		EndpointID: s.endpointID(attachmentID(a)),
		Name:       a.Name,
		Network:    a.Network,
		Addresses:  a.Addresses,
		Labels:     a.Labels,
		Ports:      a.Ports,
	}
}

// dataplaneInterface returns what the dataplane is told of an attachment.
func (s *Server) dataplaneInterface(a ipam.Attachment, index int) (Interface, error) {
	mac, err := net.ParseMAC(a.MAC)
	if err != nil {
		return Interface{}, fmt.Errorf("record of %s: %w", a.HostInterface, err)
	}
	return Interface{
		Name: a.HostInterface, Index: index, MAC: mac, Addrs: a.Addresses,
		NetnsCookie: a.NetnsCookie, Endpoint: s.endpoint(a),
	}, nil
}

// expired tells whether a reservation has waited so long for its commit that the plugin must have
// died.
func expired(a ipam.Attachment) bool {
	age := time.Since(a.ReservedAt)
	return age > reservationLimit || age < -reservationLimit // a clock that was set back
}
