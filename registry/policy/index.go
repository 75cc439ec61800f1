package policy

import (
	"iter"
	"maps"

	"github.com/sluice-net/sluice/registry"
)

// where is a place in the index: what workloads have, and selectors ask for.
type where struct {
	kind       placeKind
	namespace  string
	key, value string
}

type placeKind byte

const (
	everywhere     placeKind = iota
	inNamespace              // a workload of this namespace
	namespaceLabel           // of a namespace with this label
	labelAnywhere            // with this label
	labelWithin              // with this label, of this namespace
	portName                 // that gives a port this name
)

// index finds the workloads that a selector may choose, and the selectors that may choose a workload. A
// workload stands in every place that it has a part in, a selector in one of those that all of
// what it chooses stands in.
type index struct {
	workloads map[where]map[*workload]struct{}
	selectors map[where]map[*selector]struct{}
}

// tooMany limits the places of one selector: beyond, it stands in a less specific one.
const tooMany = 64

// places calls f for each of a workload's places.
func (w *workload) places(f func(where)) {
	f(where{kind: everywhere})
	f(where{kind: inNamespace, namespace: w.Namespace})
	for k, v := range w.namespace.labels {
		f(where{kind: namespaceLabel, key: k, value: v})
	}
	for k, v := range w.Labels {
		f(where{kind: labelAnywhere, key: k, value: v})
		f(where{kind: labelWithin, namespace: w.Namespace, key: k, value: v})
	}
	for _, p := range w.Ports {
		f(where{kind: portName, key: p.Name})
	}
}

// choices returns sets of places. All that the selector chooses stand in some place of each set. Those
// of the most specific kind come first, and are specific in number.
func (x *selector) choices() (sets [][]where, specific int) {
	if x.kind == byPort {
		return [][]where{{{kind: portName, key: x.port}}}, 1
	}
	names, named := x.namespaceNames()
	for key, values := range pairs(&x.pods) {
		var set []where
		if named {
			for _, ns := range names {
				for _, v := range values {
					set = append(set, where{kind: labelWithin, namespace: ns, key: key, value: v})
				}
			}
		} else {
			for _, v := range values {
				set = append(set, where{kind: labelAnywhere, key: key, value: v})
			}
		}
		if len(set) <= tooMany {
			sets = append(sets, set)
		}
	}
	specific = len(sets)
	if named && len(names) <= tooMany {
		var set []where
		for _, ns := range names {
			set = append(set, where{kind: inNamespace, namespace: ns})
		}
		sets = append(sets, set)
	}
	if x.namespaces != nil && !named {
		for key, values := range pairs(x.namespaces) {
			var set []where
			for _, v := range values {
				set = append(set, where{kind: namespaceLabel, key: key, value: v})
			}
			if len(set) <= tooMany {
				sets = append(sets, set)
			}
		}
	}
	if specific == 0 {
		specific = len(sets)
	}
	return append(sets, []where{{kind: everywhere}}), specific
}

// namespaceNames returns the only namespaces that the selector may choose from, if it names them.
func (x *selector) namespaceNames() ([]string, bool) {
	if x.namespaces == nil {
		return []string{x.own}, !x.anywhere
	}
	for key, values := range pairs(x.namespaces) {
		if key == registry.NamespaceLabel {
			return values, true
		}
	}
	return nil, false
}

// pairs yields the labels that a selector asks for with the values that it takes.
func pairs(s *registry.Selector) iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		for k, v := range s.MatchLabels {
			if !yield(k, []string{v}) {
				return
			}
		}
		for _, r := range s.Expressions {
			if r.Operator == registry.In && !yield(r.Key, sorted(r.Values)) {
				return
			}
		}
	}
}

func (x *index) addWorkload(w *workload) {
	w.places(func(p where) { enter(x.workloads, p, w) })
}

func (x *index) removeWorkload(w *workload) {
	w.places(func(p where) { leave(x.workloads, p, w) })
}

// addSelector puts a selector where the fewest others stand, so that a workload with a common label
// does not meet them all.
func (x *index) addSelector(s *selector) {
	sets, specific := s.choices()
	s.stands = fewest(x.selectors, sets[:max(specific, 1)])
	for _, p := range s.stands {
		enter(x.selectors, p, s)
	}
}

func (x *index) removeSelector(s *selector) {
	for _, p := range s.stands {
		leave(x.selectors, p, s)
	}
}

// candidates yields workloads, all that the selector chooses among them.
func (x *index) candidates(s *selector) iter.Seq[*workload] {
	sets, _ := s.choices()
	return members(x.workloads, fewest(x.workloads, sets))
}

// interested returns selectors, all that choose the workload among them.
func (x *index) interested(w *workload) map[*selector]struct{} {
	found := map[*selector]struct{}{}
	w.places(func(p where) { maps.Copy(found, x.selectors[p]) })
	return found
}

func fewest[V comparable](at map[where]map[V]struct{}, sets [][]where) []where {
	var best []where
	least := -1
	for _, set := range sets {
		n := 0
		for _, p := range set {
			n += len(at[p])
		}
		if least < 0 || n < least {
			best, least = set, n
		}
	}
	return best
}

func members[V comparable](at map[where]map[V]struct{}, set []where) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, p := range set {
			for v := range at[p] {
				if !yield(v) {
					return
				}
			}
		}
	}
}

func enter[V comparable](at map[where]map[V]struct{}, p where, v V) {
	set := at[p]
	put(&set, v)
	at[p] = set
}

func leave[V comparable](at map[where]map[V]struct{}, p where, v V) {
	delete(at[p], v)
	if len(at[p]) == 0 {
		delete(at, p)
	}
}
