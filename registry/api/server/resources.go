package server

import (
	"fmt"
	"net/http"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/kube"
)

// resource is a kind of objects as the API has it.
type resource struct {
	kind  kind
	path  string   // of its list
	one   []string // paths of one object, below path
	keys  []string // of its lists' queries, beside listKeys
	wants func(*query, any) bool
	// show returns how the query wants to see an object.
	show func(*Server, *query) func(any) any
	// id of the object that a request's path names.
	id func(*http.Request) string
	// kinds of Kubernetes that can be put and deleted there; none: nothing can be.
	kinds []string
}

func resources() []*resource {
	named := func(r *http.Request) string { return joinID(r.PathValue("namespace"), r.PathValue("name")) }
	plain := func(r *http.Request) string { return r.PathValue("name") }
	return []*resource{
		{
			kind: kindService, path: "/v1/services", one: []string{"/{namespace}/{name}"}, keys: []string{"namespace", "as"},
			wants: (*query).wantsNamespace, show: showServices, id: named, kinds: []string{kube.Service},
		},
		{
			kind: kindSlice, path: "/v1/endpointslices", one: []string{"/{namespace}/{name}"}, keys: []string{"namespace", "as"},
			wants: (*query).wantsNamespace, show: showSlices, id: named, kinds: []string{kube.EndpointSlice},
		},
		{
			kind: kindPolicy, path: "/v1/policies", one: []string{"/{kind}/{name}", "/{kind}/{namespace}/{name}"},
			keys: []string{"namespace", "as", "containers"}, wants: (*query).wantsNamespace, show: showPolicies,
			id: func(r *http.Request) string {
				return joinID(r.PathValue("kind"), r.PathValue("namespace"), r.PathValue("name"))
			},
			kinds: []string{kube.NetworkPolicy, kube.AdminNetworkPolicy, kube.BaselineAdminNetworkPolicy},
		},
		{
			kind: kindNamespace, path: "/v1/namespaces", one: []string{"/{name}"}, keys: []string{"as"},
			show: showNamespaces, id: plain, kinds: []string{kube.Namespace},
		},
		{
			kind: kindEndpoint, path: "/v1/endpoints", one: []string{"/{node}/{container}/{interface}"}, keys: []string{"namespace", "node"},
			wants: (*query).wantsEndpoint, show: showPlain,
			id: func(r *http.Request) string {
				return joinID(r.PathValue("node"), r.PathValue("container"), r.PathValue("interface"))
			},
		},
		{
			kind: kindInstance, path: "/v1/instances", keys: []string{"namespace", "service", "status", "node"},
			wants: (*query).wantsInstance, show: showInstances,
		},
		{kind: kindNode, path: "/v1/nodes", one: []string{"/{name}"}, show: showNodes, id: plain},
	}
}

// route registers the handlers of all resources.
func (s *Server) route() {
	for _, res := range resources() {
		s.handleList(res)
		for _, one := range res.one {
			s.handle("GET "+res.path+one, func(r *http.Request) (any, error) { return s.get(res, r) })
			if len(res.kinds) > 0 {
				s.handleWrite("PUT "+res.path+one, func(r *http.Request) (any, error) { return s.put(res, r) })
				s.handleWrite("DELETE "+res.path+one, func(r *http.Request) (any, error) { return s.delete(res, r) })
			}
		}
	}
}

// get shows one object.
func (s *Server) get(res *resource, r *http.Request) (any, error) {
	q, err := parseQuery(res.kind, r.URL.Query(), res.keys...)
	if err != nil {
		return nil, err
	}
	if err := s.View.told(r.Context()); err != nil {
		return nil, err
	}
	object := s.View.get(res.kind, res.id(r))
	if object == nil && res.kind == kindNamespace {
		object = s.lyingIn(r.PathValue("name"))
	}
	if object == nil {
		return nil, &api.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("%s: not found", res.named(r))}
	}
	return res.show(s, q)(object), nil
}

// named is how people call what a path names.
func (res *resource) named(r *http.Request) string {
	switch res.kind {
	case kindNode:
		return "node " + r.PathValue("name")
	case kindEndpoint:
		return "endpoint " + r.PathValue("node") + "/" + r.PathValue("container") + "/" + r.PathValue("interface")
	}
	return res.kubeID(r).String()
}

