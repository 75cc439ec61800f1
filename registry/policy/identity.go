package policy

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// Keys of the identities that always are. Those of others begin with another letter.
const (
	worldKey = "world"
	nodeKey  = "node"
)

// identity is an Identity in use.
type identity struct {
	Identity
	workload *workload // nil: of a block
	cover    []*site   // Blocks, as sites
	refs     int       // addresses and blocks that have it
	fresh    bool      // no Delta has told of it yet
	gone     bool

	blocks map[*selector]struct{} // of blocks, that choose it

	mark uint64 // the calculation that met it last, and
	step int    // what it found
}

// workload is what containers have in common; with the blocks that cover an address it makes an
// identity. Rules are about workloads: the blocks that cover a subject change nothing for it.
type workload struct {
	*spec
	namespace  *namespace
	identities []*identity
	fresh      bool                   // none of them has been told of yet
	selectors  map[*selector]struct{} // that choose it
	sides      [2]side                // by direction
}

// spec describes a workload.
type spec struct {
	Workload
	key      string
	portsKey string // the part of it that is about ports
}

// namespace is one that has an object or workloads.
type namespace struct {
	name      string
	labels    map[string]string // NamespaceLabel among them
	object    bool
	workloads int
}

// specOf describes an endpoint's workload.
func specOf(ep *registry.Endpoint) *spec {
	s := &spec{Workload: Workload{
		Namespace: ep.Name.Namespace, Network: ep.Network,
		Labels: registry.PolicyLabels(ep), Ports: sortedPorts(ep.Ports),
	}}
	s.key = workloadKey(&s.Workload)
	s.portsKey = string(appendPorts(nil, s.Ports))
	return s
}

func sortedPorts(ports []registry.EndpointPort) []registry.EndpointPort {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b registry.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(ports)
}

// workloadKey encodes a workload: different ones never alike, since every string and list has its
// length before it.
func workloadKey(w *Workload) string {
	b := make([]byte, 0, 256)
	b = append(b, 'c')
	b = appendString(b, w.Namespace)
	b = appendString(b, w.Network)
	b = appendLabels(b, w.Labels)
	return string(appendPorts(b, w.Ports))
}

func appendPorts(b []byte, ports []registry.EndpointPort) []byte {
	b = binary.AppendUvarint(b, uint64(len(ports)))
	for _, p := range ports {
		b = append(appendString(b, p.Name), byte(p.Protocol))
		b = binary.BigEndian.AppendUint16(b, p.Port)
	}
	return b
}

// identityKey encodes a workload, nil for none, with the blocks that cover its address, sorted.
func identityKey(w *spec, blocks []netip.Prefix) string {
	b := make([]byte, 0, 320)
	if w == nil {
		b = append(b, 'b')
	} else {
		b = append(b, w.key...)
	}
	b = binary.AppendUvarint(b, uint64(len(blocks)))
	for _, p := range blocks {
		b = appendString(b, p.String())
	}
	return string(b)
}

// in reports whether a selector by block chooses the identity.
func (q *identity) in(x *selector) bool {
	return slices.Contains(q.cover, x.cidr) &&
		!slices.ContainsFunc(x.except, func(s *site) bool { return slices.Contains(q.cover, s) })
}

// identify returns the identity of a workload, nil for none, at an address that cover covers. A new one
// is made known to all that may concern it.
func (e *Engine) identify(w *spec, cover []*site) *identity {
	blocks := make([]netip.Prefix, len(cover))
	for i, s := range cover {
		blocks[i] = s.prefix
	}
	key := identityKey(w, blocks)
	if q := e.identities[key]; q != nil {
		return q
	}
	q := &identity{Identity: Identity{ID: e.number(), Key: key, Blocks: blocks}, cover: cover, fresh: true}
	e.identities[key] = q
	e.byID[q.ID] = q
	e.fresh = append(e.fresh, q)
	for _, s := range cover {
		put(&s.identities, q)
		for x := range s.selectors {
			if q.in(x) {
				put(&x.identities, q)
				put(&q.blocks, x)
				e.peerChanged(x, q)
			}
		}
	}
	if w == nil {
		return q
	}
	q.workload = e.workload(w)
	q.Workload = &q.workload.Workload
	q.workload.identities = append(q.workload.identities, q)
	for x := range q.workload.selectors {
		e.peerChanged(x, q)
	}
	return q
}

