package loader

import (
	"fmt"
	"reflect"
	"runtime"
	"strconv"
	"strings"

	"github.com/sluice-net/sluice/registry"
)

// ServiceStats counts what went through one port of a service, all its VIPs together.
type ServiceStats struct {
	Service     registry.Name
	PortName    string
	Port        uint16
	Protocol    registry.Protocol
	Connections uint64 // flows and sockets that were given a backend
	Refused     uint64 // the same, but there was no backend
	Packets     uint64 // both directions, as seen by tc
	Bytes       uint64 // the same packets' length, link header included
}

// statsChunk is how many services are read with one hold of the lock: a scrape must not keep Sync
// waiting. 64 take 0.1 ms.
const statsChunk = 64

// Stats returns the counts of every service port that the maps hold. The order is none.
func (l *Loader) Stats() ([]ServiceStats, error) {
	type port struct {
		service  registry.Name
		label    string
		protocol registry.Protocol
	}
	sums := map[port]*ServiceStats{}
	var perCPU []serviceStats
	for first := uint32(0); first < l.o.Sizes.Services; first += statsChunk {
		err := l.locked(func() error {
			return l.syncer.statsOf(first, first+statsChunk, func(id uint32, r registry.Resolved) error {
				if err := l.maps.get(sockMapServiceStats).Lookup(id, &perCPU); err != nil {
					return fmt.Errorf("read entry %d of map service_stats: %w", id, err)
				}
				s := ServiceStats{Service: r.Service, PortName: r.PortName, Port: r.Port, Protocol: r.Protocol}
				key := port{s.Service, s.Label(), s.Protocol}
				if sums[key] == nil {
					sums[key] = &s
				}
				sums[key].add(perCPU)
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
		runtime.Gosched() // let go of the lock to whoever waits
	}
	stats := make([]ServiceStats, 0, len(sums))
	for _, sum := range sums {
		stats = append(stats, *sum)
	}
	return stats, nil
}

// add counts one frontend more.
func (s *ServiceStats) add(perCPU []serviceStats) {
	for _, c := range perCPU {
		s.Connections += c.Connections
		s.Refused += c.Refused
		s.Packets += c.Packets
		s.Bytes += c.Bytes
	}
}

// Label names the port: by its name, or its number if it has none.
func (s ServiceStats) Label() string {
	if s.PortName != "" {
		return s.PortName
	}
	return strconv.Itoa(int(s.Port))
}

// locked calls f while the maps cannot be closed.
func (l *Loader) locked(f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	return f()
}

// Counter is one field of struct counters, summed over all CPUs.
type Counter struct {
	Name  string // as in bpf/types.h
	Value uint64
}

// Counters returns what the programs count, in the order of bpf/types.h.
func (l *Loader) Counters() ([]Counter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	var perCPU []counters
	if err := l.maps.get(sockMapCounters).Lookup(uint32(0), &perCPU); err != nil {
		return nil, fmt.Errorf("read map counters: %w", err)
	}
	var list []Counter
	for i, f := range reflect.VisibleFields(reflect.TypeFor[counters]()) {
		if f.Type.Kind() != reflect.Uint64 {
			continue
		}
		c := Counter{Name: snakeCase(f.Name)}
		for _, values := range perCPU {
			c.Value += reflect.ValueOf(values).Field(i).Uint()
		}
		list = append(list, c)
	}
	return list, nil
}

// snakeCase undoes what bpf2go does to the names of fields: DropPortsSpent was drop_ports_spent.
func snakeCase(name string) string {
	var b strings.Builder
	for i, r := range name {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
