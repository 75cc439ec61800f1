package eureka

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// maxRecent bounds what a delta holds. A client that misses a change sees it by the hash, and reads everything.
const maxRecent = 50_000

// maxNames bounds how many names of a VIP field an instance is found by: 32 KiB hold thousands, and each costs more than
// its letters. The field is shown as it was given.
const maxNames = 64

// list brings what is told of up to date after a batch.
func (v *view) list(t *touched) {
	for id, before := range t.instances {
		g, e := v.group(id.Service), v.real[id]
		stands, gone := len(g.stands) > 0, before != nil && (e == nil || e.key != before.key)
		if gone && !stands {
			v.hide(before.key)
		}
		if stands || g.vip().IsValid() {
			t.services[id.Service] = true
			continue
		}
		if e != nil {
			v.show(e)
		}
		v.tidy(id.Service)
	}
	for _, name := range slices.Sorted(maps.Keys(t.services)) {
		if g := v.group(name); len(g.stands) > 0 || g.vip().IsValid() {
			v.listGroup(name)
		}
		v.tidy(name)
	}
}

// tidy forgets a service that nothing is known of.
func (v *view) tidy(name string) {
	if g := v.groups[name]; g != nil && g.service == nil && len(g.members) == 0 && len(g.stands) == 0 {
		delete(v.groups, name)
	}
}

// listGroup tells of a service's instances, or of its VIP in their place.
func (v *view) listGroup(name string) {
	g := v.group(name)
	vip := g.vip()
	if !vip.IsValid() {
		for _, k := range g.stands {
			v.hide(k)
		}
		g.stands = nil
		for _, e := range g.members {
			v.show(e)
		}
		return
	}
	stands := g.standsFor(vip, milli(v.now()), v.listed.get)
	if len(g.stands) == 0 {
		for _, e := range g.members {
			v.hide(e.key)
		}
	}
	for _, k := range g.stands {
		if !slices.ContainsFunc(stands, func(e *entry) bool { return e.key == k }) {
			v.hide(k)
		}
	}
	g.stands = nil
	for _, e := range stands {
		v.show(e)
		g.stands = append(g.stands, e.key)
	}
}

// listAll tells of all there is, and no more of what was told of before.
func (v *view) listAll() {
	all := map[key]*entry{}
	for _, g := range v.groups {
		if vip := g.vip(); vip.IsValid() {
			g.stands = nil
			for _, e := range g.standsFor(vip, milli(v.now()), v.listed.get) {
				all[e.key] = e
				g.stands = append(g.stands, e.key)
			}
			continue
		}
		for _, e := range g.members {
			all[e.key] = e
		}
	}
	var gone []key
	for _, p := range v.listed.pages {
		for _, e := range p.entries {
			if all[e.key] == nil {
				gone = append(gone, e.key)
			}
		}
	}
	for _, k := range gone {
		v.hide(k)
	}
	for _, k := range slices.SortedFunc(maps.Keys(all), key.compare) {
		v.show(all[k])
	}
}

// vip is the address that readers get instead of the instances; invalid: they get the instances.
func (g *group) vip() netip.Addr {
	if g.service == nil || g.service.Eureka != registry.EurekaVIP || len(g.service.VIPs) == 0 {
		return netip.Addr{}
	}
	return g.service.VIPs[0]
}

// standsFor returns an entry for each application of the service's instances, that has the service's address and
// ports. It is up if one of the instances is. told returns what is told of already.
func (g *group) standsFor(vip netip.Addr, now int64, told func(key) *entry) []*entry {
	apps := map[string]*entry{} // the instance whose names it has
	for _, e := range g.members {
		old := apps[e.app]
		if old == nil || cmp.Or(cmp.Compare(rank(old), rank(e)), old.compare(e.key)) > 0 {
			apps[e.app] = e
		}
	}
	var list []*entry
	for _, name := range slices.Sorted(maps.Keys(apps)) {
		like := apps[name].wire
		w := &wire.Instance{
			InstanceID: fmt.Sprintf("%s:%s", vip, g.service.Name.Name), HostName: vip.String(), App: name, IPAddr: vip.String(),
			Status: like.Status, Overridden: wire.Unknown, CountryID: 1, DataCenter: &wire.DataCenter{Name: wire.MyOwn},
			Port: wire.Port{Number: wire.DefaultPort}, SecurePort: wire.Port{Number: wire.DefaultSecurePort},
			Lease: wire.Lease{Renewal: wire.DefaultRenewal, Duration: wire.DefaultDuration, Registered: now, Renewed: now, Up: now},
			VIP:   like.VIP, SecureVIP: like.SecureVIP, LastUpdated: now, LastDirty: now, Action: wire.Added,
		}
		g.setPorts(w)
		list = append(list, standing(w, told(key{w.App, w.InstanceID})))
	}
	return list
}

