package dns

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin/pkg/edns"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

// maxAliases bounds how many names in a row stand for others (ExternalName).
const maxAliases = 8

// errAliases: services stand for each other in a circle.
var errAliases = errors.New("too many names that stand for another")

// writer makes what is written fit what the client takes, and remembers what it was.
type writer struct {
	dns.ResponseWriter
	state request.Request
	kind  string // of the name that was asked for
	wrote bool
}

// WriteMsg implements dns.ResponseWriter.
func (w *writer) WriteMsg(m *dns.Msg) error {
	w.state.SizeAndDo(m)
	w.state.Scrub(m)
	w.wrote = true
	return w.ResponseWriter.WriteMsg(m)
}

// ServeDNS implements dns.Handler. The client has been let in by then.
func (s *Server) ServeDNS(rw dns.ResponseWriter, r *dns.Msg) {
	start := time.Now()
	w := &writer{ResponseWriter: rw, state: request.Request{W: rw, Req: r}, kind: kindNone}
	if o := r.IsEdns0(); o != nil && o.UDPSize() > maxUDP && w.state.Proto() == "udp" {
		o.SetUDPSize(maxUDP)
	}
	defer func() {
		// What a client sends must not end the agent, whichever library it trips over.
		if v := recover(); v != nil {
			s.metrics.panics.Inc()
			s.say("a query was not answered", fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
		}
	}()
	rcode, result := s.serve(w, r)
	s.metrics.count(w.kind, rcode, result, time.Since(start))
}

// serve answers one query and returns its code; result, when set, is what metrics call it instead.
func (s *Server) serve(w *writer, r *dns.Msg) (rcode int, result string) {
	if rcode := unfit(r); rcode != dns.RcodeSuccess {
		return s.refuse(w, r, rcode), ""
	}
	if m, err := edns.Version(r); err != nil {
		w.wrote = true
		_ = w.ResponseWriter.WriteMsg(m)
		return m.Rcode, ""
	}
	q := question{spelt: r.Question[0].Name, qtype: r.Question[0].Qtype, room: w.state.Size()}
	q.name = strings.ToLower(q.spelt)
	kind, reply, ok, synced := s.lookup(q)
	w.kind = kind
	switch {
	case !synced:
		return s.refuse(w, r, dns.RcodeServerFailure), ""
	case !ok:
		return s.forward(w, r), ""
	case reply.target != "":
		return s.chase(w, r, q, reply), ""
	}
	return s.answer(w, r, reply)
}

// unfit says what is wrong with a query that no name answers.
func unfit(r *dns.Msg) int {
	switch {
	case r.Opcode != dns.OpcodeQuery:
		return dns.RcodeNotImplemented
	case len(r.Question) != 1:
		return dns.RcodeFormatError
	case r.Question[0].Qclass != dns.ClassINET:
		return dns.RcodeRefused
	case r.Question[0].Qtype == dns.TypeAXFR || r.Question[0].Qtype == dns.TypeIXFR:
		return dns.RcodeRefused
	}
	return dns.RcodeSuccess
}

// lookup answers from the index. ok: it is ours to answer; synced: the registry has told what there is.
func (s *Server) lookup(q question) (kind string, r reply, ok, synced bool) {
	x := s.index.Load()
	if rest, in := below(q.name, s.zone.domain); in {
		if s.upstreams.probed(rest) {
			return kindDomain, s.zone.unknown(), true, true
		}
		if x == nil {
			return kindDomain, r, true, false
		}
		x.mu.RLock()
		defer x.mu.RUnlock()
		return kindDomain, s.zone.find(x, q, rest), true, true
	}
	addr, in, reversed := reverseAddr(q.name)
	switch {
	case !reversed || !addr.IsValid():
		return kindOther, r, false, true
	case x == nil:
		owned := s.zone.owns(addr)
		return kindReverse, r, owned, !owned
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	r, ok = s.zone.reverse(x, q, addr, in)
	return kindReverse, r, ok, true
}

// answer writes what the index says.
func (s *Server) answer(w *writer, r *dns.Msg, reply reply) (int, string) {
	m := s.message(r, reply)
	result := ""
	if reply.rcode == dns.RcodeSuccess && len(reply.answer) == 0 {
		result = resultNoData
	}
	if err := w.WriteMsg(m); err != nil {
		// A name in the registry that no message can carry, as a rule: the client is told rather than left to wait.
		s.say("an answer was not sent", err)
		return s.refuse(w, r, dns.RcodeServerFailure), ""
	}
	return reply.rcode, result
}

func (s *Server) message(r *dns.Msg, reply reply) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(r)
	m.Rcode, m.Authoritative, m.RecursionAvailable = reply.rcode, true, s.upstreams.any()
	m.Answer, m.Extra = reply.answer, reply.extra
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{s.zone.soa(reply.soa, s.Revision())}
	}
	return m
}

