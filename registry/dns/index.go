package dns

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/sluice-net/sluice/registry"
)

// index is what names are answered from: the registry's services, by name and by address, and what stands behind
// them. One goroutine applies batches, in work proportional to what they change and to the services they touch; any
// number read meanwhile.
type index struct {
	mu sync.RWMutex

	revision   int64
	services   map[registry.Name]*service
	namespaces map[string]int // services in it, and one more for its object
	vips       addrIndex[*service]
	sources    addrIndex[entry]

	endpoints map[registry.EndpointID]*source
	slices    map[registry.Name]*source
	sliced    map[registry.Name][]*source // by service
	instances map[registry.InstanceID]*instance
	enrolled  map[registry.Name]map[*instance]struct{} // by service
	labels    labelIndex
	touched   []*service
}

// service is one with the names below its own.
type service struct {
	*registry.Service
	members []member // that are published, by host and address
	added   []member // since the last settle
	touched bool
}

// member is an address under a service's name. There are as many as backends: its name there is made when it is asked for.
type member struct {
	addr netip.Addr
	entry
}

// entry is one that stands behind services: a source, or of a slice the one at a place.
type entry struct {
	source *source
	at     int32
}

// compare puts those without a host first, so that they are in the order of addresses.
func (m member) compare(o member) int {
	return cmp.Or(cmp.Compare(m.host(), o.host()), m.addr.Compare(o.addr))
}

// source is what names may lead to besides VIPs: a container, a slice or an instance. A new version of its object
// makes a new one.
type source struct {
	endpoint *registry.Endpoint // one of endpoint, slice and instance is set
	slice    *registry.Slice
	instance *registry.Instance
	host     string     // the instance's label
	services []*service // where it is published
	failing  bool       // the instance's checks fail
	known    bool       // by its addresses
	gone     bool
}

// instance is what is known of a registered instance. Itself and its health come and go one by one.
type instance struct {
	object  *registry.Instance // nil: only its health is known
	failing bool
	source  *source // nil: there is none
}

func newIndex() *index {
	return &index{
		services: map[registry.Name]*service{}, namespaces: map[string]int{defaultNamespace: 1},
		vips: newAddrIndex[*service](), sources: newAddrIndex[entry](),
		endpoints: map[registry.EndpointID]*source{}, slices: map[registry.Name]*source{},
		sliced: map[registry.Name][]*source{}, instances: map[registry.InstanceID]*instance{},
		enrolled: map[registry.Name]map[*instance]struct{}{}, labels: labelIndex{},
	}
}

// apply brings the index to the batch's revision. A snapshot is for an index that is empty.
func (x *index) apply(b registry.Batch) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range b.Changes {
		x.change(&b.Changes[i])
	}
	x.revision = b.Revision
	for _, s := range x.touched {
		s.settle()
	}
	clear(x.touched)
	x.touched = x.touched[:0]
}

func (x *index) change(ch *registry.Change) {
	switch {
	case ch.Service != nil:
		x.applyService(ch.Service, ch.Deleted)
	case ch.Endpoint != nil:
		x.applyEndpoint(ch.Endpoint, ch.Deleted)
	case ch.Slice != nil:
		x.applySlice(ch.Slice, ch.Deleted)
	case ch.Instance != nil:
		x.applyInstance(ch.Instance, ch.Deleted)
	case ch.Health != nil:
		x.applyHealth(ch.Health.InstanceID, !ch.Deleted)
	case ch.Namespace != nil:
		x.applyNamespace(ch.Namespace.Name, ch.Deleted)
	}
}

func (x *index) applyService(s *registry.Service, deleted bool) {
	if old := x.services[s.Name]; old != nil {
		x.dropService(old)
	}
	if deleted {
		return
	}
	svc := &service{Service: s}
	x.services[s.Name] = svc
	x.namespaces[s.Namespace]++
	x.labels.addService(svc)
	for _, a := range s.VIPs {
		x.vips.add(a.Unmap(), svc)
	}
	for _, src := range x.labels.candidates(s) {
		if s.Selects(src.endpoint) {
			x.join(svc, src)
		}
	}
	for _, src := range x.sliced[s.Name] {
		x.join(svc, src)
	}
	for i := range x.enrolled[s.Name] {
		x.join(svc, i.source)
	}
}

func (x *index) dropService(s *service) {
	s.settle() // a batch may write one twice
	var last *source
	for _, m := range s.members {
		if m.source != last {
			last = m.source
			m.source.services = slices.DeleteFunc(m.source.services, func(o *service) bool { return o == s })
		}
	}
	x.labels.removeService(s)
	for _, a := range s.VIPs {
		x.vips.remove(a.Unmap(), s)
	}
	if x.namespaces[s.Namespace]--; x.namespaces[s.Namespace] == 0 {
		delete(x.namespaces, s.Namespace)
	}
	delete(x.services, s.Name)
}

// applyNamespace counts a namespace's object once, however often it is written.
func (x *index) applyNamespace(name string, deleted bool) {
	key := "\x00" + name // no query has such a name
	if _, there := x.namespaces[key]; there != deleted {
		return
	}
	if !deleted {
		x.namespaces[key] = 1
		x.namespaces[name]++
		return
	}
	delete(x.namespaces, key)
	if x.namespaces[name]--; x.namespaces[name] == 0 {
		delete(x.namespaces, name)
	}
}

