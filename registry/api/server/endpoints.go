package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/kube"
)

const (
	maxLabels = 64 // changed by one request
	minPrefix = 4  // of a container id
)

// label changes the labels of every interface of one container.
func (s *Server) label(r *http.Request) (any, error) {
	var req api.LabelRequest
	if err := readRequest(r, "label", &req); err != nil {
		return nil, err
	}
	if e := checkLabels(req); e != nil {
		return nil, e
	}
	list, err := find(s.Catalog.Endpoints(), req.Container)
	if err != nil {
		return nil, err
	}
	var out api.Results
	var revision int64
	for _, e := range list {
		rev, err := s.Store.LabelEndpoint(r.Context(), e.EndpointID, req.Set, req.Remove)
		if err != nil {
			return nil, err
		}
		revision = max(revision, rev)
	}
	s.synced(r.Context(), revision, &out)
	labels := maps.Clone(list[0].Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, req.Set)
	for _, k := range req.Remove {
		delete(labels, k)
	}
	out.Results = []api.Result{{Kind: "Endpoint", Name: list[0].Name, Action: api.Labelled, Labels: labels}}
	return out, nil
}

// mark changes conditions of every interface of one container.
func (s *Server) mark(r *http.Request) (any, error) {
	var req api.MarkRequest
	if err := readRequest(r, "mark", &req); err != nil {
		return nil, err
	}
	if req.Unready == nil && req.Terminating == nil {
		return nil, &api.Error{Status: http.StatusUnprocessableEntity, Message: "nothing was changed: want unready, terminating or both"}
	}
	list, err := find(s.Catalog.Endpoints(), req.Container)
	if err != nil {
		return nil, err
	}
	var out api.Results
	var revision int64
	for _, e := range list {
		now, rev, err := s.Store.MarkEndpoint(r.Context(), e.EndpointID, req.Marks)
		if err != nil {
			return nil, err
		}
		revision = max(revision, rev)
		out.Results = []api.Result{{Kind: "Endpoint", Name: now.Name, Action: api.Marked, Conditions: api.EndpointConditions(&now)}}
	}
	s.synced(r.Context(), revision, &out)
	return out, nil
}

// readRequest reads a small JSON document, of which it must know every field.
func readRequest(r *http.Request, what string, into any) error {
	body, err := readBody(r, maxSmallBody)
	if err != nil {
		return err
	}
	return strictJSON(body, what, into)
}

// strictJSON reads one JSON document, of which it must know every field.
func strictJSON(body []byte, what string, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &api.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("read %s request: %s", what, err)}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &api.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("read %s request: more than one JSON document", what)}
	}
	return nil
}

// checkLabels applies Kubernetes' rules.
func checkLabels(req api.LabelRequest) error {
	e := &api.Error{Status: http.StatusUnprocessableEntity, Message: "nothing was changed: the labels have faults"}
	bad := func(field string, reasons []string) {
		if len(reasons) > 0 {
			e.Details = append(e.Details, api.Detail{Field: field, Reason: kube.Explain(reasons)})
		}
	}
	if n := len(req.Set) + len(req.Remove); n == 0 || n > maxLabels {
		bad("", []string{fmt.Sprintf("%d labels to change: want 1 to %d", n, maxLabels)})
	}
	reserved := func(k string) {
		if k == registry.NetworkLabel {
			bad(k, []string{"every container has this label: its value is the name of the container's network and cannot be changed"})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(req.Set)) {
		reserved(k)
		bad(k, validation.IsQualifiedName(k))
		bad(k, validation.IsValidLabelValue(req.Set[k]))
		if _, err := registry.ParseWeight(req.Set[k]); k == registry.WeightLabel && err != nil {
			bad(k, []string{err.Error()})
		}
	}
	for _, k := range req.Remove {
		reserved(k)
		bad(k, validation.IsQualifiedName(k))
		if _, both := req.Set[k]; both {
			bad(k, []string{"set and removed at once"})
		}
	}
	if len(e.Details) > 0 {
		return e
	}
	return nil
}

// find returns the endpoints of the one container that is meant: by id, by workload name, by the
// beginning of its id, whichever fits first.
func find(all []registry.Endpoint, container string) ([]registry.Endpoint, error) {
	for _, fits := range []func(registry.Endpoint) bool{
		func(e registry.Endpoint) bool { return e.ContainerID == container },
		func(e registry.Endpoint) bool { return e.Name.String() == container },
		func(e registry.Endpoint) bool { return e.Name.Name == container },
		func(e registry.Endpoint) bool {
			return len(container) >= minPrefix && strings.HasPrefix(e.ContainerID, container)
		},
	} {
		var list []registry.Endpoint
		ids := map[string]string{}
		for _, e := range all {
			if fits(e) {
				list = append(list, e)
				ids[e.Node+"/"+e.ContainerID] = fmt.Sprintf("%s (container %s on %s)", e.Name, e.ContainerID, e.Node)
			}
		}
		if len(ids) > 1 {
			e := &api.Error{Status: http.StatusConflict, Message: fmt.Sprintf("container %q means any of %d", container, len(ids))}
			for _, text := range slices.Sorted(maps.Values(ids)) {
				if e.Details = append(e.Details, api.Detail{Reason: text}); len(e.Details) == 10 {
					break
				}
			}
			return nil, e
		}
		if len(list) > 0 {
			return list, nil
		}
	}
	return nil, &api.Error{Status: http.StatusNotFound, Message: fmt.Sprintf(
		"container %q: not found (want an id or %d letters of its beginning, NAMESPACE/NAME, or NAME; see \"sluice get endpoints -A\")", container, minPrefix)}
}
