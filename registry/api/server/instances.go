package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/api"
)

// kindInstanceName is the Kind of results about instances.
const kindInstanceName = "Instance"

func (s *Server) routeInstances() {
	if s.Registrar == nil {
		return
	}
	s.handle("POST /v1/instances", s.register)
	s.handle("GET /v1/instances/{namespace}/{service}/{id}", s.instance)
	s.handle("PUT /v1/instances/{namespace}/{service}/{id}", s.register)
	s.handle("PATCH /v1/instances/{namespace}/{service}/{id}", s.patchInstance)
	s.handle("DELETE /v1/instances/{namespace}/{service}/{id}", s.deregister)
	s.handle("POST /v1/instances/{namespace}/{service}/{id}/heartbeat", s.heartbeat)
	s.handle("PUT /v1/instances/{namespace}/{service}/{id}/override", s.override)
	s.handle("DELETE /v1/instances/{namespace}/{service}/{id}/override", s.override)
}

func (q *query) wantsInstance(object any) bool {
	i := object.(*instance)
	for key, is := range map[string]string{
		"namespace": i.Namespace, "service": i.Service, "status": string(i.Effective()), "node": i.Node,
	} {
		if want := q.values.Get(key); want != "" && want != is {
			return false
		}
	}
	return true
}

func showInstances(*Server, *query) func(any) any {
	return func(object any) any { return object.(*instance).shown() }
}

func (s *Server) instance(r *http.Request) (any, error) {
	i, err := s.known(r, pathInstance(r))
	if err != nil {
		return nil, err
	}
	return i.shown(), nil
}

// known returns an instance once it is known which there are.
func (s *Server) known(r *http.Request, id registry.InstanceID) (*instance, error) {
	if err := s.View.told(r.Context()); err != nil {
		return nil, err
	}
	return s.View.instance(id)
}

func pathInstance(r *http.Request) registry.InstanceID {
	return registry.InstanceID{Namespace: r.PathValue("namespace"), Service: r.PathValue("service"), ID: r.PathValue("id")}
}

// register writes an instance that is in the body; what the path names need not be.
func (s *Server) register(r *http.Request) (any, error) {
	var i registry.Instance
	if err := readRequest(r, "instance", &i); err != nil {
		return nil, err
	}
	caller := s.caller(r)
	if err := fillInstance(r, caller, &i); err != nil {
		return nil, err
	}
	if err := caller.MayRegister(i.Addresses); err != nil {
		return nil, err
	}
	// Whoever registers an id anew alters what has it. The store asks again: this copy may lag behind it.
	var before []registry.HealthCheck
	if old, err := s.View.instance(i.InstanceID); err == nil {
		if err := caller.MayAlter(old.Instance); err != nil {
			return nil, err
		}
		before = old.Checks
	} else if err := caller.MayAdd(&i); err != nil {
		return nil, err
	}
	if err := caller.MayCheck(i.Checks, before); err != nil {
		return nil, err
	}
	stored, revision, err := s.Registrar.Register(registry.WithMayAlter(r.Context(), caller.MayAlter), i)
	if err != nil {
		return nil, err
	}
	return s.instanceResult(r, stored, api.Registered, revision), nil
}

// fillInstance takes from the path, the request's source and the defaults what the body leaves out.
func fillInstance(r *http.Request, caller access.Caller, i *registry.Instance) error {
	id := pathInstance(r)
	for _, part := range []struct {
		name string
		into *string
		path string
	}{{"namespace", &i.Namespace, id.Namespace}, {"service", &i.Service, id.Service}, {"id", &i.ID, id.ID}} {
		if part.path != "" && *part.into != "" && *part.into != part.path {
			return invalid("%s: %.64q, and the path says %.64q", part.name, *part.into, part.path)
		}
		if part.path != "" {
			*part.into = part.path
		}
	}
	if i.Namespace == "" {
		i.Namespace = "default"
	}
	if i.Status == "" {
		i.Status = registry.InstanceUp
	}
	if !i.Registered.IsZero() || !i.Updated.IsZero() || len(i.Eureka) > 0 {
		return invalid("registered, updated, eureka: cannot be set here")
	}
	if len(i.Addresses) > 0 {
		return nil
	}
	if !caller.Source.IsValid() || caller.Source.IsLoopback() || caller.MayRegister([]netip.Addr{caller.Source}) != nil {
		return invalid("addresses: want at least one: it is not to be seen where the request comes from")
	}
	i.Addresses = []netip.Addr{caller.Source}
	return nil
}

func invalid(format string, args ...any) error {
	return &api.Error{Status: http.StatusUnprocessableEntity, Message: fmt.Sprintf(format, args...)}
}

// heartbeat renews a lease. It answers as soon as the store has; there is nothing for the maps to reflect.
func (s *Server) heartbeat(r *http.Request) (any, error) {
	id := pathInstance(r)
	i, err := s.known(r, id)
	if err != nil {
		return nil, err
	}
	if err := s.caller(r).MayAlter(i.Instance); err != nil {
		return nil, err
	}
	return nil, s.Registrar.Renew(r.Context(), id)
}

