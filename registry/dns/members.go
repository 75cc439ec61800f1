package dns

import (
	"slices"

	"github.com/sluice-net/sluice/registry"
)

func (x *index) applyEndpoint(e *registry.Endpoint, deleted bool) {
	if old := x.endpoints[e.EndpointID]; old != nil {
		x.labels.removeEndpoint(old)
		x.remove(old)
		delete(x.endpoints, e.EndpointID)
	}
	if deleted {
		return
	}
	src := &source{endpoint: e}
	x.endpoints[e.EndpointID] = src
	x.labels.addEndpoint(src)
	x.add(src, x.labels.selecting(e))
}

func (x *index) applySlice(sl *registry.Slice, deleted bool) {
	if old := x.slices[sl.Name]; old != nil {
		owner := old.slice.Owner()
		x.remove(old)
		left := slices.DeleteFunc(x.sliced[owner], func(src *source) bool { return src == old })
		if x.sliced[owner] = left; len(left) == 0 {
			delete(x.sliced, owner)
		}
	}
	delete(x.slices, sl.Name)
	if deleted || len(sl.Endpoints) == 0 {
		return
	}
	src := &source{slice: sl}
	x.slices[sl.Name] = src
	x.sliced[sl.Owner()] = append(x.sliced[sl.Owner()], src)
	x.add(src, x.named(sl.Owner()))
}

// named returns the service of a name, if there is one.
func (x *index) named(n registry.Name) []*service {
	if s := x.services[n]; s != nil {
		return []*service{s}
	}
	return nil
}

func (x *index) applyInstance(now *registry.Instance, deleted bool) {
	i := x.instance(now.InstanceID)
	if i.object = now; deleted {
		i.object = nil
	}
	x.enrol(now.InstanceID, i)
}

func (x *index) applyHealth(id registry.InstanceID, failing bool) {
	i := x.instance(id)
	i.failing = failing
	x.enrol(id, i)
}

// instance returns what is known of an instance, which may be nothing.
func (x *index) instance(id registry.InstanceID) *instance {
	i := x.instances[id]
	if i == nil {
		i = &instance{}
		x.instances[id] = i
	}
	return i
}

// enrol publishes an instance as it is now, and forgets one of which nothing is known.
func (x *index) enrol(id registry.InstanceID, i *instance) {
	owner := id.ServiceName()
	if i.source != nil {
		x.remove(i.source)
		i.source = nil
	}
	if i.object == nil {
		if of := x.enrolled[owner]; of != nil {
			if delete(of, i); len(of) == 0 {
				delete(x.enrolled, owner)
			}
		}
		if !i.failing {
			delete(x.instances, id)
		}
		return
	}
	i.source = &source{instance: i.object, failing: i.failing, host: labelOf(id.ID)}
	if x.enrolled[owner] == nil {
		x.enrolled[owner] = map[*instance]struct{}{}
	}
	x.enrolled[owner][i] = struct{}{}
	x.add(i.source, x.named(owner))
}

// labelPair is one label within one namespace.
type labelPair struct{ namespace, key, value string }

// labelled is who bears a label, and which services stand under it.
type labelled struct {
	sources  map[*source]struct{}
	services map[*service]struct{}
}

// labelIndex finds the containers that a service may select and the services that may select a container. A service
// stands under one pair of its selector, a container under each of its labels.
type labelIndex map[labelPair]*labelled

// pair is that of a selector under which its service stands: the longest, which is as a rule the most telling, and of
// those the first.
func pair(s *registry.Service) (p labelPair, ok bool) {
	for k, v := range s.Selector {
		n, most := len(k)+len(v), len(p.key)+len(p.value)
		if !ok || n > most || n == most && k < p.key {
			p, ok = labelPair{s.Namespace, k, v}, true
		}
	}
	return p, ok
}

func (x labelIndex) at(p labelPair) *labelled {
	l := x[p]
	if l == nil {
		l = &labelled{sources: map[*source]struct{}{}, services: map[*service]struct{}{}}
		x[p] = l
	}
	return l
}

func (x labelIndex) prune(p labelPair) {
	if l := x[p]; l != nil && len(l.sources) == 0 && len(l.services) == 0 {
		delete(x, p)
	}
}

func (x labelIndex) addService(s *service) {
	if p, ok := pair(s.Service); ok {
		x.at(p).services[s] = struct{}{}
	}
}

func (x labelIndex) removeService(s *service) {
	if p, ok := pair(s.Service); ok {
		delete(x.at(p).services, s)
		x.prune(p)
	}
}

func (x labelIndex) addEndpoint(src *source) {
	for k, v := range src.endpoint.Labels {
		x.at(labelPair{src.endpoint.Name.Namespace, k, v}).sources[src] = struct{}{}
	}
}

func (x labelIndex) removeEndpoint(src *source) {
	for k, v := range src.endpoint.Labels {
		p := labelPair{src.endpoint.Name.Namespace, k, v}
		delete(x.at(p).sources, src)
		x.prune(p)
	}
}

// candidates returns the containers that a service may select: all that it does are among them.
func (x labelIndex) candidates(s *registry.Service) []*source {
	p, ok := pair(s)
	if !ok || x[p] == nil {
		return nil
	}
	var list []*source
	for src := range x[p].sources {
		list = append(list, src)
	}
	return list
}

// selecting returns the services that select a container.
func (x labelIndex) selecting(e *registry.Endpoint) []*service {
	var list []*service
	for k, v := range e.Labels {
		l := x[labelPair{e.Name.Namespace, k, v}]
		if l == nil {
			continue
		}
		for s := range l.services {
			if s.Selects(e) {
				list = append(list, s)
			}
		}
	}
	return list
}
