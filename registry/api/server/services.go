package server

import (
	"context"
	"net/http"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/kube"
)

func (s *Server) deleteService(r *http.Request) (any, error) {
	results, rev, err := s.removeService(r.Context(), pathName(r))
	if err != nil {
		return nil, err
	}
	out := api.Results{Results: results}
	s.synced(r.Context(), rev, &out)
	return out, nil
}

// removeService deletes a service with the slices that it owns.
func (s *Server) removeService(ctx context.Context, n registry.Name) ([]api.Result, int64, error) {
	owned := s.Catalog.OwnedSlices(n)
	rev, err := s.Store.DeleteService(ctx, n, owned...)
	if err != nil {
		return nil, 0, err
	}
	results := []api.Result{{Kind: kube.Service, Name: n, Action: api.Deleted}}
	for _, slice := range owned {
		results = append(results, api.Result{Kind: kube.EndpointSlice, Name: slice, Action: api.Deleted})
	}
	return results, rev, nil
}

func pathName(r *http.Request) registry.Name {
	return registry.Name{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
}

// view is a service with what answers at its ports.
func (s *Server) view(svc registry.Service) api.Service {
	v := api.Service{Service: svc, Endpoints: s.Catalog.Members(svc.Name), Ports: []api.Port{}}
	for _, p := range svc.Ports {
		port := api.Port{ServicePort: p, Backends: []api.Backend{}}
		for _, a := range svc.VIPs {
			for _, b := range s.Catalog.Backends(registry.Frontend{Addr: a.Unmap(), Port: p.Port, Protocol: p.Protocol}) {
				port.Backends = append(port.Backends, api.Backend{Address: b.AddrPort, Weight: b.Weight, Draining: b.Draining})
			}
		}
		v.Ports = append(v.Ports, port)
	}
	return v
}
