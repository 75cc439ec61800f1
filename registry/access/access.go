// Package access decides who may write to the registry over the network.
//
// Whoever reaches a listener may read. Writers show a token or a client certificate; without one, a process may
// register and change only instances at its own addresses. Its own are those of the address that its packets come
// from: the kernel lets no container send from another's. What a request's headers say of where it comes from
// (X-Forwarded-For, Forwarded) is never believed.
package access

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/sluice-net/sluice/registry"
)

// Why a caller may not.
var (
	// ErrUnauthenticated: a token or a client certificate is wanted, or the one that was shown is not known.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrForbidden: the caller is known, and may not.
	ErrForbidden = errors.New("forbidden")
)

// Guard tells who calls. The zero value knows no tokens and nobody's addresses: then only root's processes on a
// unix socket and holders of client certificates may write.
type Guard struct {
	// Tokens are those that writers show, as "Authorization: Bearer TOKEN" or as the password of HTTP Basic.
	// nil: there are none.
	Tokens *Tokens
	// Own returns the addresses of whoever sends from an address, without zones and IPv4 as IPv4: of a container
	// of this node its own, of the node itself the node's; nil: nobody's of this node. One loopback address among
	// them stands for all. A nil func returns nil.
	Own func(source netip.Addr) []netip.Addr
	// Room bounds what is registered without a token; nil: nothing does.
	Room *Room
}

// Caller is who sent a request.
type Caller struct {
	// Name is for people: root, a token's or a certificate's name, or the address.
	Name string
	// Source is where the request came from, without a zone and IPv4 as IPv4; invalid for a unix socket.
	Source netip.Addr

	scope   Scope
	unknown bool // a token was shown that nobody has
	own     func() []netip.Addr
	room    *Room
}

// Caller tells who sent a request. Of a unix socket it is whoever the socket let in, and may do everything: the
// socket's mode is its guard. A client certificate counts when the server has verified it.
func (g *Guard) Caller(r *http.Request) Caller {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && local.Network() == "unix" {
		return Caller{Name: "root", scope: ScopeAll}
	}
	c := Caller{Name: "somebody", own: func() []netip.Addr { return nil }, room: g.Room}
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		// A link-local address means nothing without its interface: nobody owns one.
		scoped := from.Addr().Zone() != ""
		c.Source = from.Addr().WithZone("").Unmap()
		c.Name = c.Source.String()
		// Nor does a browser's: a page of any site can make it send here.
		foreign := new(http.CrossOriginProtection).Check(r) != nil
		if g.Own != nil && !scoped && !foreign {
			c.own = func() []netip.Addr { return g.Own(c.Source) }
		}
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		c.Name, c.scope = "certificate "+r.TLS.VerifiedChains[0][0].Subject.String(), ScopeAll
		return c
	}
	if secret, shown := credential(r); shown {
		name, scope, known := g.Tokens.find(secret)
		if known {
			c.Name, c.scope = "token "+name, scope
		}
		c.unknown = !known
	}
	return c
}

// Trusted returns a caller that the configuration names, and no request: it may write instances, whatever their addresses.
func Trusted(name string) Caller {
	return Caller{Name: name, scope: ScopeInstances, own: func() []netip.Addr { return nil }}
}

// credential returns the token that a request shows.
func credential(r *http.Request) (secret string, shown bool) {
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") { // RFC 6750, 2.1
		return strings.TrimSpace(rest), true
	}
	_, password, basic := r.BasicAuth()
	return password, basic
}

// MayWrite returns nil if the caller may write everything: services, policies, namespaces.
func (c Caller) MayWrite() error {
	switch {
	case c.scope == ScopeAll:
		return nil
	case c.scope != scopeNone:
		return fmt.Errorf("%w: %s may write instances only", ErrForbidden, c.Name)
	case c.unknown:
		return fmt.Errorf("%w: nobody has the token that was shown", ErrUnauthenticated)
	}
	return fmt.Errorf("%w: this needs a token or a client certificate (access.tokens, api.tls.clientCA of the agent's configuration)", ErrUnauthenticated)
}

// MayInspect returns nil if the caller may see how the node does: whoever has a token or a certificate, and the
// node's own processes.
func (c Caller) MayInspect() error {
	if c.scope != scopeNone || slices.ContainsFunc(c.own(), netip.Addr.IsLoopback) {
		return nil
	}
	if c.unknown {
		return fmt.Errorf("%w: nobody has the token that was shown", ErrUnauthenticated)
	}
	return fmt.Errorf("%w: this is for the node's own processes, and for whoever has a token or a client certificate", ErrUnauthenticated)
}

// MayRegister returns nil if the caller may register instances at these addresses.
func (c Caller) MayRegister(addrs []netip.Addr) error {
	if c.scope != scopeNone {
		return nil
	}
	if len(addrs) == 0 {
		return c.refuse("an instance without an address")
	}
	own := c.own()
	node := slices.ContainsFunc(own, netip.Addr.IsLoopback)
	for _, a := range addrs {
		if plain := a.Unmap(); !slices.Contains(own, plain) && !(node && plain.IsLoopback()) {
			return c.refuse("an instance at " + a.String())
		}
	}
	return nil
}

// MayAlter returns nil if the caller may renew, change and deregister an instance.
func (c Caller) MayAlter(i *registry.Instance) error {
	if err := c.MayRegister(i.Addresses); err != nil {
		return fmt.Errorf("instance %s: %w", i.InstanceID, err)
	}
	return nil
}

// MayCheck returns nil if the caller may have an instance checked as now says, where it was as before says. A command
// is run by the agent of a node, as root: only who may write everything gives one.
func (c Caller) MayCheck(now, before []registry.HealthCheck) error {
	for i := range now {
		known := slices.ContainsFunc(before, func(b registry.HealthCheck) bool { return reflect.DeepEqual(b, now[i]) })
		if now[i].Type != registry.CheckExec || known {
			continue
		}
		if err := c.MayWrite(); err != nil {
			return fmt.Errorf("checks[%d]: a command to run on a node: %w", i, err)
		}
	}
	return nil
}

// refuse says why a caller without a token may not touch what is not its own.
func (c Caller) refuse(what string) error {
	if c.unknown {
		return fmt.Errorf("%w: %s is not %s's own, and nobody has the token that was shown", ErrUnauthenticated, what, c.Name)
	}
	return fmt.Errorf("%w: %s is not %s's own: without a token a container registers its own addresses only", ErrForbidden, what, c.Name)
}
