package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/sluice-net/sluice/registry"
)

const (
	// maxEventStreams bounds what streams of events hold: each up to eventQueue events.
	maxEventStreams = 64
	eventQueue      = 1024
	// lossInterval is how often streams are told of events that the kernel did not report.
	lossInterval = time.Second
)

// ErrStreams is returned by Events when there are as many streams as there may be.
var ErrStreams = errors.New("too many streams of events")

// eventHub reads the map events, and hands what it reads to those who want it. It reads also when nobody
// does: what nobody wants must not look like a loss later.
type eventHub struct {
	describe func(*podEvent) *registry.Event // gives names to numbers
	lost     func() (uint64, error)          // reads how many events the kernel did not report, ever
	log      *slog.Logger
	strange  sync.Once // a record that is no event was logged

	reader   recordReader
	listened atomic.Bool   // there are streams
	done     chan struct{} // closed when reading has ended

	mu      sync.Mutex // guards what follows
	streams map[*EventStream]struct{}
	told    uint64 // of what lost returns
	closed  bool
}

func newEventHub(describe func(*podEvent) *registry.Event, lost func() (uint64, error), log *slog.Logger) *eventHub {
	return &eventHub{
		describe: describe, lost: lost, log: log,
		done: make(chan struct{}), streams: map[*EventStream]struct{}{},
	}
}

// recordReader is a *ringbuf.Reader.
type recordReader interface {
	ReadInto(*ringbuf.Record) error
	SetDeadline(time.Time)
	Flush() error
	Close() error
}

// start begins to read. The hub owns the reader.
func (h *eventHub) start(reader recordReader) {
	h.reader = reader
	go func() {
		defer close(h.done)
		err := h.read()
		h.end()
		if err != nil {
			h.log.Error("no more events are reported", "error", fmt.Errorf("read map events: %w", err))
		}
	}()
}

// close ends reading and all streams. The caller holds no lock that describe or lost takes.
func (h *eventHub) close() {
	if h == nil || h.reader == nil {
		return
	}
	// It fails only when called twice, which is fine.
	_ = h.reader.Close()
	<-h.done
}

func (h *eventHub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for s := range h.streams {
		close(s.over)
	}
	clear(h.streams)
	h.listened.Store(false)
}

// read reads until the reader is closed.
func (h *eventHub) read() error {
	var record ringbuf.Record
	var asked time.Time // when the losses were asked for
	for {
		err := h.reader.ReadInto(&record)
		listened := h.listened.Load()
		switch {
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		case errors.Is(err, ringbuf.ErrFlushed), errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return err
		case listened:
			h.publish(record.RawSample)
		}
		if !listened {
			h.reader.SetDeadline(time.Time{})
			continue
		}
		if now := time.Now(); now.Sub(asked) >= lossInterval {
			asked = now
			h.mu.Lock()
			h.tellLost()
			h.mu.Unlock()
		}
		h.reader.SetDeadline(asked.Add(lossInterval))
	}
}

// publish hands a record to the streams that want it. What is no event is passed over.
func (h *eventHub) publish(record []byte) {
	raw, err := parseEvent(record)
	if err != nil {
		h.strange.Do(func() { h.log.Warn("read map events", "error", err) })
		return
	}
	e := h.describe(&raw)
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.streams {
		if !s.filter.Matches(e) {
			continue
		}
		select {
		case s.queue <- e:
		default:
			s.miss(0, 1)
		}
	}
}

// tellLost tells the streams of what the kernel has not reported since it was asked last. The caller
// holds the lock.
func (h *eventHub) tellLost() {
	lost, err := h.lost()
	if err != nil {
		h.log.Warn("read how many events were lost", "error", err)
		return
	}
	if n := lost - h.told; n > 0 {
		for s := range h.streams {
			s.miss(n, 0)
		}
	}
	h.told = lost
}

// subscribe makes a stream.
func (h *eventHub) subscribe(filter registry.EventFilter) (*EventStream, error) {
	s := &EventStream{
		hub: h, filter: filter,
		queue: make(chan *registry.Event, eventQueue), missed: make(chan struct{}, 1), over: make(chan struct{}),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errClosed
	}
	if len(h.streams) >= maxEventStreams {
		return nil, fmt.Errorf("%w: there are %d", ErrStreams, maxEventStreams)
	}
	h.tellLost() // before the stream is there: it was not for it
	h.streams[s] = struct{}{}
	h.listened.Store(true)
	if err := h.reader.Flush(); err != nil {
		h.drop(s)
		return nil, fmt.Errorf("wake reader of map events: %w", err)
	}
	return s, nil
}

// drop forgets a stream. The caller holds the lock.
func (h *eventHub) drop(s *EventStream) {
	delete(h.streams, s)
	h.listened.Store(len(h.streams) > 0)
}

// EventStream is the events that one reader wants, from its beginning on. It holds a bounded number
// of them: a reader that is too slow misses some, is told how many, and holds up nobody.
type EventStream struct {
	hub     *eventHub
	filter  registry.EventFilter
	queue   chan *registry.Event
	missed  chan struct{} // something was lost
	over    chan struct{} // closed when no more events come
	release func()        // ends what Events began, besides

	mu    sync.Mutex // guards what follows
	loss  registry.Event
	ended bool
}

// miss notes that events were not reported by the kernel, or found no room in the queue.
func (s *EventStream) miss(lost, missed uint64) {
	s.mu.Lock()
	s.loss.Lost += lost
	s.loss.Missed += missed
	s.mu.Unlock()
	select {
	case s.missed <- struct{}{}:
	default:
	}
}

// Next waits for the next event. News of what was lost comes as an event of type EventLost, at the
// latest some seconds after. The error is io.EOF when no more events come, or ctx's.
func (s *EventStream) Next(ctx context.Context) (*registry.Event, error) {
	for {
		if e := s.losses(); e != nil {
			return e, nil
		}
		select {
		case e := <-s.queue:
			return e, nil
		case <-s.missed:
		case <-s.over:
			return nil, io.EOF
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// losses returns what was lost since the last time, or nil.
func (s *EventStream) losses() *registry.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.loss
	if e.Lost == 0 && e.Missed == 0 {
		return nil
	}
	e.Type, e.Time = registry.EventLost, time.Now()
	s.loss = registry.Event{}
	return &e
}

// Close ends the stream. It may be called twice.
func (s *EventStream) Close() {
	s.mu.Lock()
	ended := s.ended
	s.ended = true
	s.mu.Unlock()
	if ended {
		return
	}
	s.hub.mu.Lock()
	s.hub.drop(s)
	s.hub.mu.Unlock()
	if s.release != nil {
		s.release()
	}
}
