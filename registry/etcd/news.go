package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// newsQueue is how many events a reader may be behind before it misses some.
const newsQueue = 1024

var errNewsEnded = errors.New("stream of events was closed")

// news tells its readers what becomes of leases. Nobody waits for a reader.
type news struct {
	mu      sync.Mutex
	readers map[*News]struct{}
}

// News is a stream of the events of leases, as this agent learns of them.
type News struct {
	of     *news
	queue  chan registry.Event
	closed chan struct{}
	once   sync.Once
	missed uint64 // guarded by of.mu
}

// News begins a stream, that the caller closes.
func (s *Store) News() *News {
	n := &News{of: &s.news, queue: make(chan registry.Event, newsQueue), closed: make(chan struct{})}
	s.news.mu.Lock()
	defer s.news.mu.Unlock()
	if s.news.readers == nil {
		s.news.readers = map[*News]struct{}{}
	}
	s.news.readers[n] = struct{}{}
	return n
}

// tell makes an event known to all readers.
func (n *news) tell(reason string, service registry.Name, id *registry.InstanceID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.readers) == 0 {
		return
	}
	e := registry.Event{Time: time.Now().Round(0), Type: registry.EventLease, Reason: reason, Service: &service, Instance: id}
	for r := range n.readers {
		select {
		case r.queue <- e:
		default:
			r.missed++
		}
	}
}

// Next waits for the next event. It tells first that some were missed.
func (n *News) Next(ctx context.Context) (*registry.Event, error) {
	n.of.mu.Lock()
	missed := n.missed
	n.missed = 0
	n.of.mu.Unlock()
	if missed > 0 {
		return &registry.Event{Time: time.Now().Round(0), Type: registry.EventLost, Missed: missed}, nil
	}
	select {
	case e := <-n.queue:
		return &e, nil
	case <-n.closed:
		return nil, errNewsEnded
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close ends the stream.
func (n *News) Close() {
	n.of.mu.Lock()
	delete(n.of.readers, n)
	n.of.mu.Unlock()
	n.once.Do(func() { close(n.closed) })
}
