package server

import (
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// selected names the containers that a policy is about.
func (s *Server) selected(id registry.PolicyID) []api.Container {
	all := s.Catalog.Selected(id)
	list := make([]api.Container, len(all))
	for i, e := range all {
		list[i] = api.Container{Name: e.Name, EndpointID: e.EndpointID}
	}
	return list
}