// refuse answers with a code and nothing else.
func (s *Server) refuse(w *writer, r *dns.Msg, rcode int) int {
	m := new(dns.Msg)
	m.SetRcode(r, rcode)
	m.RecursionAvailable = s.upstreams.any()
	_ = w.WriteMsg(m)
	return rcode
}

// chase answers with a name that stands for another, and with what that one has.
func (s *Server) chase(w *writer, r *dns.Msg, q question, reply reply) int {
	m := s.message(r, reply)
	for n := 0; reply.target != ""; n++ {
		if n == maxAliases {
			s.say("a name was not followed", fmt.Errorf("%s: %w", q.name, errAliases))
			return s.refuse(w, r, dns.RcodeServerFailure)
		}
		q.spelt = reply.target
		q.name = strings.ToLower(reply.target)
		var ok, synced bool
		if _, reply, ok, synced = s.lookup(q); !synced {
			return s.refuse(w, r, dns.RcodeServerFailure)
		}
		if !ok {
			return s.finish(w, r, m, q)
		}
		m.Answer = append(m.Answer, reply.answer...)
		m.Rcode = reply.rcode // that of the last name (RFC 6604, 3)
		if len(reply.answer) == 0 {
			m.Ns = []dns.RR{s.zone.soa(reply.soa, s.Revision())}
		}
	}
	_ = w.WriteMsg(m)
	return m.Rcode
}

// finish asks other servers for the name at the end of a chain.
func (s *Server) finish(w *writer, r, m *dns.Msg, q question) int {
	ask := r.Copy()
	ask.Question[0].Name = q.spelt
	box := nonwriter.New(w.ResponseWriter)
	if rcode := s.exchange(box, ask, func() bool { return box.Msg != nil }); rcode != dns.RcodeSuccess || box.Msg == nil {
		if !s.upstreams.any() {
			_ = w.WriteMsg(m) // nobody here can know more: the client may
			return m.Rcode
		}
		return s.refuse(w, r, dns.RcodeServerFailure)
	}
	m.Rcode, m.Truncated = box.Msg.Rcode, box.Msg.Truncated
	m.Answer = append(m.Answer, box.Msg.Answer...)
	if len(box.Msg.Answer) == 0 {
		m.Ns = box.Msg.Ns // how long it is not there (RFC 2308, 2.1)
	}
	m.Authoritative = false
	_ = w.WriteMsg(m)
	return m.Rcode
}

// forward asks other servers.
func (s *Server) forward(w *writer, r *dns.Msg) int {
	box := &recorder{writer: w}
	if rcode := s.exchange(box, r, func() bool { return w.wrote }); !w.wrote {
		return s.refuse(w, r, rcode)
	}
	return box.rcode
}

// recorder remembers the code of what another server said.
type recorder struct {
	*writer
	rcode int
}

// WriteMsg implements dns.ResponseWriter.
func (w *recorder) WriteMsg(m *dns.Msg) error {
	w.rcode = m.Rcode
	return w.writer.WriteMsg(m)
}

// exchange has w written by the plugins, and returns the code to answer with if it was not.
func (s *Server) exchange(w dns.ResponseWriter, r *dns.Msg, wrote func() bool) int {
	source := addrOf(w.RemoteAddr())
	if !s.gate.enter(source) {
		s.metrics.crowded.Inc()
		return dns.RcodeRefused
	}
	defer s.gate.leave(source)
	rcode, err := s.upstreams.serve(context.Background(), w, r)
	switch {
	case err != nil:
		s.say("other servers did not answer", err)
		return dns.RcodeServerFailure
	case !wrote() && rcode == dns.RcodeSuccess:
		return dns.RcodeServerFailure
	}
	return rcode
}
