package registry

// labelPair is one label within one namespace.
type labelPair struct {
	namespace, key, value string
}

// label is a pair with who bears it and which services stand under it.
type label struct {
	labelPair
	bearers  []*catalogEndpoint // in no order
	services []*catalogService  // in no order
}

// labelSpot is an endpoint's place among the bearers of a label.
type labelSpot struct {
	label *label
	at    int
}

// selectorIndex finds the endpoints that a service may select and the services that may select an
// endpoint. A service stands under one pair of its selector, an endpoint under each of its labels.
type selectorIndex map[labelPair]*label

// selects reports whether a service's selector matches an endpoint. An empty selector matches
// nothing, as in Kubernetes.
func selects(s *Service, e *Endpoint) bool {
	if len(s.Selector) == 0 || s.Namespace != e.Name.Namespace {
		return false
	}
	for k, v := range s.Selector {
		if got, ok := e.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func (x selectorIndex) label(p labelPair) *label {
	l := x[p]
	if l == nil {
		l = &label{labelPair: p}
		x[p] = l
	}
	return l
}

// prune forgets a label that nobody has any more.
func (x selectorIndex) prune(l *label) {
	if len(l.bearers)+len(l.services) == 0 {
		delete(x, l.labelPair)
	}
}

// addService places the service under that pair of its selector which the fewest others stand
// under, so that an endpoint with a common label does not meet every service.
func (x selectorIndex) addService(s *catalogService) {
	var best labelPair
	fewest := -1
	for k, v := range s.Selector {
		p := labelPair{s.Namespace, k, v}
		n := 0
		if l := x[p]; l != nil {
			n = len(l.services)
		}
		if fewest < 0 || n < fewest || n == fewest && p.key < best.key {
			best, fewest = p, n
		}
	}
	if fewest < 0 {
		return
	}
	s.under = x.label(best)
	s.at = len(s.under.services)
	s.under.services = append(s.under.services, s)
}

func (x selectorIndex) removeService(s *catalogService) {
	l := s.under
	if l == nil {
		return
	}
	moved := takeOut(&l.services, s.at)
	moved.at = s.at
	s.under = nil
	x.prune(l)
}

func (x selectorIndex) addEndpoint(e *catalogEndpoint) {
	e.labels = make([]labelSpot, 0, len(e.Labels))
	for k, v := range e.Labels {
		l := x.label(labelPair{e.Name.Namespace, k, v})
		e.labels = append(e.labels, labelSpot{l, len(l.bearers)})
		l.bearers = append(l.bearers, e)
	}
}

func (x selectorIndex) removeEndpoint(e *catalogEndpoint) {
	for _, spot := range e.labels {
		moved := takeOut(&spot.label.bearers, spot.at)
		for i := range moved.labels {
			if moved.labels[i].label == spot.label {
				moved.labels[i].at = spot.at
			}
		}
		x.prune(spot.label)
	}
}

// takeOut removes the element at an index of an unordered list by putting the last one in its place, and returns
// the one that has moved.
func takeOut[T any](list *[]T, at int) (moved T) {
	var zero T
	last := len(*list) - 1
	moved = (*list)[last]
	(*list)[at], (*list)[last] = moved, zero
	*list = (*list)[:last]
	return moved
}

// candidates returns the endpoints under the rarest pair of the service's selector: all that it
// selects are among them.
func (x selectorIndex) candidates(s *Service) []*catalogEndpoint {
	var best []*catalogEndpoint
	first := true
	for k, v := range s.Selector {
		l := x[labelPair{s.Namespace, k, v}]
		if l == nil {
			return nil
		}
		if first || len(l.bearers) < len(best) {
			best, first = l.bearers, false
		}
	}
	return best
}
