package main

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/sluice-net/sluice/registry"
	apiserver "github.com/sluice-net/sluice/registry/api/server"
)

var errStreamEnd = errors.New("end")

// fakeStream tells what it holds, and then waits, or with ends returns an error.
type fakeStream struct {
	events []*registry.Event
	ends   bool
	closed bool
}

func (f *fakeStream) Next(ctx context.Context) (*registry.Event, error) {
	if len(f.events) > 0 {
		e := f.events[0]
		f.events = f.events[1:]
		return e, nil
	}
	if f.ends {
		return nil, errStreamEnd
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (f *fakeStream) Close() { f.closed = true }

func TestWithLeases(t *testing.T) {
	lease := func(namespace string) *registry.Event {
		return &registry.Event{Type: registry.EventLease, Reason: namespace, Service: &registry.Name{Namespace: namespace, Name: "x"}}
	}
	drop := &registry.Event{Type: registry.EventDrop, Reason: "d", Container: &registry.Name{Namespace: "a", Name: "c"}}
	kernel := &fakeStream{events: []*registry.Event{drop}}
	leases := &fakeStream{events: []*registry.Event{lease("a"), lease("b"), lease("a")}}
	s := withLeases(kernel, func() apiserver.EventStream { return leases }, registry.EventFilter{Namespace: "a"})
	var got []string
	for range 3 {
		e, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Reason)
	}
	if slices.Sort(got); !slices.Equal(got, []string{"a", "a", "d"}) {
		t.Errorf("told %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller left: %v", err)
	}
	if s.Close(); !kernel.closed || !leases.closed {
		t.Error("a part is not closed")
	}
	// The end of a part is that of the whole.
	s = withLeases(&fakeStream{ends: true}, func() apiserver.EventStream { return &fakeStream{} }, registry.EventFilter{})
	defer s.Close()
	if _, err := s.Next(t.Context()); !errors.Is(err, errStreamEnd) {
		t.Errorf("after the end: %v", err)
	}
	// Who wants no leases has the stream as it is.
	if s := withLeases(kernel, nil, registry.EventFilter{Types: []registry.EventType{registry.EventDrop}}); s != apiserver.EventStream(kernel) {
		t.Errorf("got %v", s)
	}
}
