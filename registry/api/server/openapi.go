package server

import (
	_ "embed"
	"net/http"

	sigsyaml "sigs.k8s.io/yaml"
)

// openAPI describes every path and document of the API.
//
//go:embed openapi.yaml
var openAPI []byte

func (s *Server) routeOpenAPI() {
	document, err := sigsyaml.YAMLToJSON(openAPI)
	if err != nil {
		panic(err) // of what was compiled in
	}
	s.on("GET /v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document) // the client has gone: nobody to tell
	})
}

// on registers a handler.
func (s *Server) on(pattern string, h http.HandlerFunc) {
	s.patterns = append(s.patterns, pattern)
	s.mux.HandleFunc(pattern, h)
}
