package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/registry/api/server"
)

// scene is an agent that tells prepared events and traces.
type scene struct {
	t      *testing.T
	socket string
	events []*registry.Event
	flow   registry.TraceFlow
}

type sceneStream struct {
	ctx    context.Context
	events []*registry.Event
}

func (s *scene) Events(registry.EventFilter, []registry.EndpointID) (server.EventStream, error) {
	return &sceneStream{s.t.Context(), s.events}, nil
}

func (s *sceneStream) Next(ctx context.Context) (*registry.Event, error) {
	if len(s.events) == 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	e := s.events[0]
	s.events = s.events[1:]
	return e, nil
}

func (s *sceneStream) Close() {}

func (s *scene) Why(registry.Probe) (registry.TraceFlow, error) { return s.flow, nil }

func newScene(t *testing.T) *scene {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &scene{t: t, socket: filepath.Join(dir, "sock")}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	catalog := registry.NewCatalog("")
	catalog.Apply(registry.Batch{Revision: 1, Snapshot: true, Changes: []registry.Change{{Endpoint: &registry.Endpoint{
		EndpointID: registry.EndpointID{Node: "n1", ContainerID: "c1", Interface: "eth0"},
		Name:       registry.Name{Namespace: "shop", Name: "client"}, Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.5")},
	}}}})
	h := httptest.NewUnstartedServer(server.New(server.Options{Catalog: catalog, Observer: s, Version: api.Version{Node: "n1"}}))
	h.Listener.Close()
	h.Listener = l
	h.Start()
	t.Cleanup(h.Close)
	return s
}

// sluice runs a command line with its output into out.
func (s *scene) sluice(ctx context.Context, out io.Writer, args ...string) (code int, stderr string) {
	s.t.Helper()
	var errs bytes.Buffer
	code = run(ctx, args, environment{
		stdin: strings.NewReader(""), stdout: out, stderr: &errs, getenv: func(string) string { return s.socket },
	})
	return code, errs.String()
}

func (s *scene) expect(code int, out, errs string, args ...string) {
	s.t.Helper()
	var b bytes.Buffer
	gotCode, gotErrs := s.sluice(s.t.Context(), &b, args...)
	if gotCode != code || b.String() != out || gotErrs != errs {
		s.t.Errorf("sluice %s: exit %d, want %d\nstdout:\n%s\nwant:\n%s\nstderr:\n%s\nwant:\n%s",
			strings.Join(args, " "), gotCode, code, b.String(), out, gotErrs, errs)
	}
}

func party(workload, addr string, port uint16) registry.Party {
	p := registry.Party{Kind: registry.PartyWorld, Port: port}
	if addr != "" {
		p.Address = netip.MustParseAddr(addr)
	}
	if namespace, name, is := strings.Cut(workload, "/"); is {
		p.Kind, p.Workload = registry.PartyContainer, &registry.Name{Namespace: namespace, Name: name}
	}
	return p
}

func denyAll() *registry.PolicyID {
	return &registry.PolicyID{Name: registry.Name{Namespace: "shop", Name: "deny-all"}}
}

func (s *scene) fill() {
	at := time.Date(2026, 11, 23, 12, 0, 0, 5e6, time.Local)
	client, db := party("shop/client", "10.244.1.5", 40000), party("shop/db", "10.244.1.6", 5432)
	block := party("", "2001:db8::9", 443)
	block.Kind, block.Group = registry.PartyBlock, "2001:db8::/32"
	node := party("", "192.0.2.1", 22)
	node.Kind = registry.PartyNode
	forged := party("", "10.9.9.9", 1)
	forged.Kind = registry.PartyForged
	s.events = []*registry.Event{
		{Type: registry.EventDrop, Reason: "ingress", Protocol: "TCP", Source: client, Destination: db, Policy: denyAll(),
			Service: &registry.Name{Namespace: "shop", Name: "sql"}},
		{Type: registry.EventVerdict, Direction: registry.Egress, Protocol: "UDP", Source: client, Destination: block},
		{Type: registry.EventLost, Lost: 12, Missed: 1},
		{Type: registry.EventAudit, Reason: "egress", Protocol: "ICMP", Source: node, Destination: party("", "203.0.113.7", 0)},
		{Type: registry.EventDrop, Reason: "spoofed", Protocol: "SCTP", Source: forged, Destination: db,
			Container: &registry.Name{Namespace: "shop", Name: "client"}},
		{Type: registry.EventDrop, Reason: "arp", Source: registry.Party{Kind: registry.PartyForged},
			Destination: registry.Party{Kind: registry.PartyWorld}, Interface: "sl01"},
		{Type: registry.EventLease, Reason: registry.LeaseLapsed, Service: &registry.Name{Namespace: "shop", Name: "sql"},
			Instance: &registry.InstanceID{Namespace: "shop", Service: "sql", ID: "host:1"}},
		{Type: registry.EventLease, Reason: registry.LeaseHeld, Service: &registry.Name{Namespace: "shop", Name: "sql"}},
	}
	for _, e := range s.events {
		e.Time = at
	}
}

