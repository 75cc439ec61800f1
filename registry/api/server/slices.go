package server

import "github.com/sluice-net/sluice/registry"

// normal makes empty lists of those that are not there, as readers of JSON like them.
func normal(s registry.Slice) registry.Slice {
	if s.Endpoints == nil {
		s.Endpoints = []registry.SliceEndpoint{}
	}
	if s.Ports == nil {
		s.Ports = []registry.EndpointPort{}
	}
	return s
}
