package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/kube"
)

// apply writes all objects of the body, or none: nothing is written before every one of them has
// been found good.
func (s *Server) apply(r *http.Request) (any, error) {
	body, err := readBody(r, MaxBody)
	if err != nil {
		return nil, err
	}
	objects, err := kube.Parse(body)
	if err != nil {
		return nil, faults(err)
	}
	before, err := s.checkAll(r.Context(), objects)
	if err != nil {
		return nil, err
	}
	var out api.Results
	var revision int64
	for i, o := range objects {
		stored, rev, err := s.Store.PutService(r.Context(), o.ServiceRequest)
		if err != nil {
			e := refusal(o, err)
			e.Results = out.Results
			return nil, e
		}
		revision = max(revision, rev)
		action := api.Created
		if old := before[i]; old != nil && equal(*old, stored) {
			action = api.Unchanged
		} else if old != nil {
			action = api.Configured
		}
		out.Results = append(out.Results, api.Result{Kind: "Service", Name: stored.Name, Action: action, VIPs: stored.VIPs})
	}
	s.synced(r.Context(), revision, &out)
	return out, nil
}

// checkAll asks the store about every object. It returns the services as they are now.
func (s *Server) checkAll(ctx context.Context, objects []kube.Object) ([]*registry.Service, error) {
	before := make([]*registry.Service, len(objects))
	owners := map[netip.Addr]registry.Name{}
	var all *api.Error
	for i, o := range objects {
		old, exists, err := s.Store.CheckService(ctx, o.ServiceRequest)
		if err == nil {
			for _, a := range o.VIPs {
				if other, taken := owners[a]; taken {
					err = fmt.Errorf("%w: %s is asked for by service %s too", registry.ErrVIPTaken, a, other)
				}
				owners[a] = o.Name
			}
		}
		if err != nil {
			e := refusal(o, err)
			if e.Status >= 500 && e.Status != http.StatusInsufficientStorage {
				return nil, e
			}
			if all == nil {
				all = e
			} else {
				all.Details = append(all.Details, e.Details...)
			}
		}
		if exists {
			before[i] = &old
		}
	}
	if all != nil {
		return nil, all
	}
	return before, nil
}

// faults makes an answer of what is wrong with documents.
func faults(err error) error {
	var list kube.Errors
	if !errors.As(err, &list) {
		return err
	}
	e := &api.Error{Status: http.StatusUnprocessableEntity, Message: "nothing was changed: the input has faults"}
	for _, f := range list {
		e.Details = append(e.Details, api.Detail{Line: f.Line, Field: f.Field, Reason: f.Reason})
	}
	return e
}

// refusal makes an answer of a store's error about one object.
func refusal(o kube.Object, err error) *api.Error {
	e := asError(err)
	field := ""
	switch {
	case errors.Is(err, registry.ErrVIPTaken), errors.Is(err, registry.ErrVIPOutOfRange), errors.Is(err, registry.ErrVIPImmutable),
		errors.Is(err, registry.ErrVIPsExhausted):
		field = "spec.clusterIP"
	case errors.Is(err, registry.ErrFamily):
		field = "spec.ipFamilies"
		if len(o.Families) == 0 {
			field = "spec.ipFamilyPolicy"
		}
	case errors.Is(err, registry.ErrInvalid):
	default:
		return e
	}
	return &api.Error{
		Status: e.Status, Message: "the registry refuses a service",
		Details: []api.Detail{{Line: o.Line(field), Field: field, Reason: err.Error()}},
	}
}

func equal(a, b registry.Service) bool {
	return a.Name == b.Name && a.Headless == b.Headless && slices.Equal(a.VIPs, b.VIPs) && slices.Equal(a.Ports, b.Ports) &&
		maps.Equal(a.Selector, b.Selector) && maps.Equal(a.Labels, b.Labels)
}

func (s *Server) deleteDocuments(r *http.Request) (any, error) {
	body, err := readBody(r, MaxBody)
	if err != nil {
		return nil, err
	}
	names, err := kube.Names(body)
	if err != nil {
		return nil, faults(err)
	}
	var out api.Results
	var revision int64
	for _, n := range names {
		rev, err := s.Store.DeleteService(r.Context(), n)
		action := api.Deleted
		if errors.Is(err, registry.ErrNotFound) {
			action = api.NotFound
		} else if err != nil {
			e := asError(err)
			e.Results = out.Results
			return nil, e
		}
		revision = max(revision, rev)
		out.Results = append(out.Results, api.Result{Kind: "Service", Name: n, Action: action})
	}
	s.synced(r.Context(), revision, &out)
	return out, nil
}

func (s *Server) deleteService(r *http.Request) (any, error) {
	n := pathName(r)
	rev, err := s.Store.DeleteService(r.Context(), n)
	if err != nil {
		return nil, err
	}
	out := api.Results{Results: []api.Result{{Kind: "Service", Name: n, Action: api.Deleted}}}
	s.synced(r.Context(), rev, &out)
	return out, nil
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
	switch as := r.URL.Query().Get("as"); as {
	case "":
		backends := s.backends()
		return func(svc registry.Service) any { return s.view(svc, backends) }, nil
	case "kubernetes":
		return func(svc registry.Service) any { return kube.ToService(svc) }, nil
	default:
		return nil, &api.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("as=%q: want kubernetes, or nothing", as)}
	}
}

func pathName(r *http.Request) registry.Name {
	return registry.Name{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
}

// backends returns what answers at each frontend.
func (s *Server) backends() map[registry.Frontend][]netip.AddrPort {
	list := s.Catalog.Frontends()
	m := make(map[registry.Frontend][]netip.AddrPort, len(list))
	for _, f := range list {
		m[f.Frontend] = f.Backends
	}
	return m
}

func (s *Server) view(svc registry.Service, backends map[registry.Frontend][]netip.AddrPort) api.Service {
	v := api.Service{Service: svc, Endpoints: s.Catalog.Members(svc.Name), Ports: []api.Port{}}
	for _, p := range svc.Ports {
		port := api.Port{ServicePort: p, Backends: []netip.AddrPort{}}
		for _, a := range svc.VIPs {
			port.Backends = append(port.Backends, backends[registry.Frontend{Addr: a, Port: p.Port, Protocol: p.Protocol}]...)
		}
		v.Ports = append(v.Ports, port)
	}
	return v
}
