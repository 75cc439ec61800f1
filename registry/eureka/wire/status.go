package wire

import (
	"maps"
	"slices"
)

// Server is what a server tells of itself.
type Server struct {
	General map[string]string // free words
	// The peers that it tells of changes: all of them, those that answered last, and those that did not, each as
	// addresses with a comma behind each.
	Replicas, Available, Unavailable string
	Instance                         *Instance // that the server is; may be nil
}

// AppendServer writes what GET status answers.
func (f Format) AppendServer(b []byte, s *Server) []byte {
	replicas := []struct{ key, value string }{
		{"registered-replicas", s.Replicas},
		{"available-replicas", s.Available},
		{"unavailable-replicas", s.Unavailable},
	}
	if f.XML {
		p := printer{b: b, pretty: true}
		p.open("com.netflix.eureka.util.StatusInfo")
		p.open("generalStats")
		for _, key := range slices.Sorted(maps.Keys(s.General)) {
			p.element(escapeName(key), s.General[key])
		}
		p.close("generalStats")
		p.open("applicationStats")
		for _, r := range replicas {
			p.element(r.key, r.value)
		}
		p.close("applicationStats")
		if s.Instance != nil {
			p.open("instanceInfo")
			p.full(s.Instance)
			p.close("instanceInfo")
		}
		p.close("com.netflix.eureka.util.StatusInfo")
		return p.b
	}
	o := objectWriter{b: append(b, '{')}
	o.key("generalStats")
	o.strings(s.General)
	o.key("applicationStats")
	o.b = append(o.b, '{')
	for _, r := range replicas {
		o.text(r.key, r.value)
	}
	o.b = append(o.b, '}')
	if s.Instance != nil {
		o.key("instanceInfo")
		o.b = appendFull(o.b, s.Instance)
	}
	return append(o.b, '}')
}

// AppendOverrides writes what GET serverinfo/statusoverrides answers: the statuses that operators set, by instance.
func AppendOverrides(b []byte, overrides map[string]Status) []byte {
	o := objectWriter{b: b}
	texts := make(map[string]string, len(overrides))
	for id, s := range overrides {
		texts[id] = string(s)
	}
	o.strings(texts)
	return o.b
}
