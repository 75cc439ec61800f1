package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnreachable: an error says what is wrong with the socket and what to do.
func TestUnreachable(t *testing.T) {
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for socket, want := range map[string]string{
		filepath.Join(dir, "none"): "is sluiced running",
		stale:                      "nobody listens",
	} {
		_, err := NewClient(socket).Status(t.Context())
		var away *UnreachableError
		if !errors.As(err, &away) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), socket) {
			t.Errorf("%s: %v, want %q", socket, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewClient(stale).Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// TestStrangeAnswers: whoever answers at the socket, the client returns an error.
func TestStrangeAnswers(t *testing.T) {
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var status int
	var body string
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	s.Listener.Close()
	if s.Listener, err = net.Listen("unix", filepath.Join(dir, "sock")); err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.Close()
	c := NewClient(filepath.Join(dir, "sock"))
	defer c.Close()
	for _, answer := range []struct {
		status int
		body   string
		want   string
	}{
		{500, "<html>", "agent answered 500"},
		{404, `{"detail":"service x: not found"}`, "service x: not found"},
		{422, `{"detail":"faults","details":[{"line":3,"field":"spec.x","reason":"unknown field"}]}`, "faults\n3: spec.x: unknown field"},
		{200, "garbage", "read the agent's answer to GET /v1/status"},
	} {
		status, body = answer.status, answer.body
		if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), answer.want) {
			t.Errorf("answer %d %s: %v, want %q", answer.status, answer.body, err, answer.want)
		}
	}
}
