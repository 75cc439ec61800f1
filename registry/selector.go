package registry

// labelPair is one label within one namespace.
type labelPair struct {
	namespace, key, value string
}

// selectorIndex finds the endpoints that a service may select and the services that may select an
// endpoint. A service stands under one pair of its selector, an endpoint under each of its labels.
type selectorIndex struct {
	services  map[labelPair]map[Name]struct{}
	endpoints map[labelPair]map[EndpointID]struct{}
	placed    map[Name]labelPair // where each service stands
}

func newSelectorIndex() selectorIndex {
	return selectorIndex{
		services:  map[labelPair]map[Name]struct{}{},
		endpoints: map[labelPair]map[EndpointID]struct{}{},
		placed:    map[Name]labelPair{},
	}
}

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

// addService places the service under that pair of its selector which the fewest others stand
// under, so that an endpoint with a common label does not meet every service.
func (x *selectorIndex) addService(s *Service) {
	var best labelPair
	fewest := -1
	for k, v := range s.Selector {
		p := labelPair{s.Namespace, k, v}
		n := len(x.services[p])
		if fewest < 0 || n < fewest || n == fewest && p.key < best.key {
			best, fewest = p, n
		}
	}
	if fewest < 0 {
		return
	}
	put(x.services, best, s.Name)
	x.placed[s.Name] = best
}

func (x *selectorIndex) removeService(s *Service) {
	if p, ok := x.placed[s.Name]; ok {
		drop(x.services, p, s.Name)
		delete(x.placed, s.Name)
	}
}

func (x *selectorIndex) addEndpoint(e *Endpoint) {
	for k, v := range e.Labels {
		put(x.endpoints, labelPair{e.Name.Namespace, k, v}, e.EndpointID)
	}
}

func (x *selectorIndex) removeEndpoint(e *Endpoint) {
	for k, v := range e.Labels {
		drop(x.endpoints, labelPair{e.Name.Namespace, k, v}, e.EndpointID)
	}
}

// candidates returns the endpoints under the rarest pair of the service's selector: all that it
// selects are among them.
func (x *selectorIndex) candidates(s *Service) map[EndpointID]struct{} {
	var best map[EndpointID]struct{}
	first := true
	for k, v := range s.Selector {
		if set := x.endpoints[labelPair{s.Namespace, k, v}]; first || len(set) < len(best) {
			best, first = set, false
		}
	}
	return best
}

// interested returns the services that stand under a label of the endpoint: all that select it are
// among them.
func (x *selectorIndex) interested(e *Endpoint) map[Name]struct{} {
	found := map[Name]struct{}{}
	for k, v := range e.Labels {
		for n := range x.services[labelPair{e.Name.Namespace, k, v}] {
			found[n] = struct{}{}
		}
	}
	return found
}

func put[K, V comparable](index map[K]map[V]struct{}, k K, v V) {
	set := index[k]
	if set == nil {
		set = map[V]struct{}{}
		index[k] = set
	}
	set[v] = struct{}{}
}

func drop[K, V comparable](index map[K]map[V]struct{}, k K, v V) {
	delete(index[k], v)
	if len(index[k]) == 0 {
		delete(index, k)
	}
}
