package server

import (
	"fmt"
	"net/http"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/kube"
)

// policies shows those of one namespace, or all; those of the whole cluster are always among them.
func (s *Server) policies(r *http.Request) (any, error) {
	kubernetes, err := asKubernetes(r)
	if err != nil {
		return nil, err
	}
	query := r.URL.Query()
	namespace, containers := query.Get("namespace"), query.Get("containers") == "true"
	list := api.List[any]{Items: []any{}}
	for _, p := range s.Catalog.Policies() {
		switch {
		case namespace != "" && p.Namespace != "" && p.Namespace != namespace:
		case kubernetes:
			o := kube.ToPolicy(&p)
			o.Status = api.PolicyStatus{Containers: s.selected(p.PolicyID)}
			list.Items = append(list.Items, o)
		case containers:
			selected := s.selected(p.PolicyID)
			list.Items = append(list.Items, api.Policy{Policy: p, Selected: len(selected), PolicyStatus: api.PolicyStatus{Containers: selected}})
		default:
			list.Items = append(list.Items, api.Policy{Policy: p, Selected: s.Catalog.SelectedCount(p.PolicyID)})
		}
	}
	return list, nil
}

// selected names the containers that a policy is about.
func (s *Server) selected(id registry.PolicyID) []api.Container {
	all := s.Catalog.Selected(id)
	list := make([]api.Container, len(all))
	for i, e := range all {
		list[i] = api.Container{Name: e.Name, EndpointID: e.EndpointID}
	}
	return list
}

func (s *Server) deletePolicy(r *http.Request) (any, error) {
	id := kube.ID{Kind: r.PathValue("kind"), Name: pathName(r)}
	if _, ok := id.Policy(); !ok || kube.Namespaced(id.Kind) != (id.Namespace != "") {
		return nil, &api.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("no such policy: %s (want NetworkPolicy/NAMESPACE/NAME or KIND/NAME)", r.URL.Path)}
	}
	return s.deleteOne(r, id)
}

func (s *Server) namespaces(r *http.Request) (any, error) {
	kubernetes, err := asKubernetes(r)
	if err != nil {
		return nil, err
	}
	list := api.List[any]{Items: []any{}}
	for _, n := range s.Catalog.Namespaces() {
		if kubernetes {
			list.Items = append(list.Items, kube.ToNamespace(n))
		} else {
			n.Labels = registry.NamespaceLabels(&n)
			list.Items = append(list.Items, n)
		}
	}
	return list, nil
}

func (s *Server) deleteNamespace(r *http.Request) (any, error) {
	return s.deleteOne(r, kube.ID{Kind: kube.Namespace, Name: registry.Name{Name: r.PathValue("name")}})
}