// patchInstance changes an instance by a JSON merge patch.
func (s *Server) patchInstance(r *http.Request) (any, error) {
	body, err := readBody(r, maxSmallBody)
	if err != nil {
		return nil, err
	}
	patch, err := parsePatch(body)
	if err != nil {
		return nil, err
	}
	return s.updateInstance(r, func(i *registry.Instance) error {
		next, err := patched(i, patch)
		if err == nil {
			*i = *next
		}
		return err
	})
}

// override sets or ends what an operator says of an instance.
func (s *Server) override(r *http.Request) (any, error) {
	var req api.OverrideRequest
	if r.Method == http.MethodPut {
		if err := readRequest(r, "override", &req); err != nil {
			return nil, err
		}
		if req.Status == "" {
			return nil, invalid("status: want one of %v", registry.InstanceStatuses())
		}
	}
	return s.updateInstance(r, func(i *registry.Instance) error {
		i.Override = req.Status
		return nil
	})
}

// updateInstance changes an instance that the caller may alter into one that it may register.
func (s *Server) updateInstance(r *http.Request, edit func(*registry.Instance) error) (any, error) {
	caller := s.caller(r)
	stored, revision, err := s.Registrar.Update(r.Context(), pathInstance(r), func(i *registry.Instance) error {
		if err := caller.MayAlter(i); err != nil {
			return err
		}
		before := slices.Clone(i.Checks)
		if err := edit(i); err != nil {
			return err
		}
		if err := caller.MayCheck(i.Checks, before); err != nil {
			return err
		}
		return caller.MayRegister(i.Addresses)
	})
	if err != nil {
		return nil, err
	}
	return s.instanceResult(r, stored, api.Updated, revision), nil
}

func (s *Server) deregister(r *http.Request) (any, error) {
	id := pathInstance(r)
	i, err := s.known(r, id)
	if err != nil {
		return nil, err
	}
	caller := s.caller(r)
	if err := caller.MayAlter(i.Instance); err != nil {
		return nil, err
	}
	revision, err := s.Registrar.Deregister(registry.WithMayAlter(r.Context(), caller.MayAlter), id)
	if err != nil {
		return nil, err
	}
	out := api.Results{Results: []api.Result{{Kind: kindInstanceName, Name: resultName(id), Action: api.Gone}}}
	s.synced(r.Context(), revision, &out)
	return out, nil
}

func (s *Server) instanceResult(r *http.Request, i registry.Instance, action string, revision int64) api.Results {
	out := api.Results{Results: []api.Result{{Kind: kindInstanceName, Name: resultName(i.InstanceID), Action: action, Instance: &i}}}
	s.synced(r.Context(), revision, &out)
	return out
}

func resultName(id registry.InstanceID) registry.Name {
	return registry.Name{Namespace: id.Namespace, Name: id.Service + "/" + id.ID}
}

// parsePatch reads a JSON merge patch of an object (RFC 7386).
func parsePatch(body []byte) (map[string]json.RawMessage, error) {
	var patch map[string]json.RawMessage
	if err := json.Unmarshal(body, &patch); err != nil || patch == nil {
		return nil, badRequest("read patch: want a JSON object with the fields to change")
	}
	return patch, nil
}

// fixedFields of an instance are not for a patch.
func fixedFields() []string {
	return []string{"namespace", "service", "id", "lease", "registered", "updated", "eureka"}
}

// patched returns an instance as a merge patch leaves it: null takes a field away, an object changes the named
// members of a map, all else replaces.
func patched(i *registry.Instance, patch map[string]json.RawMessage) (*registry.Instance, error) {
	for given := range patch {
		for _, field := range fixedFields() {
			if strings.EqualFold(given, field) { // as encoding/json would take it
				return nil, invalid("%s: cannot be changed: register the instance again", field)
			}
		}
	}
	before, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(before, &fields); err != nil {
		return nil, err
	}
	for field, value := range patch {
		if field == "metadata" {
			if value, err = mergeMap(fields[field], value); err != nil {
				return nil, err
			}
		}
		if string(value) == "null" {
			delete(fields, field)
			continue
		}
		fields[field] = value
	}
	after, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	next := new(registry.Instance)
	return next, strictJSON(after, "instance", next)
}

// mergeMap merges a patch of a map of texts.
func mergeMap(old, patch json.RawMessage) (json.RawMessage, error) {
	var now map[string]string
	var change map[string]*string
	if err := json.Unmarshal(patch, &change); err != nil {
		return nil, invalid("metadata: want an object of texts, null for those that go")
	}
	if change == nil {
		return patch, nil
	}
	if len(old) > 0 {
		if err := json.Unmarshal(old, &now); err != nil {
			return nil, err
		}
	}
	if now == nil {
		now = map[string]string{}
	}
	for k, v := range change {
		if v == nil {
			delete(now, k)
		} else {
			now[k] = *v
		}
	}
	return json.Marshal(now)
}
