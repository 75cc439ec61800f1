package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// description is the API's OpenAPI document, as it is served.
type description struct {
	document any
	compiler *jsonschema.Compiler
	mu       sync.Mutex
	schemas  map[string]*jsonschema.Schema
}

// describe reads the document from a server.
func describe(t *testing.T, s *Server) *description {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/openapi.json", nil))
	document, err := jsonschema.UnmarshalJSON(w.Body)
	if w.Code != http.StatusOK || err != nil {
		t.Fatalf("the document: %d, %v", w.Code, err)
	}
	d := &description{document: document, compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	d.compiler.DefaultDraft(jsonschema.Draft2020) // OpenAPI 3.1, 4.8.24
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource("openapi.json", document); err != nil {
		t.Fatal(err)
	}
	return d
}

// at walks down the document.
func (d *description) at(keys ...string) (any, bool) {
	v := d.document
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[k]; !ok {
			return nil, false
		}
	}
	return v, true
}

// schema compiles the one at a place of the document.
func (d *description) schema(t *testing.T, keys ...string) *jsonschema.Schema {
	t.Helper()
	var b strings.Builder
	for _, k := range keys {
		b.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(k))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.schemas[b.String()]; s != nil {
		return s
	}
	s, err := d.compiler.Compile("openapi.json#" + b.String())
	if err != nil {
		t.Fatalf("schema at %s: %v", b.String(), err)
	}
	d.schemas[b.String()] = s
	return s
}

// check compares an answer with what the document says of it.
func (d *description) check(t *testing.T, s *Server, r *http.Request, status int, contentType string, body []byte) {
	t.Helper()
	_, pattern := s.mux.Handler(r)
	if pattern == "/" {
		pattern = "GET /v1/healthz" // for its problems
	}
	method, path, _ := strings.Cut(pattern, " ")
	place := []string{"paths", path, strings.ToLower(method), "responses"}
	if status == http.StatusNoContent {
		if _, ok := d.at(append(place, "204")...); !ok || len(body) > 0 {
			t.Errorf("%s: no answer is not described", pattern)
		}
		return
	}
	place = append(place, fmt.Sprint(status))
	if status >= 400 {
		place = []string{"components", "responses", "Problem"}
	}
	contentType, _, _ = strings.Cut(contentType, ";")
	place = append(place, "content", contentType, "schema")
	if _, ok := d.at(place...); !ok {
		t.Errorf("%s: status %d with %s is not described", pattern, status, contentType)
		return
	}
	schema := d.schema(t, place...)
	for line := range bytes.Lines(body) {
		if contentType == "text/plain" {
			return
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
		if err == nil {
			err = schema.Validate(v)
		}
		if err != nil {
			t.Errorf("%s: status %d: %s\n%v", pattern, status, line, err)
		}
	}
}

// TestOpenAPIRoutes: the document has each path that is served, and none else; all that it refers to is there.
func TestOpenAPIRoutes(t *testing.T) {
	f := serve(t)
	full := New(Options{
		Store: f.store, Catalog: f.store.catalog, Agent: f.agent, Registrar: f.store, View: f.store.view,
		Observer: &fakeObserver{}, Metrics: http.NotFoundHandler(), Keeper: fakeKeeper{},
	})
	d := describe(t, full)
	paths, _ := d.at("paths")
	var described []string
	for path, methods := range paths.(map[string]any) {
		for method := range methods.(map[string]any) {
			described = append(described, strings.ToUpper(method)+" "+path)
		}
	}
	served := slices.Clone(full.patterns)
	slices.Sort(described)
	slices.Sort(served)
	if !slices.Equal(described, served) {
		t.Errorf("described:\n%s\nserved:\n%s", strings.Join(described, "\n"), strings.Join(served, "\n"))
	}
	schemas, _ := d.at("components", "schemas")
	for name := range schemas.(map[string]any) {
		d.schema(t, "components", "schemas", name)
	}
	eachRef(d.document, func(ref string) {
		if _, ok := d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...); !ok {
			t.Errorf("nothing is at %s", ref)
		}
	})
	for _, pattern := range described {
		method, path, _ := strings.Cut(pattern, " ")
		list, _ := d.at("paths", path, strings.ToLower(method), "parameters")
		for part := range strings.SplitSeq(path, "/") {
			if name, is := strings.CutPrefix(part, "{"); is && !d.hasParameter(list, strings.TrimSuffix(name, "}")) {
				t.Errorf("%s: %s is not described", pattern, part)
			}
		}
	}
}

func (d *description) hasParameter(list any, name string) bool {
	refs, _ := list.([]any)
	for _, r := range refs {
		ref := r.(map[string]any)["$ref"].(string)
		p, _ := d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		if m := p.(map[string]any); m["name"] == name && m["in"] == "path" {
			return true
		}
	}
	return false
}

func eachRef(v any, do func(string)) {
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			do(ref)
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			eachRef(v[k], do)
		}
	case []any:
		for _, one := range v {
			eachRef(one, do)
		}
	}
}

// TestOpenAPIQueries: what the lists take is what the document says that they take.
func TestOpenAPIQueries(t *testing.T) {
	d := describe(t, serve(t).server)
	for _, res := range resources() {
		var described []string
		list, _ := d.at("paths", res.path, "get", "parameters")
		refs, _ := list.([]any)
		for _, r := range refs {
			p, _ := d.at(strings.Split(strings.TrimPrefix(r.(map[string]any)["$ref"].(string), "#/"), "/")...)
			described = append(described, p.(map[string]any)["name"].(string))
		}
		taken := append(listKeys(), res.keys...)
		slices.Sort(described)
		slices.Sort(taken)
		if !slices.Equal(described, taken) {
			t.Errorf("%s: described %v, taken %v", res.path, described, taken)
		}
	}
}

// TestOpenAPIRequests: what clients of ours send is what the document wants, and what it refuses is not.
func TestOpenAPIRequests(t *testing.T) {
	d := describe(t, serve(t).server)
	registration := d.schema(t, "components", "schemas", "Registration")
	weight := uint16(7)
	body, err := json.Marshal(registry.Instance{
		InstanceID: registry.InstanceID{Namespace: "a", Service: "b", ID: "c"}, Addresses: nil, Weight: &weight,
		Ports: []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 80}}, Status: registry.InstanceUp,
		Checks: []registry.HealthCheck{{Type: registry.CheckHTTP, Path: "/", Status: []int{204}, Interval: 5}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		string(body): true, web1: true, `{}`: true, `{"bogus":1}`: false, `{"status":"SLEEPING"}`: false, `{"ports":[{"port":0}]}`: false, `{"eureka":{}}`: false,
	} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := registration.Validate(v); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	mark := d.schema(t, "components", "schemas", "MarkRequest")
	b, err := json.Marshal(api.MarkRequest{Container: "c", Marks: registry.Marks{Unready: new(bool)}})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b)); err != nil || mark.Validate(v) != nil {
		t.Errorf("%s: %v, %v", b, err, mark.Validate(v))
	}
}

// fakeKeeper is a store of which nobody asks for the whole.
type fakeKeeper struct{ Keeper }