func TestMonitor(t *testing.T) {
	s := newScene(t)
	s.fill()
	s.expect(0, `12:00:00.005  drop     ingress       tcp    shop/client:40000 -> shop/db:5432 by service shop/sql  NetworkPolicy shop/deny-all
12:00:00.005  verdict  allowed       udp6   shop/client:40000 -> [2001:db8::9]:443 (2001:db8::/32)
12:00:00.005  audit    egress        icmp   node:22 -> 203.0.113.7 (world)
12:00:00.005  drop     spoofed       sctp   shop/client as 10.9.9.9:1 -> shop/db:5432
12:00:00.005  drop     arp           -      interface sl01 -> -
12:00:00.005  lease    lapsed        -      shop/sql/host:1
12:00:00.005  lease    held          -      instances of shop/sql
`, `sluice: 12 events not reported: there were more than the kernel may report
sluice: 1 event not shown: this program was too slow
`, "monitor", "--count", "7")
	s.fill()
	var out bytes.Buffer
	if code, errs := s.sluice(t.Context(), &out, "monitor", "--count", "2", "-o", "json"); code != 0 || errs != "" {
		t.Errorf("exit %d: %s", code, errs)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var e registry.Event
	if err := json.Unmarshal([]byte(lines[0]), &e); len(lines) != 2 || err != nil || e.Policy.String() != "NetworkPolicy shop/deny-all" {
		t.Errorf("%d lines, %v, first %+v", len(lines), err, e)
	}
	out.Reset()
	if code, errs := s.sluice(t.Context(), &out, "monitor", "--count", "2", "-o", "yaml"); code != 0 || errs != "" ||
		strings.Count(out.String(), "---\n") != 2 || !strings.Contains(out.String(), "\n    name: deny-all\n") && !strings.Contains(out.String(), "\n  name: deny-all\n") {
		t.Errorf("exit %d: %s\n%s", code, errs, out.String())
	}
}

// TestMonitorEnds: an interrupt, and a reader that has seen enough, are no errors.
func TestMonitorEnds(t *testing.T) {
	s := newScene(t)
	s.fill()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		_, _ = io.ReadFull(r, make([]byte, 10))
		cancel()
		_, _ = io.Copy(io.Discard, r)
	}()
	if code, errs := s.sluice(ctx, w, "monitor"); code != 0 || strings.Contains(errs, "cancel") {
		t.Errorf("interrupted: exit %d: %s", code, errs)
	}
	if code, errs := s.sluice(t.Context(), failingWriter{syscall.EPIPE}, "monitor"); code != 0 || errs != "" {
		t.Errorf("broken pipe: exit %d: %s", code, errs)
	}
	if code, errs := s.sluice(t.Context(), failingWriter{syscall.ENOSPC}, "monitor"); code != 1 || !strings.Contains(errs, "no space") {
		t.Errorf("full disk: exit %d: %s", code, errs)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "stdout", Err: w.err}
}

