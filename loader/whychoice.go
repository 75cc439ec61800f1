package loader

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/sluice-net/sluice/registry"
	"golang.org/x/sys/unix"
)

// choice tells how a service's backend is chosen for a source.
func (t *tracer) choice(f *registry.TraceFlow, src *end, svc *service) error {
	c := &registry.TraceChoice{
		Algorithm: registry.Algorithm(algorithmName(svc.Algorithm)), Slots: int(svc.Count),
		AffinityTimeout: svc.AffinityTimeout,
	}
	if err := t.affinities(f, c, src, svc); err != nil {
		return err
	}
	if t.draining != nil {
		for _, id := range t.draining(svc.Id) {
			var b backend
			found, err := t.find(sockMapBackends, id, &b)
			if err != nil {
				return err
			}
			if !found || b.State != backendDraining || b.Service != svc.Id {
				continue // it was a moment ago
			}
			at := netip.AddrPortFrom(fromAddress(b.Addr), b.Port)
			note(&f.Steps, sockMapBackends, id, "%s, draining, of service %d: not chosen", at, b.Service)
			c.Draining = append(c.Draining, at)
		}
	}
	if svc.Count > 0 || len(c.Draining) > 0 {
		f.Choice = c
	}
	return nil
}

// affinities looks up what is remembered of the source, by its address and by its network namespaces.
func (t *tracer) affinities(f *registry.TraceFlow, c *registry.TraceChoice, src *end, svc *service) error {
	if svc.AffinityTimeout == 0 || t.now == nil {
		return nil
	}
	if src.Address.IsValid() {
		key := affinityKey{Client: toAddress(src.Address), Service: svc.Id, Kind: affinityAddress}
		if err := t.affinity(f, c, key, svc, "address", src.Address.String()); err != nil {
			return err
		}
	}
	if t.cookies == nil || !src.local() {
		return nil
	}
	cookies, err := t.cookies(src.endpoint.Id)
	if err != nil {
		return err
	}
	for _, cookie := range cookies {
		key := affinityKey{Client: cookieAddress(cookie), Service: svc.Id, Kind: affinityNetns}
		if err := t.affinity(f, c, key, svc, "namespace", fmt.Sprintf("namespace %d", cookie)); err != nil {
			return err
		}
	}
	return nil
}

// cookieAddress returns the form that a network namespace's cookie has in an affinity_key: its bytes as in
// memory, on the little-endian machines that the objects are built for, and then 0.
func cookieAddress(cookie uint64) (a address) {
	binary.LittleEndian.PutUint64(a.Bytes[:], cookie)
	return a
}

// affinity looks up one entry, and judges it as the programs do.
func (t *tracer) affinity(f *registry.TraceFlow, c *registry.TraceChoice, key affinityKey, svc *service, by, client string) error {
	step := fmt.Sprintf("%s, service %d", client, svc.Id)
	var have affinity
	found, err := t.find(sockMapAffinity, key, &have)
	if err != nil {
		return err
	}
	if !found {
		note(&f.Steps, sockMapAffinity, step, "-")
		return nil
	}
	var b backend
	if found, err = t.find(sockMapBackends, have.Backend, &b); err != nil {
		return err
	}
	a := registry.TraceAffinity{By: by}
	age := time.Duration(t.now() - min(have.Seen, t.now()))
	left := time.Duration(svc.AffinityTimeout)*time.Second - age
	switch {
	case !found || b.Service != svc.Id || b.Epoch != have.Epoch || b.State == backendFree:
		a.Ended = "the backend is gone"
	case b.State != backendActive:
		a.Ended = "the backend is draining"
	case left <= 0:
		a.Ended = "too long ago"
	default:
		a.Seconds = uint32((left + time.Second - 1) / time.Second)
	}
	if found && b.Service == svc.Id && b.Epoch == have.Epoch {
		a.Backend = netip.AddrPortFrom(fromAddress(b.Addr), b.Port)
	}
	text := fmt.Sprintf("backend %d, %d s ago", have.Backend, int(age.Seconds()))
	if a.Ended != "" {
		text += ": " + a.Ended
	}
	note(&f.Steps, sockMapAffinity, step, "%s", text)
	c.Affinity = append(c.Affinity, a)
	return nil
}

// monotonic reads the clock that bpf_ktime_get_ns reads, in ns.
func monotonic() uint64 {
	var now unix.Timespec
	// It cannot fail: the clock is there on every Linux (clock_gettime(2)).
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return uint64(now.Nano())
}

// drainingOf returns the ids of a service's backends that are in no run.
func (l *Loader) drainingOf(service uint32) (ids []uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.syncer.held[l.syncer.byID[service]]
	if h == nil {
		return nil
	}
	for _, m := range h.members {
		if m.weight == 0 {
			ids = append(ids, m.id)
		}
	}
	return ids
}

// cookiesOf returns those of a container's network namespaces, as map namespaces has them.
func (l *Loader) cookiesOf(endpoint uint32) (cookies []uint64, err error) {
	err = l.locked(func() error {
		return eachOf(l.maps.get(sockMapNamespaces), func(cookie uint64, n namespace) error {
			if n.Endpoint == endpoint {
				cookies = append(cookies, cookie)
			}
			return nil
		})
	})
	return cookies, err
}