// rank orders instances so that one that is up comes first.
func rank(e *entry) int {
	if e.wire.Status == wire.Up {
		return 0
	}
	return 1
}

func (g *group) setPorts(w *wire.Instance) {
	ports := make([]registry.EndpointPort, len(g.service.Ports))
	for i, p := range g.service.Ports {
		ports[i] = registry.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: p.Port}
	}
	setPorts(w, ports)
}

// standing makes an entry that stands for a VIP, or returns the one that tells the same already.
func standing(w *wire.Instance, old *entry) *entry {
	if old != nil {
		was := *old.wire
		was.Action, was.Lease, was.LastUpdated, was.LastDirty = w.Action, w.Lease, w.LastUpdated, w.LastDirty
		if sameStanding(&was, w) {
			return old
		}
		w.Lease.Registered, w.Lease.Up, w.Action = old.wire.Lease.Registered, old.wire.Lease.Up, wire.Modified
	}
	return &entry{key: key{w.App, w.InstanceID}, wire: w, stored: w.Status, renewed: new(atomic.Int64)}
}

func sameStanding(a, b *wire.Instance) bool {
	return a.Status == b.Status && a.Port == b.Port && a.SecurePort == b.SecurePort && a.VIP == b.VIP && a.SecureVIP == b.SecureVIP
}

// show tells of an entry.
func (v *view) show(e *entry) {
	old := v.listed.get(e.key)
	if old != nil && old.wire == e.wire {
		return
	}
	v.listed.put(e)
	if old != nil {
		v.count(old, -1)
	}
	v.count(e, 1)
	v.note(e)
}

// hide tells no more of the entry of a key.
func (v *view) hide(k key) {
	if old := v.listed.remove(k); old != nil {
		v.count(old, -1)
		v.note(old.gone(v.now()))
	}
}

// count adds an entry to the counts by status and by VIP name, or takes it away.
func (v *view) count(e *entry, by int) {
	v.counts[e.wire.Status] += by
	for n, names := range []string{e.wire.VIP, e.wire.SecureVIP} {
		found := 0
		for name := range strings.SplitSeq(names, ",") {
			if name == "" {
				continue
			}
			if found++; found > maxNames {
				break
			}
			keys := v.vips[n][name]
			switch {
			case by > 0 && keys == nil:
				v.vips[n][name] = map[key]bool{e.key: true}
			case by > 0:
				keys[e.key] = true
			default:
				delete(keys, e.key)
				if len(keys) == 0 {
					delete(v.vips[n], name)
				}
			}
		}
	}
}

// note puts a change into the delta. What there was at the start is none.
func (v *view) note(e *entry) {
	v.version++
	v.shot = nil
	if v.synced {
		v.recent.add(e, v.now())
	}
}

// purge takes out of the delta what is too old for it.
func (v *view) purge() {
	if v.recent.purge(v.now().Add(-v.retention)) {
		v.version++
		v.shot = nil
	}
}

// recent holds what changed lately, an entry for each instance: as it is now, or as it was deleted.
type recent struct {
	book  book
	since map[key]time.Time // of its last change
	queue []change          // in order of time; those that since does not confirm are overtaken
}

type change struct {
	key
	at time.Time
}

func newRecent() recent { return recent{since: map[key]time.Time{}} }

func (r *recent) add(e *entry, now time.Time) {
	r.book.put(e)
	r.since[e.key] = now
	r.queue = append(r.queue, change{e.key, now})
}

// purge drops what has not changed since a time, and the oldest of what is too much. It reports whether there was any.
func (r *recent) purge(since time.Time) (any bool) {
	n := 0
	for n < len(r.queue) && (!r.queue[n].at.After(since) || len(r.queue)-n > maxRecent) {
		c := r.queue[n]
		if n++; r.since[c.key].Equal(c.at) {
			delete(r.since, c.key)
			r.book.remove(c.key)
			any = true
		}
	}
	if r.queue = r.queue[n:]; n > 0 && len(r.queue) == 0 {
		r.queue = nil
	}
	return any
}