// add makes a source known by its addresses, and publishes it in the services that it stands behind.
func (x *index) add(src *source, in []*service) {
	for _, s := range in {
		x.join(s, src)
	}
}

// join publishes under a service what of a source is ready, or all of it if the service says that this does not matter.
func (x *index) join(s *service, src *source) {
	if s.Type == registry.TypeExternalName {
		return // nothing is below its name
	}
	before := len(s.added)
	for m := range src.members(s.PublishNotReady) {
		if !src.known {
			x.sources.add(m.addr, m.entry)
		}
		s.added = append(s.added, m)
	}
	if len(s.added) == before {
		return
	}
	src.known = true
	src.services = append(src.services, s)
	x.touch(s)
}

// remove is for a source whose object is gone or has a new version.
func (x *index) remove(src *source) {
	src.gone = true
	if src.known {
		for m := range src.members(true) {
			x.sources.remove(m.addr, m.entry)
		}
	}
	for _, s := range src.services {
		x.touch(s)
	}
	src.services = nil
}

func (x *index) touch(s *service) {
	if !s.touched {
		s.touched = true
		x.touched = append(x.touched, s)
	}
}

// settle brings the members up to date in one pass.
func (s *service) settle() {
	s.touched = false
	gone := func(m member) bool { return m.source.gone }
	added := slices.DeleteFunc(s.added, gone)
	slices.SortFunc(added, member.compare)
	s.members = slices.DeleteFunc(s.members, gone)
	i, w := len(s.members)-1, len(s.members)+len(added)-1
	s.members = slices.Grow(s.members, len(added))[:w+1]
	for len(added) > 0 { // from the end, so that nothing is in the way
		last := added[len(added)-1]
		if i >= 0 && s.members[i].compare(last) > 0 {
			s.members[w] = s.members[i]
			i--
		} else {
			s.members[w] = last
			added = added[:len(added)-1]
		}
		w--
	}
	s.added = nil
}

// headless says whether the service's name leads to what stands behind it.
func (s *service) headless() bool { return len(s.VIPs) == 0 && s.Type != registry.TypeExternalName }

// named returns the members of one name: those that have it as their host, and that of the address which it spells.
func (s *service) named(label string) []member {
	hosts := s.between(func(m member) int { return cmp.Compare(m.host(), label) })
	addr, ok := undashed(label)
	if !ok {
		return hosts
	}
	addrs := s.between(func(m member) int { return cmp.Or(cmp.Compare(m.host(), ""), m.addr.Compare(addr)) })
	if len(hosts) == 0 {
		return addrs
	}
	return slices.Concat(hosts, addrs)
}

// between returns the members that compare equal.
func (s *service) between(compare func(member) int) []member {
	from, ok := slices.BinarySearchFunc(s.members, compare, func(m member, c func(member) int) int { return c(m) })
	if !ok {
		return nil
	}
	to := from
	for to < len(s.members) && compare(s.members[to]) == 0 {
		to++
	}
	return s.members[from:to]
}

// members are the addresses of a source at which it is ready; publish: as a service sees it to which that does not matter.
// What a slice lists is as ready for the one as for the other.
func (src *source) members(publish bool) iter.Seq[member] {
	return func(yield func(member) bool) {
		n := 1
		if src.slice != nil {
			n = len(src.slice.Endpoints)
		}
		as := &registry.Service{PublishNotReady: publish}
		for i := range n {
			e := entry{src, int32(i)}
			b := e.backing(as)
			if !b.Ready {
				continue
			}
			for _, a := range b.Addresses {
				if !yield(member{a, e}) {
					return
				}
			}
		}
	}
}

// backing is the entry as one that stands behind a service.
func (e entry) backing(s *registry.Service) registry.Backing {
	switch src := e.source; {
	case src.endpoint != nil:
		return s.EndpointBacking(src.endpoint)
	case src.instance != nil:
		return s.InstanceBacking(src.instance, src.failing)
	default:
		return s.SliceBacking(src.slice, int(e.at))
	}
}

// host is the entry's label below a service's name; "": its addresses are its names.
func (e entry) host() string {
	if sl := e.source.slice; sl != nil {
		return labelOf(sl.Endpoints[e.at].Hostname)
	}
	return e.source.host
}

// name is the member's label below the service's name.
func (m member) name() string { return cmp.Or(m.host(), dashed(m.addr)) }

// dashed writes an address as a label: 10-0-0-1, 2001-db8--1. No label may begin or end with a dash (RFC 1123, 2.1).
func dashed(a netip.Addr) string {
	label := strings.Map(func(r rune) rune {
		if r == '.' || r == ':' {
			return '-'
		}
		return r
	}, a.WithZone("").String())
	if label[0] == '-' {
		label = "0" + label
	}
	if label[len(label)-1] == '-' {
		label += "0"
	}
	return label
}

// undashed reads what dashed writes; false: it is none of that.
func undashed(label string) (netip.Addr, bool) {
	for _, dot := range [...]string{".", ":"} {
		if a, err := netip.ParseAddr(strings.ReplaceAll(label, "-", dot)); err == nil && dashed(a) == label {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// maxLabel is the length of a label, in bytes (RFC 1035, 2.3.4).
const maxLabel = 63

// labelOf makes a label of an id: lower case, with a dash for everything that no host name has. It is empty if
// nothing is left.
func labelOf(id string) string {
	label := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, id)
	label = strings.TrimLeft(label, "-")
	return strings.TrimRight(label[:min(len(label), maxLabel)], "-")
}
