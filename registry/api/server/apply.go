package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/kube"
)

// apply writes all objects of the body, or none: nothing is written before every one of them has
// been found good. Slices, namespaces and policies change all at once, and before the services.
func (s *Server) apply(r *http.Request) (any, error) {
	body, err := readBody(r, MaxBody)
	if err != nil {
		return nil, err
	}
	objects, err := kube.Parse(body)
	if err != nil {
		return nil, faults(err)
	}
	return s.writeAll(r.Context(), objects)
}

// writeAll writes all objects if the store would take every one of them.
func (s *Server) writeAll(ctx context.Context, objects []kube.Object) (any, error) {
	before, err := s.checkAll(ctx, objects)
	if err != nil {
		return nil, err
	}
	results := make([]api.Result, len(objects))
	revision, err := s.commit(ctx, objects, results)
	if err != nil {
		return nil, err
	}
	requests, places := services(objects)
	stored, rev, err := s.Store.PutServices(ctx, requests)
	for i, svc := range stored {
		action := api.Created
		if old := before[places[i]]; old != nil && equal(*old, svc) {
			action = api.Unchanged
		} else if old != nil {
			action = api.Configured
		}
		results[places[i]] = api.Result{Kind: kube.Service, Name: svc.Name, Action: action, VIPs: svc.VIPs}
	}
	if err != nil {
		e := asError(err)
		if len(stored) < len(places) {
			e = refusal(objects[places[len(stored)]], err)
		}
		e.Results = done(results)
		return nil, e
	}
	revision = max(revision, rev)
	out := api.Results{Results: results}
	s.synced(ctx, revision, &out)
	return out, nil
}

// services returns the services among some objects, and their places there.
func services(objects []kube.Object) (requests []registry.ServiceRequest, places []int) {
	for i, o := range objects {
		if o.Service != nil {
			requests, places = append(requests, *o.Service), append(places, i)
		}
	}
	return requests, places
}

// commit writes those objects that are no services, and fills in their results.
func (s *Server) commit(ctx context.Context, objects []kube.Object, results []api.Result) (int64, error) {
	var changes []registry.Change
	var places []int
	for i, o := range objects {
		if o.Service == nil {
			changes = append(changes, registry.Change{Slice: o.Slice, Namespace: o.Namespace, Policy: o.Policy})
			places = append(places, i)
		}
	}
	outcomes, revision, err := s.Store.Commit(ctx, changes)
	if err != nil {
		return 0, err
	}
	for i, place := range places {
		id := objects[place].ID()
		results[place] = api.Result{Kind: id.Kind, Name: id.Name, Action: string(outcomes[i])}
	}
	return revision, nil
}

// done leaves out the results of what was not done.
func done(results []api.Result) []api.Result {
	return slices.DeleteFunc(results, func(r api.Result) bool { return r.Action == "" })
}

// checkAll asks the store about every object. It returns the services as they are now, in the objects' places.
func (s *Server) checkAll(ctx context.Context, objects []kube.Object) ([]*registry.Service, error) {
	requests, places := services(objects)
	old, refused, err := s.Store.CheckServices(ctx, requests)
	if err != nil {
		return nil, err
	}
	before := make([]*registry.Service, len(objects))
	errs := make([]error, len(objects))
	others := newAsked()
	for i, place := range places {
		before[place], errs[place] = old[i], refused[i]
		if errs[place] == nil {
			errs[place] = others.add(&requests[i].Service)
		}
	}
	var all *api.Error
	for i, o := range objects {
		if o.Service == nil {
			errs[i] = s.Store.Check(registry.Change{Slice: o.Slice, Namespace: o.Namespace, Policy: o.Policy})
		}
		if errs[i] == nil {
			continue
		}
		e := refusal(o, errs[i])
		if e.Status >= 500 && e.Status != http.StatusInsufficientStorage {
			return nil, e
		}
		if all == nil {
			all = e
		} else {
			all.Details = append(all.Details, e.Details...)
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
	var at *registry.FieldError
	switch {
	case errors.As(err, &at):
		field = at.Field
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
	case o.Slice != nil:
		noun = "slice"
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

// equal compares services as they are stored.
func equal(a, b registry.Service) bool {
	before, err := json.Marshal(a)
	if err != nil {
		return false
	}
	after, err := json.Marshal(b)
	return err == nil && bytes.Equal(before, after)
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
	results := make([]api.Result, len(ids))
	revision, err := s.remove(r.Context(), ids, results)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		if id.Kind != kube.Service {
			continue
		}
		gone, rev, err := s.removeService(r.Context(), id.Name)
		switch {
		case errors.Is(err, registry.ErrNotFound):
			results[i].Action = api.NotFound
			continue
		case err != nil:
			e := asError(err)
			e.Results = done(results)
			return nil, e
		}
		revision = max(revision, rev)
		results[i] = gone[0]
		for _, slice := range gone[1:] {
			if !slices.Contains(ids, kube.ID{Kind: slice.Kind, Name: slice.Name}) { // or else it is told already
				results = append(results, slice)
			}
		}
	}
	out := api.Results{Results: results}
	s.synced(r.Context(), revision, &out)
	return out, nil
}

// remove deletes what is no service, all at once, and fills in the results. What is named twice is not
// found the second time.
func (s *Server) remove(ctx context.Context, ids []kube.ID, results []api.Result) (int64, error) {
	var changes []registry.Change
	var places []int
	seen := map[kube.ID]bool{}
	for i, id := range ids {
		results[i] = api.Result{Kind: id.Kind, Name: id.Name, Action: api.NotFound}
		if id.Kind == kube.Service {
			results[i].Action = ""
		} else if !seen[id] {
			changes = append(changes, deletion(id))
			places = append(places, i)
		}
		seen[id] = true
	}
	outcomes, revision, err := s.Store.Commit(ctx, changes)
	if err != nil {
		return 0, err
	}
	for i, place := range places {
		results[place].Action = string(outcomes[i])
	}
	return revision, nil
}

func deletion(id kube.ID) registry.Change {
	if policy, ok := id.Policy(); ok {
		return registry.Change{Policy: &registry.Policy{PolicyID: policy}, Deleted: true}
	}
	if id.Kind == kube.EndpointSlice {
		return registry.Change{Slice: &registry.Slice{Name: id.Name}, Deleted: true}
	}
	return registry.Change{Namespace: &registry.Namespace{Name: id.Name.Name}, Deleted: true}
}

// deleteOne answers a DELETE of one object that is no service.
func (s *Server) deleteOne(r *http.Request, id kube.ID) (any, error) {
	results := make([]api.Result, 1)
	revision, err := s.remove(r.Context(), []kube.ID{id}, results)
	if err != nil {
		return nil, err
	}
	if results[0].Action == api.NotFound {
		return nil, fmt.Errorf("delete %s: %w", id, registry.ErrNotFound)
	}
	out := api.Results{Results: results}
	s.synced(r.Context(), revision, &out)
	return out, nil
}
