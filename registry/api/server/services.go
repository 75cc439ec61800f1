package server

import (
	"context"
	"fmt"
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

func (s *Server) services(r *http.Request) (any, error) {
	render, err := s.renderer(r)
	if err != nil {
		return nil, err
	}
	list := api.List[any]{Items: []any{}}
	namespace := r.URL.Query().Get("namespace")
	for _, svc := range s.Catalog.Services() {
		if namespace == "" || svc.Namespace == namespace {
			list.Items = append(list.Items, render(svc))
		}
	}
	return list, nil
}

func (s *Server) service(r *http.Request) (any, error) {
	render, err := s.renderer(r)
	if err != nil {
		return nil, err
	}
	n := pathName(r)
	svc, ok := s.Catalog.Service(n)
	if !ok {
		return nil, &api.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("service %s: not found", n)}
	}
	return render(svc), nil
}

// renderer returns how the request wants to see a service.
func (s *Server) renderer(r *http.Request) (func(registry.Service) any, error) {
	kubernetes, err := asKubernetes(r)
	if err != nil {
		return nil, err
	}
	if kubernetes {
		return func(svc registry.Service) any { return kube.ToService(svc) }, nil
	}
	return func(svc registry.Service) any { return s.view(svc) }, nil
}

// asKubernetes reports whether the request wants to see Kubernetes' objects.
func asKubernetes(r *http.Request) (bool, error) {
	switch as := r.URL.Query().Get("as"); as {
	case "":
		return false, nil
	case "kubernetes":
		return true, nil
	default:
		return false, &api.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("as=%q: want kubernetes, or nothing", as)}
	}
}

func pathName(r *http.Request) registry.Name {
	return registry.Name{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
}

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
