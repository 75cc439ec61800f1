package etcd

import (
	"context"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// TestInstancesFollowedOn: when the watch of instances broke off it goes on where it was, and all are read again only
// where that cannot be.
func TestInstancesFollowedOn(t *testing.T) {
	s := open(t, defaultCIDRs...)
	register(t, s, instance("web", 1))
	known(t, s)
	o := &Store{log: s.log, client: s.client, instances: newInstanceIndex()} // another that follows the same
	var at followed
	follows := func(what string, id registry.InstanceID) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			for {
				_, err := o.followInstancesOnce(ctx, &at)
				if ctx.Err() != nil {
					ended <- err
					return
				}
			}
		}()
		until(t, what, func() bool { _, ok := o.instances.get(id); return ok })
		cancel()
		<-ended
	}
	first := func() *knownInstance {
		return o.instances.services[registry.Name{Namespace: "default", Name: "web"}].instances[instance("web", 1).ID]
	}
	follows("the first is known", instance("web", 1).InstanceID)
	was := first()

	register(t, s, instance("web", 2))
	follows("the second is known", instance("web", 2).InstanceID)
	if first() != was {
		t.Error("all instances were read again, though nothing had been lost")
	}

	register(t, s, instance("web", 3))
	_, rev := register(t, s, instance("web", 5))
	if err := s.compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	follows("the third is known", instance("web", 3).InstanceID)
	if first() == was {
		t.Error("a compacted revision was followed on from")
	}
	at.cluster++
	was = first()
	register(t, s, instance("web", 4))
	follows("the fourth is known", instance("web", 4).InstanceID)
	if first() == was {
		t.Error("another store was followed on from the revision of this one")
	}
}
