package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestServeEnds: when the agent is told to end, a connection that nobody uses does not keep it, and a request
// under way is answered.
func TestServeEnds(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	begun, answer := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-answer
		io.WriteString(w, "whole")
	})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serveHTTP(ctx, l, h, slog.New(slog.DiscardHandler)) }()

	dial := func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", l.Addr().String()) }
	unused, err := dial(ctx, "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer unused.Close()
	got := make(chan error, 1)
	client := http.Client{Transport: &http.Transport{DialContext: dial}}
	go func() {
		r, err := client.Get("http://agent/")
		if err == nil {
			var body []byte
			body, err = io.ReadAll(r.Body)
			r.Body.Close()
			if err == nil && string(body) != "whole" {
				err = errors.New("the answer is " + string(body))
			}
		}
		got <- err
	}()
	<-begun
	stop()
	// Shutdown itself would close it after five seconds, no sooner.
	if err := unused.SetReadDeadline(time.Now().Add(4 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := unused.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the unused connection: %v", err)
	}
	close(answer)
	if err := errors.Join(<-got, <-served); err != nil {
		t.Error(err)
	}
}