// number returns an ID that no identity has. It comes back to those of gone ones only when all others
// have been used.
func (e *Engine) number() ID {
	for {
		if e.last++; e.last >= First && e.byID[e.last] == nil {
			return e.last
		}
	}
}

// workload returns the workload that a spec describes.
func (e *Engine) workload(s *spec) *workload {
	if w := e.workloads[s.key]; w != nil {
		return w
	}
	w := &workload{spec: s, namespace: e.namespace(s.Namespace), fresh: true}
	w.namespace.workloads++
	e.workloads[s.key] = w
	e.index.addWorkload(w)
	for x := range e.index.interested(w) {
		if x.matches(w) {
			e.join(x, w)
		}
	}
	return w
}

func (e *Engine) namespace(name string) *namespace {
	ns := e.namespaces[name]
	if ns == nil {
		ns = &namespace{name: name, labels: registry.NamespaceLabels(&registry.Namespace{Name: name})}
		e.namespaces[name] = ns
	}
	return ns
}

func (e *Engine) dropNamespace(ns *namespace) {
	if !ns.object && ns.workloads == 0 {
		delete(e.namespaces, ns.name)
	}
}

// join and part carry out that a selector chooses a workload, or does so no longer.
func (e *Engine) join(x *selector, w *workload) {
	put(&x.workloads, w)
	put(&w.selectors, x)
	for p := range x.subjectOf {
		e.addSubject(p, w)
	}
	for _, q := range w.identities {
		e.peerChanged(x, q)
	}
}

func (e *Engine) part(x *selector, w *workload) {
	delete(x.workloads, w)
	delete(w.selectors, x)
	for p := range x.subjectOf {
		e.removeSubject(p, w)
	}
	for _, q := range w.identities {
		e.peerChanged(x, q)
	}
}

// peerChanged makes the verdicts be worked out again that depend on whether a selector chooses a peer.
func (e *Engine) peerChanged(x *selector, q *identity) {
	for p, in := range x.peerOf {
		for w := range p.subject.workloads {
			for d := range w.sides {
				if in.has(registry.Direction(d)) {
					e.dirtySide(w, d).addPeer(q)
				}
			}
		}
	}
}

// relabel gives a namespace other labels.
func (e *Engine) relabel(ns *namespace, labels map[string]string) {
	affected := slices.Collect(members(e.index.workloads, []where{{kind: inNamespace, namespace: ns.name}}))
	for _, w := range affected {
		e.index.removeWorkload(w)
	}
	ns.labels = labels
	for _, w := range affected {
		e.index.addWorkload(w)
		e.reselect(w)
	}
}

// reselect finds out again which of the selectors that look at namespaces choose a workload.
func (e *Engine) reselect(w *workload) {
	for x := range w.selectors {
		if !x.byNamespace() {
			continue
		}
		if !x.matches(w) {
			e.part(x, w)
			continue
		}
		for _, q := range w.identities {
			if x.pairwise() {
				e.peerChanged(x, q)
			}
		}
	}
	for x := range e.index.interested(w) {
		if _, ok := w.selectors[x]; !ok && x.matches(w) {
			e.join(x, w)
		}
	}
	for d := range w.sides {
		if w.sides[d].pairwise() {
			e.dirtySide(w, d).full = true
		}
	}
}

// unlink takes an identity that no address has any more out of everything.
func (e *Engine) unlink(q *identity) {
	q.gone = true
	delete(e.identities, q.Key)
	delete(e.byID, q.ID)
	for _, s := range q.cover {
		delete(s.identities, q)
	}
	for x := range q.blocks {
		delete(x.identities, q)
	}
	w := q.workload
	if w == nil {
		return
	}
	w.identities = slices.DeleteFunc(w.identities, func(o *identity) bool { return o == q })
	if len(w.identities) > 0 {
		return
	}
	for x := range w.selectors {
		delete(x.workloads, w)
	}
	e.index.removeWorkload(w)
	delete(e.workloads, w.key)
	w.namespace.workloads--
	e.dropNamespace(w.namespace)
}
