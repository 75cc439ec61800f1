package access

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-net/sluice/registry"
)

// The bounds of a Room, unless told otherwise.
const (
	defaultRoomInstances = 1000
	defaultRoomServices  = 100
	// roomEvery is how soon a further service may be made. Services stay when their instances go.
	roomEvery = 10 * time.Minute
)

// Room bounds what one container, or all of the node's processes together, may register without a token: under ever
// new names it could else take all of the registry, and all addresses of services. The node may register 16 times as much.
type Room struct {
	Instances int // at one address; 0: 1000
	Services  int // that are made for its instances at once, and then one each ten minutes; 0: 100
	// Registered returns how many instances there are at an address; all loopback addresses are one. nil: none.
	Registered func(netip.Addr) int
	// Exists tells whether there is a service. nil: all of them are there.
	Exists func(registry.Name) bool

	mu    sync.Mutex
	makes map[netip.Addr]*rate.Limiter // by one address of the owner
}

// MayAdd returns nil if there is room for an instance that is not registered yet and that MayRegister allows, or an
// error that wraps registry.ErrFull.
func (c Caller) MayAdd(i *registry.Instance) error {
	if c.scope != scopeNone || c.room == nil {
		return nil
	}
	return c.room.add(c.own(), i)
}

func (r *Room) add(own []netip.Addr, i *registry.Instance) error {
	if len(own) == 0 {
		return nil // nobody whom MayRegister lets register
	}
	owner, share := slices.MinFunc(own, netip.Addr.Compare), 1
	if slices.ContainsFunc(own, netip.Addr.IsLoopback) {
		owner, share = netip.IPv6Loopback(), nodeShare
	}
	if r.Registered != nil {
		most := orDefault(r.Instances, defaultRoomInstances) * share
		for _, a := range i.Addresses {
			if r.Registered(a.Unmap()) >= most {
				return fmt.Errorf("%w: register %s: %s has %d instances, and gets no more without a token: deregister some",
					registry.ErrFull, i.InstanceID, a, most)
			}
		}
	}
	if r.Exists == nil || r.Exists(i.ServiceName()) || r.maker(owner, share).Allow() {
		return nil
	}
	return fmt.Errorf("%w: register %s: there is no service %s, and too many were made for %s lately: wait %s, show a token, or write the service first",
		registry.ErrFull, i.InstanceID, i.ServiceName(), owner, roomEvery/time.Duration(share))
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// maker returns what bounds the services that are made for an owner. Whoever has not made any for long is forgotten.
func (r *Room) maker(owner netip.Addr, share int) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.makes[owner]; l != nil {
		return l
	}
	if r.makes == nil {
		r.makes = map[netip.Addr]*rate.Limiter{}
	}
	if len(r.makes) >= maxClients {
		for a, l := range r.makes {
			if l.Tokens() >= float64(l.Burst()) {
				delete(r.makes, a)
			}
		}
	}
	l := rate.NewLimiter(rate.Every(roomEvery/time.Duration(share)), orDefault(r.Services, defaultRoomServices)*share)
	r.makes[owner] = l
	return l
}