func TestMonitorUsage(t *testing.T) {
	s := newScene(t)
	for _, args := range []string{
		"monitor x", "monitor --type drp", "monitor --port 99999", "monitor --proto tcpp", "monitor --from a/b/c", "monitor --count -1",
		"why", "why a", "why a b", "why a b:0", "why a b:x/tcp", "why a fd00::1:80", "why a b:70000", "why a b:80 c",
	} {
		var out bytes.Buffer
		code, errs := s.sluice(t.Context(), &out, strings.Fields(args)...)
		if code != 2 || out.Len() > 0 || !strings.Contains(errs, "--help") {
			t.Errorf("%s: exit %d, %s", args, code, errs)
		}
	}
	if code, errs := s.sluice(t.Context(), io.Discard, "monitor", "--verdicts", "nobody"); code != 1 || !strings.Contains(errs, `container "nobody": not found`) {
		t.Errorf("watch of nobody: exit %d: %s", code, errs)
	}
	if code, errs := s.sluice(t.Context(), io.Discard, "why", "nobody", "world:80"); code != 2 || !strings.Contains(errs, `"nobody": not found`) {
		t.Errorf("why of nobody: exit %d: %s", code, errs)
	}
}

func TestParseWhy(t *testing.T) {
	for to, want := range map[string]api.WhyQuery{
		"shop/db:5432":      {From: "a", To: "shop/db", Port: 5432, Protocol: "TCP"},
		"shop/db:5432/udp":  {From: "a", To: "shop/db", Port: 5432, Protocol: "UDP"},
		"10.1.1.1:80/sctp":  {From: "a", To: "10.1.1.1", Port: 80, Protocol: "SCTP"},
		"[fd00::1]:80":      {From: "a", To: "fd00::1", Port: 80, Protocol: "TCP"},
		"fd00::1/icmpv6":    {From: "a", To: "fd00::1", Protocol: "ICMPv6"},
		"shop/db/icmp":      {From: "a", To: "shop/db", Protocol: "ICMP"},
		"world:53/UDP":      {From: "a", To: "world", Port: 53, Protocol: "UDP"},
		"service/shop/w:80": {From: "a", To: "service/shop/w", Port: 80, Protocol: "TCP"},
	} {
		if got, err := parseWhy("a", to); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", to, got, err, want)
		}
	}
	if _, err := parseWhy("a", "b"); !errors.As(err, new(usage)) {
		t.Errorf("no port: %v", err)
	}
}

