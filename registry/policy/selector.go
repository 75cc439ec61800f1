package policy

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// selectorKind tells what a selector chooses by.
type selectorKind byte

const (
	byLabels selectorKind = iota + 1 // workloads by the labels of their own and of their namespaces
	byBlock                          // identities by the blocks that cover them
	byPort                           // workloads that give a port a name
)

// selector chooses identities: as a policy's subject, as a rule's peer, or because a rule means
// something else to them, as they name a port. Equal ones are one, and know what they choose.
type selector struct {
	key  string
	kind selectorKind

	// byLabels. The pairwise ones, with same or notSame, choose what has those labels at all; holds
	// tells for which subjects.
	own           string // the only namespace, if namespaces is nil and anywhere false
	anywhere      bool   // every namespace, if namespaces is nil
	namespaces    *registry.Selector
	pods          registry.Selector
	same, notSame []string

	// byBlock.
	cidr   *site
	except []*site

	// byPort; protocol 0 is any.
	protocol registry.Protocol
	port     string

	workloads  map[*workload]struct{} // that it chooses; of byLabels and byPort
	identities map[*identity]struct{} // that it chooses; of byBlock

	subjectOf map[*policy]struct{}
	peerOf    map[*policy]directions
	stands    []where
}

// directions is a set of registry.Directions.
type directions uint8

func (s directions) has(d registry.Direction) bool { return s&(1<<d) != 0 }

func labelSelector(p *registry.Policy, s *registry.PodSelector) *selector {
	x := &selector{
		kind: byLabels, namespaces: s.Namespaces, pods: s.Pods,
		same: sorted(s.SameLabels), notSame: sorted(s.NotSameLabels),
	}
	if s.Namespaces == nil {
		x.own, x.anywhere = p.Namespace, p.Tier != registry.TierNamespaced
	}
	b := []byte{byte(byLabels)}
	switch {
	case x.namespaces != nil:
		b = appendSelector(append(b, 's'), x.namespaces)
	case x.anywhere:
		b = append(b, 'a')
		x.own = ""
	default:
		b = appendString(append(b, 'o'), x.own)
	}
	b = appendSelector(b, &x.pods)
	b = appendStrings(b, x.same)
	x.key = string(appendStrings(b, x.notSame))
	return x
}

// portSelector chooses the workloads to which a named port means something.
func portSelector(p registry.PolicyPort) *selector {
	b := appendString([]byte{byte(byPort), byte(p.Protocol)}, p.Name)
	return &selector{kind: byPort, protocol: p.Protocol, port: p.Name, key: string(b)}
}

// blockSelector chooses the identities in a block. Its sites are in the table already.
func (e *Engine) blockSelector(block *registry.IPBlock) *selector {
	x := &selector{kind: byBlock}
	cidr, ok := normal(block.CIDR)
	if !ok {
		return nil
	}
	b := appendString([]byte{byte(byBlock)}, cidr.String())
	x.cidr = e.table(cidr).get(cidr)
	for _, p := range normalAll(block.Except) {
		b = appendString(b, p.String())
		x.except = append(x.except, e.table(p).get(p))
	}
	x.key = string(b)
	return x
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendLabels(b []byte, labels map[string]string) []byte {
	b = binary.AppendUvarint(b, uint64(len(labels)))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b = appendString(appendString(b, k), labels[k])
	}
	return b
}

func appendSelector(b []byte, s *registry.Selector) []byte {
	b = appendLabels(b, s.MatchLabels)
	list := slices.Clone(s.Expressions)
	for i := range list {
		list[i].Values = sorted(list[i].Values)
	}
	slices.SortFunc(list, func(x, y registry.Requirement) int {
		return cmp.Or(cmp.Compare(x.Key, y.Key), cmp.Compare(x.Operator, y.Operator),
			slices.Compare(x.Values, y.Values))
	})
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, r := range list {
		b = appendStrings(appendString(appendString(b, r.Key), string(r.Operator)), r.Values)
	}
	return b
}

