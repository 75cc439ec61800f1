package registry

// Selects reports whether a service's selector matches an endpoint. An empty selector matches nothing, as in
// Kubernetes.
func (s *Service) Selects(e *Endpoint) bool { return selects(s, e) }

// EndpointBacking returns a container that the service selects as one that stands behind it.
func (s *Service) EndpointBacking(e *Endpoint) Backing {
	m := endpointMember(e)
	return m.backing(s)
}

// SliceBacking returns the entry of that place in a slice of the service as one that stands behind it.
func (s *Service) SliceBacking(sl *Slice, entry int) Backing {
	m := sliceMember(sl, &sl.Endpoints[entry])
	return m.backing(s)
}

// InstanceBacking returns an instance of the service as one that stands behind it; failing: its checks fail.
func (s *Service) InstanceBacking(i *Instance, failing bool) Backing {
	m := instanceMember(i, failing)
	return m.backing(s)
}
