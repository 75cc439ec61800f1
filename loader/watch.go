package loader

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/sluice-net/sluice/registry"
)

// watches keeps the verdicts on new flows of containers reported while someone wants them.
type watches struct {
	set func(id registry.EndpointID, on bool) error

	mu    sync.Mutex // guards what follows, and is held while set is called
	count map[registry.EndpointID]int
}

// begin watches containers. On error none is watched that was not before.
func (w *watches) begin(ids []registry.EndpointID) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var begun []registry.EndpointID
	defer func() {
		if err != nil {
			err = errors.Join(err, w.less(begun))
		}
	}()
	for _, id := range ids {
		if w.count[id] == 0 {
			if err := w.set(id, true); err != nil {
				return fmt.Errorf("watch %s: %w", id, err)
			}
		}
		w.count[id]++
		begun = append(begun, id)
	}
	return nil
}

// end undoes begin. A container that is gone is no error.
func (w *watches) end(ids []registry.EndpointID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.less(ids)
}

// less is end for a caller that holds the lock.
func (w *watches) less(ids []registry.EndpointID) error {
	var errs []error
	for _, id := range ids {
		if w.count[id]--; w.count[id] > 0 {
			continue
		}
		delete(w.count, id)
		if err := w.set(id, false); err != nil && !errors.Is(err, registry.ErrNotFound) {
			errs = append(errs, fmt.Errorf("end watch of %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// report begins to read events.
func (l *Loader) report() error {
	l.watches = watches{set: l.watch, count: map[registry.EndpointID]int{}}
	names := eventNames{naming: l, reasons: reasonNames(), wire: l.wire}
	l.events = newEventHub(names.describe, l.eventsLost, l.o.Logger)
	reader, err := ringbuf.NewReader(l.maps.get(sockMapEvents))
	if err != nil {
		return fmt.Errorf("read map events: %w", err)
	}
	l.events.start(reader)
	return nil
}

// wire returns the name of the interface with an index, and its endpoint.
func (l *Loader) wire(ifindex int) (string, registry.Endpoint, bool) {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	for name, w := range l.endpoints.byName {
		if w.Index == ifindex {
			owner, _ := l.isolation.engine.Owner(w.Addrs[0])
			return name, owner, true
		}
	}
	return "", registry.Endpoint{}, false
}

// watch makes the programs report a container's verdicts, or no longer.
func (l *Loader) watch(id registry.EndpointID, on bool) error {
	l.wireMu.Lock()
	ids := slices.Collect(maps.Keys(l.endpoints.byID))
	l.wireMu.Unlock()
	for _, n := range ids {
		if e, known := l.EndpointOf(n); known && e.EndpointID == id {
			return l.SetWatched(n, on)
		}
	}
	return fmt.Errorf("container %s: %w on this node", id, registry.ErrNotFound)
}

// eventsLost returns how many events the kernel did not report, ever.
func (l *Loader) eventsLost() (uint64, error) {
	list, err := l.Counters()
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(list, func(c Counter) bool { return c.Name == "events_lost" })
	if i < 0 {
		return 0, errors.New("there is no counter events_lost")
	}
	return list[i].Value, nil
}

// Events begins a stream of events. While it lives, the verdict on each new flow of the watched containers,
// which must be this node's, is reported; a container that has several names them all. The error wraps
// ErrStreams when there are too many streams, and registry.ErrNotFound when there is no such container.
func (l *Loader) Events(filter registry.EventFilter, watch ...registry.EndpointID) (*EventStream, error) {
	s, err := l.events.subscribe(filter)
	if err != nil {
		return nil, fmt.Errorf("begin stream of events: %w", err)
	}
	if err := l.watches.begin(watch); err != nil {
		s.Close()
		return nil, fmt.Errorf("begin stream of events: %w", err)
	}
	s.release = func() {
		if err := l.watches.end(watch); err != nil && !errors.Is(err, errClosed) {
			l.o.Logger.Warn("end stream of events", "error", err)
		}
	}
	return s, nil
}
