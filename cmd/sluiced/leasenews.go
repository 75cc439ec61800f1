package main

import (
	"context"
	"slices"

	"github.com/sluice-net/sluice/registry"
	apiserver "github.com/sluice-net/sluice/registry/api/server"
)

// withLeases puts the events of leases among those of a stream, if the filter may choose any.
func withLeases(s apiserver.EventStream, leases func() apiserver.EventStream, filter registry.EventFilter) apiserver.EventStream {
	if len(filter.Types) > 0 && !slices.Contains(filter.Types, registry.EventLease) {
		return s
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &mergedStream{parts: []apiserver.EventStream{s, leases()}, filter: filter, next: make(chan streamed), ctx: ctx, cancel: cancel}
	for _, part := range m.parts {
		go m.pump(part)
	}
	return m
}

// mergedStream is several streams as one.
type mergedStream struct {
	parts  []apiserver.EventStream
	filter registry.EventFilter
	next   chan streamed
	ctx    context.Context // of the stream's life
	cancel context.CancelFunc
}

type streamed struct {
	event *registry.Event
	err   error
}

// pump takes from one part whatever the reader wants next.
func (m *mergedStream) pump(part apiserver.EventStream) {
	for {
		e, err := part.Next(m.ctx)
		if err == nil && e != nil && !m.filter.Matches(e) {
			continue
		}
		select {
		case m.next <- streamed{e, err}:
		case <-m.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// Next implements the API's EventStream.
func (m *mergedStream) Next(ctx context.Context) (*registry.Event, error) {
	select {
	case s := <-m.next:
		return s.event, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close implements the API's EventStream.
func (m *mergedStream) Close() {
	m.cancel()
	for _, part := range m.parts {
		part.Close()
	}
}