// kubeID is the object of a path.
func (res *resource) kubeID(r *http.Request) kube.ID {
	id := kube.ID{Name: pathName(r)}
	if id.Kind = r.PathValue("kind"); id.Kind == "" && len(res.kinds) > 0 {
		id.Kind = res.kinds[0]
	}
	return id
}

// target is the object of a path that is to be written.
func (res *resource) target(r *http.Request) (kube.ID, error) {
	id := res.kubeID(r)
	if _, ok := id.Policy(); res.kind == kindPolicy && (!ok || kube.Namespaced(id.Kind) != (id.Namespace != "")) {
		return id, &api.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("no such policy: %s (want NetworkPolicy/NAMESPACE/NAME or KIND/NAME)", r.URL.Path)}
	}
	return id, nil
}

// put writes the one object of the body, in Kubernetes' words, which has to be the one that the path names.
func (s *Server) put(res *resource, r *http.Request) (any, error) {
	id, err := res.target(r)
	if err != nil {
		return nil, err
	}
	body, err := readBody(r, MaxBody)
	if err != nil {
		return nil, err
	}
	objects, err := kube.Parse(body)
	if err != nil {
		return nil, faults(err)
	}
	if len(objects) != 1 {
		return nil, invalid("the body has %d objects: want one, %s", len(objects), id)
	}
	if o := objects[0]; o.ID() != id {
		return nil, &api.Error{
			Status: http.StatusUnprocessableEntity, Message: "nothing was changed: the path names another object",
			Details: []api.Detail{{Line: o.Line("metadata"), Field: "metadata", Reason: fmt.Sprintf("%s, and the path says %s", o.ID(), id)}},
		}
	}
	return s.writeAll(r.Context(), objects)
}

func (s *Server) delete(res *resource, r *http.Request) (any, error) {
	id, err := res.target(r)
	if err != nil {
		return nil, err
	}
	if id.Kind == kube.Service {
		return s.deleteService(r)
	}
	return s.deleteOne(r, id)
}

// wantsNamespace applies the query's namespace. What is of the whole cluster is of every one.
func (q *query) wantsNamespace(object any) bool {
	namespace := ""
	switch o := object.(type) {
	case *registry.Service:
		namespace = o.Namespace
	case *registry.Slice:
		namespace = o.Namespace
	case *registry.Policy:
		namespace = o.Namespace
	}
	want := q.values.Get("namespace")
	return want == "" || namespace == "" || namespace == want
}

func (q *query) wantsEndpoint(object any) bool {
	e := object.(*registry.Endpoint)
	namespace, node := q.values.Get("namespace"), q.values.Get("node")
	return (namespace == "" || e.Name.Namespace == namespace) && (node == "" || e.Node == node)
}

func showPlain(*Server, *query) func(any) any { return func(object any) any { return object } }

func showServices(s *Server, q *query) func(any) any {
	return func(object any) any {
		if svc := object.(*registry.Service); q.kubernetes {
			return kube.ToService(*svc)
		} else {
			return s.view(*svc)
		}
	}
}

func showSlices(_ *Server, q *query) func(any) any {
	return func(object any) any {
		if slice := object.(*registry.Slice); q.kubernetes {
			return kube.ToSlice(*slice)
		} else {
			return normal(*slice)
		}
	}
}

func showNodes(s *Server, q *query) func(any) any {
	at := s.Catalog.EndpointsByNode()
	return func(object any) any {
		n := object.(*node)
		if q.watch {
			at = s.Catalog.EndpointsByNode() // as it is by now
		}
		return api.Node{Node: *n.Node, Endpoints: at[n.Node.Name], Agent: n.agent}
	}
}

func showNamespaces(_ *Server, q *query) func(any) any {
	return func(object any) any {
		n := *object.(*registry.Namespace)
		if q.kubernetes {
			return kube.ToNamespace(n)
		}
		n.Labels = registry.NamespaceLabels(&n)
		return n
	}
}

func showPolicies(s *Server, q *query) func(any) any {
	containers := q.values.Get("containers") == "true"
	return func(object any) any {
		p := object.(*registry.Policy)
		switch {
		case q.kubernetes:
			o := kube.ToPolicy(p)
			o.Status = api.PolicyStatus{Containers: s.selected(p.PolicyID)}
			return o
		case containers:
			selected := s.selected(p.PolicyID)
			return api.Policy{Policy: *p, Selected: len(selected), PolicyStatus: api.PolicyStatus{Containers: selected}}
		}
		return api.Policy{Policy: *p, Selected: s.Catalog.SelectedCount(p.PolicyID)}
	}
}
