package etcd

import (
	"errors"
	"reflect"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// TestMarks: what was marked holds until it is unmarked, also when the container is registered again, and a
// container that takes its place starts anew.
func TestMarks(t *testing.T) {
	s := open(t)
	e := endpoint(1)
	yes, no := true, false
	if _, _, err := s.MarkEndpoint(t.Context(), e.EndpointID, registry.Marks{Unready: &yes}); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("marking what is not there: %v", err)
	}
	put := func() error {
		_, err := s.PutEndpoint(t.Context(), e)
		return err
	}
	mark := func(m registry.Marks) func() error {
		return func() error {
			now, rev, err := s.MarkEndpoint(t.Context(), e.EndpointID, m)
			stored, listErr := s.Endpoints(t.Context(), "n1")
			if err == nil && (rev == 0 || listErr != nil || !reflect.DeepEqual(now, stored[0])) {
				t.Errorf("marked %+v at %d, stored %+v, %v", now, rev, stored, listErr)
			}
			return err
		}
	}
	for i, step := range []struct {
		do                   func() error
		unready, terminating bool
	}{
		{put, false, false},
		{mark(registry.Marks{Terminating: &yes}), false, true},
		{put, false, true},
		{mark(registry.Marks{Unready: &yes}), true, true},
		{mark(registry.Marks{Terminating: &no}), true, false},
		{mark(registry.Marks{Unready: &no}), false, false},
		{func() error { e.Unready = true; return put() }, true, false},
		{mark(registry.Marks{Unready: &no}), true, false}, // what the container says of itself stays
		{func() error { e.Unready = false; return put() }, false, false},
		{mark(registry.Marks{Unready: &yes, Terminating: &yes}), true, true},
		{func() error {
			if _, err := s.DeleteEndpoint(t.Context(), e.EndpointID); err != nil {
				return err
			}
			return put()
		}, false, false},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		b := receive(t, s.Watch(t.Context()))
		if got := b.Changes[0].Endpoint; got.Unready != step.unready || got.Terminating != step.terminating {
			t.Errorf("step %d: unready %t, terminating %t; want %t, %t", i, got.Unready, got.Terminating, step.unready, step.terminating)
		}
	}
}
