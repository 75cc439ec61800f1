package etcd

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// TestMayAlter: who is asked decides about the instance that is stored, not about the one that is to be.
func TestMayAlter(t *testing.T) {
	s := openWith(t, Options{})
	at := func(text string) registry.Instance {
		return registry.Instance{
			InstanceID: registry.InstanceID{Namespace: "default", Service: "web", ID: "one"}, Status: registry.InstanceUp,
			Addresses: []netip.Addr{netip.MustParseAddr(text)},
		}
	}
	mine, theirs := at("10.244.1.2"), at("10.244.1.3")
	no := errors.New("not yours")
	ctx := registry.WithMayAlter(t.Context(), func(stored *registry.Instance) error {
		if len(stored.Addresses) != 1 || stored.Addresses[0] != mine.Addresses[0] {
			return no
		}
		return nil
	})
	if _, _, err := s.Register(ctx, mine); err != nil {
		t.Fatalf("what is not there: %v", err)
	}
	if _, _, err := s.Register(ctx, theirs); err != nil {
		t.Fatalf("its own becomes another's: %v", err)
	}
	if _, _, err := s.Register(ctx, mine); !errors.Is(err, no) {
		t.Errorf("another's is replaced: %v", err)
	}
	if _, err := s.Deregister(ctx, mine.InstanceID); !errors.Is(err, no) {
		t.Errorf("another's is removed: %v", err)
	}
	if _, _, err := s.Register(t.Context(), mine); err != nil {
		t.Fatalf("nobody is asked: %v", err)
	}
	if _, err := s.Deregister(ctx, mine.InstanceID); err != nil {
		t.Errorf("its own is not removed: %v", err)
	}
	if _, err := s.Deregister(ctx, mine.InstanceID); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("what is gone is removed: %v", err)
	}
}