func TestWhy(t *testing.T) {
	s := newScene(t)
	client := party("shop/client", "10.244.1.5", 0)
	step := []registry.TraceStep{{Map: "subjects", Key: "identity 7", Value: "egress: open"}}
	s.flow = registry.TraceFlow{
		Source: client, Destination: party("", "203.0.113.7", 80), Verdict: registry.VerdictAllowed,
		Steps: []registry.TraceStep{{Map: "endpoints", Key: "10.244.1.5", Value: "endpoint 1"}},
		Targets: []registry.TraceTarget{{
			Party: party("", "203.0.113.7", 80), Verdict: registry.VerdictAllowed,
			Sides: []registry.TraceSide{{Direction: registry.Egress, Subject: "shop/client", Verdict: registry.VerdictAllowed, Steps: step}},
		}},
	}
	s.expect(0, `allowed: shop/client to 203.0.113.7:80/tcp
  shop/client (10.244.1.5) -> 203.0.113.7:80: allowed
      egress of shop/client: no policy
`, "", "why", "shop/client", "203.0.113.7:80")
	s.expect(0, `allowed: shop/client to 203.0.113.7:80/tcp
  shop/client (10.244.1.5) -> 203.0.113.7:80: allowed
      endpoints[10.244.1.5] = endpoint 1
      egress of shop/client: no policy
        subjects[identity 7] = egress: open
`, "", "why", "--steps", "shop/client", "203.0.113.7:80/TCP")

	reasons := []registry.TraceReason{
		{Policy: registry.PolicyID{Name: registry.Name{Namespace: "shop", Name: "web"}}, Rule: 1, Action: registry.Allow, Audit: true},
		{Policy: *denyAll(), Rule: -1, Action: registry.Deny},
	}
	s.flow = registry.TraceFlow{
		Source: client, Destination: party("", "10.96.0.5", 80), Service: &registry.Name{Namespace: "shop", Name: "web"},
		Verdict: registry.VerdictMixed, More: 1,
		Targets: []registry.TraceTarget{
			{Party: party("shop/web-0", "10.244.1.7", 8080), Verdict: registry.VerdictDenied, Reason: "ingress",
				Sides: []registry.TraceSide{
					{Direction: registry.Egress, Subject: "shop/client", Verdict: registry.VerdictAllowed, Policy: denyAll(), Disagreement: "they differ"},
					{Direction: registry.Ingress, Subject: "shop/web-0", Verdict: registry.VerdictDenied, Policy: denyAll(), Reasons: reasons},
				}},
			{Party: client, Verdict: registry.VerdictAllowed, Reason: "a container always reaches itself"},
		},
	}
	s.expect(1, `partly allowed: shop/client to 10.96.0.5:80/udp
  shop/client (10.244.1.5) -> 10.96.0.5:80, service shop/web: partly allowed
    backend shop/web-0:8080 (10.244.1.7): denied, by the receiver's ingress policies
      !!! maps and policies disagree: they differ
      egress of shop/client: allowed by NetworkPolicy shop/deny-all
      ingress of shop/web-0: NetworkPolicy shop/web, ingress rule 2: Allow (audit mode)
      ingress of shop/web-0: NetworkPolicy shop/deny-all closes it but for what its rules allow
    backend shop/client (10.244.1.5): allowed, a container always reaches itself
    and 1 backend more, not judged
`, "", "why", "shop/client", "10.96.0.5:80/udp")

	s.flow = registry.TraceFlow{
		Source: client, Destination: party("", "10.96.0.5", 80), Service: &registry.Name{Namespace: "shop", Name: "web"},
		Verdict: registry.VerdictAllowed,
		Choice: &registry.TraceChoice{
			Algorithm: registry.AlgorithmMaglev, Slots: 4, AffinityTimeout: 60,
			Affinity: []registry.TraceAffinity{
				{By: "address", Backend: netip.MustParseAddrPort("10.244.1.7:8080"), Seconds: 12},
				{By: "namespace", Ended: "the backend is gone"},
			},
			Draining: []netip.AddrPort{netip.MustParseAddrPort("10.244.1.9:8080")},
		},
		Targets: []registry.TraceTarget{
			{Party: party("shop/web-0", "10.244.1.7", 8080), Verdict: registry.VerdictAllowed, Slots: 3},
			{Party: party("shop/web-1", "10.244.1.8", 8080), Verdict: registry.VerdictAllowed, Slots: 1},
		},
	}
	s.expect(0, `allowed: shop/client to 10.96.0.5:80/tcp
  shop/client (10.244.1.5) -> 10.96.0.5:80, service shop/web: allowed
    chosen by maglev, a client stays for 60 s
      packets of this address stay with 10.244.1.7:8080 for 12 s
      sockets of its network namespace do not stay where they were: the backend is gone
    backend 10.244.1.9:8080 is draining: not chosen
    backend shop/web-0:8080 (10.244.1.7), 3 of 4 slots: allowed
    backend shop/web-1:8080 (10.244.1.8), 1 of 4 slots: allowed
`, "", "why", "shop/client", "10.96.0.5:80")

	s.flow = registry.TraceFlow{Source: client, Destination: party("", "10.96.0.5", 80), Verdict: registry.VerdictRefused, Reason: "the service has no backend"}
	s.expect(1, `refused: shop/client to 10.96.0.5:80/tcp
  shop/client (10.244.1.5) -> 10.96.0.5:80: refused, the service has no backend
`, "", "why", "shop/client", "10.96.0.5:80")
	var out bytes.Buffer
	if code, errs := s.sluice(t.Context(), &out, "why", "shop/client", "10.96.0.5:80", "-o", "json"); code != 1 || errs != "" {
		t.Errorf("exit %d: %s", code, errs)
	}
	var trace registry.Trace
	if err := json.Unmarshal(out.Bytes(), &trace); err != nil || trace.Verdict != registry.VerdictRefused || len(trace.Flows) != 1 {
		t.Errorf("%v: %+v", err, trace)
	}
}