func sorted(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// matches reports whether a selector by labels or by port chooses a workload.
func (x *selector) matches(w *workload) bool {
	if x.kind == byPort {
		return slices.ContainsFunc(w.Ports, func(p registry.EndpointPort) bool {
			return p.Name == x.port && (x.protocol == 0 || x.protocol == p.Protocol)
		})
	}
	if x.namespaces != nil {
		if !x.namespaces.Matches(w.namespace.labels) {
			return false
		}
	} else if !x.anywhere && x.own != w.Namespace {
		return false
	}
	return hasAll(w.namespace.labels, x.same) && hasAll(w.namespace.labels, x.notSame) && x.pods.Matches(w.Labels)
}

func hasAll(labels map[string]string, keys []string) bool {
	for _, k := range keys {
		if _, ok := labels[k]; !ok {
			return false
		}
	}
	return true
}

// pairwise reports whether what the selector chooses depends on the subject.
func (x *selector) pairwise() bool { return len(x.same)+len(x.notSame) > 0 }

// byNamespace reports whether the selector looks at labels of namespaces.
func (x *selector) byNamespace() bool { return x.namespaces != nil || x.pairwise() }

// chooses reports whether the selector chooses a peer for some subject.
func (x *selector) chooses(q *identity) bool {
	var ok bool
	if x.kind == byBlock {
		_, ok = x.identities[q]
	} else if q.workload != nil {
		_, ok = x.workloads[q.workload]
	}
	return ok
}

// holds reports whether a peer that the selector chooses is one for this subject, too: its namespace has
// all the labels of same with the values of the subject's namespace, and for some label of notSame not its
// value, which the subject's namespace need not have: chooses has seen that the peer's has them all.
func (x *selector) holds(subject *workload, q *identity) bool {
	if !x.pairwise() {
		return true
	}
	mine, theirs := subject.namespace.labels, q.workload.namespace.labels
	for _, k := range x.same {
		if v, ok := mine[k]; !ok || v != theirs[k] {
			return false
		}
	}
	return len(x.notSame) == 0 || slices.ContainsFunc(x.notSame, func(k string) bool {
		v, ok := mine[k]
		return !ok || v != theirs[k]
	})
}

// each calls f for every identity that the selector chooses.
func (x *selector) each(f func(*identity)) {
	for q := range x.identities {
		f(q)
	}
	for w := range x.workloads {
		for _, q := range w.identities {
			f(q)
		}
	}
}

// intern returns the one selector that is equal to x, and makes x that one if there was none.
func (e *Engine) intern(x *selector) *selector {
	if old := e.selectors[x.key]; old != nil {
		return old
	}
	x.subjectOf = map[*policy]struct{}{}
	x.peerOf = map[*policy]directions{}
	e.selectors[x.key] = x
	if x.kind == byBlock {
		x.identities = map[*identity]struct{}{}
		put(&x.cidr.selectors, x)
		for q := range x.cidr.identities {
			if q.in(x) {
				put(&x.identities, q)
				put(&q.blocks, x)
			}
		}
		return x
	}
	x.workloads = map[*workload]struct{}{}
	for w := range e.index.candidates(x) {
		if x.matches(w) {
			put(&x.workloads, w)
			put(&w.selectors, x)
		}
	}
	e.index.addSelector(x)
	return x
}

// release forgets a selector that no policy uses any more.
func (e *Engine) release(x *selector) {
	if len(x.subjectOf)+len(x.peerOf) > 0 || e.selectors[x.key] != x {
		return
	}
	delete(e.selectors, x.key)
	if x.kind == byBlock {
		delete(x.cidr.selectors, x)
	} else {
		e.index.removeSelector(x)
	}
	for w := range x.workloads {
		delete(w.selectors, x)
	}
	for q := range x.identities {
		delete(q.blocks, x)
	}
}

func put[K comparable](set *map[K]struct{}, k K) {
	if *set == nil {
		*set = map[K]struct{}{}
	}
	(*set)[k] = struct{}{}
}
