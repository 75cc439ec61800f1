package server

import (
	"net/http"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/kube"
)

// slices shows those of one namespace, or all.
func (s *Server) slices(r *http.Request) (any, error) {
	kubernetes, err := asKubernetes(r)
	if err != nil {
		return nil, err
	}
	list := api.List[any]{Items: []any{}}
	namespace := r.URL.Query().Get("namespace")
	for _, slice := range s.Catalog.Slices() {
		switch {
		case namespace != "" && slice.Namespace != namespace:
		case kubernetes:
			list.Items = append(list.Items, kube.ToSlice(slice))
		default:
			list.Items = append(list.Items, normal(slice))
		}
	}
	return list, nil
}

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

func (s *Server) deleteSlice(r *http.Request) (any, error) {
	return s.deleteOne(r, kube.ID{Kind: kube.EndpointSlice, Name: pathName(r)})
}
