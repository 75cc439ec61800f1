package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
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
		result, rev, err := s.put(r.Context(), o, before[i])
		if err != nil {
			e := refusal(o, err)
			e.Results = out.Results
			return nil, e
		}
		revision = max(revision, rev)
		out.Results = append(out.Results, result)
	}
	s.synced(r.Context(), revision, &out)
	return out, nil
}

// put writes one object. before is what stood in its place.
func (s *Server) put(ctx context.Context, o kube.Object, before kube.Object) (api.Result, int64, error) {
	id := o.ID()
	out := api.Result{Kind: id.Kind, Name: id.Name, Action: api.Configured}
	var rev int64
	var err error
	var exists, same bool
	switch {
	case o.Service != nil:
		var stored registry.Service
		stored, rev, err = s.Store.PutService(ctx, *o.Service)
		out.VIPs = stored.VIPs
		exists = before.Service != nil
		same = exists && equal(before.Service.Service, stored)
	case o.Policy != nil:
		rev, err = s.Store.PutPolicy(ctx, *o.Policy)
		exists = before.Policy != nil
		same = exists && reflect.DeepEqual(before.Policy, o.Policy)
	default:
		rev, err = s.Store.PutNamespace(ctx, *o.Namespace)
		exists = before.Namespace != nil
		same = exists && maps.Equal(before.Namespace.Labels, o.Namespace.Labels)
	}
	if !exists {
		out.Action = api.Created
	} else if same {
		out.Action = api.Unchanged
	}
	return out, rev, err
}

// checkAll asks the store about every object. It returns the objects as they are now, empty where there
// is none.
func (s *Server) checkAll(ctx context.Context, objects []kube.Object) ([]kube.Object, error) {
	before := make([]kube.Object, len(objects))
	owners := map[netip.Addr]registry.Name{}
	var all *api.Error
	for i, o := range objects {
		old, err := s.checkOne(ctx, o, owners)
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
		before[i] = old
	}
	if all != nil {
		return nil, all
	}
	return before, nil
}

// checkOne asks the store about one object. owners holds the addresses that the objects before it ask for.
func (s *Server) checkOne(ctx context.Context, o kube.Object, owners map[netip.Addr]registry.Name) (kube.Object, error) {
	switch {
	case o.Policy != nil:
		old, exists, err := s.Store.CheckPolicy(ctx, *o.Policy)
		if !exists {
			return kube.Object{}, err
		}
		return kube.Object{Policy: &old}, err
	case o.Namespace != nil:
		old, exists, err := s.Store.CheckNamespace(ctx, *o.Namespace)
		if !exists {
			return kube.Object{}, err
		}
		return kube.Object{Namespace: &old}, err
	}
	old, exists, err := s.Store.CheckService(ctx, *o.Service)
	if err == nil {
		for _, a := range o.Service.VIPs {
			if other, taken := owners[a]; taken {
				err = fmt.Errorf("%w: %s is asked for by service %s too", registry.ErrVIPTaken, a, other)
			}
			owners[a] = o.Service.Name
		}
	}
	if !exists {
		return kube.Object{}, err
	}
	return kube.Object{Service: &registry.ServiceRequest{Service: old}}, err
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
		if len(o.Service.Families) == 0 {
			field = "spec.ipFamilyPolicy"
		}
	case errors.Is(err, registry.ErrInvalid):
	default:
		return e
	}
	noun := "service"
	switch {
	case o.Policy != nil:
		noun = "policy"
	case o.Namespace != nil:
		noun = "namespace"
	}
	return &api.Error{
		Status: e.Status, Message: "the registry refuses a " + noun,
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
	ids, err := kube.Names(body)
	if err != nil {
		return nil, faults(err)
	}
	var out api.Results
	var revision int64
	for _, id := range ids {
		rev, err := s.remove(r.Context(), id)
		action := api.Deleted
		if errors.Is(err, registry.ErrNotFound) {
			action = api.NotFound
		} else if err != nil {
			e := asError(err)
			e.Results = out.Results
			return nil, e
		}
		revision = max(revision, rev)
		out.Results = append(out.Results, api.Result{Kind: id.Kind, Name: id.Name, Action: action})
	}
	s.synced(r.Context(), revision, &out)
	return out, nil
}

func (s *Server) remove(ctx context.Context, id kube.ID) (int64, error) {
	if policy, ok := id.Policy(); ok {
		return s.Store.DeletePolicy(ctx, policy)
	}
	if id.Kind == kube.Namespace {
		return s.Store.DeleteNamespace(ctx, id.Name.Name)
	}
	return s.Store.DeleteService(ctx, id.Name)
}

// deleteOne answers a DELETE of one object.
func (s *Server) deleteOne(r *http.Request, id kube.ID) (any, error) {
	rev, err := s.remove(r.Context(), id)
	if err != nil {
		return nil, err
	}
	out := api.Results{Results: []api.Result{{Kind: id.Kind, Name: id.Name, Action: api.Deleted}}}
	s.synced(r.Context(), rev, &out)
	return out, nil
}
