package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// shutdownPatience bounds how long requests may go on after SIGTERM.
	shutdownPatience = 5 * time.Second
	// unusedPatience is how long a connection may then go without a request.
	unusedPatience = 100 * time.Millisecond
	readTimeout    = 30 * time.Second // of a request, header and body
	idleTimeout    = 2 * time.Minute  // of a connection between requests
	maxHeader      = 16 << 10         // bytes
)

// serveHTTP answers requests until ctx ends, and then lets those under way finish.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	return serveUntil(ctx, newHTTPServer(h, log), l, log)
}

func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadTimeout:       readTimeout,
		ReadHeaderTimeout: readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// serveUntil runs a server until ctx ends.
func serveUntil(ctx context.Context, s *http.Server, l net.Listener, log *slog.Logger) error {
	unused := unusedConns{conns: map[net.Conn]struct{}{}}
	s.ConnState = unused.turn
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownPatience)
	defer cancel()
	defer time.AfterFunc(unusedPatience, unused.close).Stop()
	if err := s.Shutdown(patience); err != nil {
		log.Warn("requests were cut off", "address", l.Addr().String(), "error", err)
		s.Close()
	}
	return nil
}

// unusedConns are the connections on which no request has begun. Shutdown takes such a one for idle only
// five seconds after it came (net/http, closeIdleConns), and clients make some that they never use: Go's
// transport does whenever another connection becomes free while it dials.
type unusedConns struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// turn follows a server's connections.
func (u *unusedConns) turn(c net.Conn, state http.ConnState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if state == http.StateNew {
		u.conns[c] = struct{}{}
	} else {
		delete(u.conns, c)
	}
}

// close closes them.
func (u *unusedConns) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for c := range u.conns {
		c.Close()
	}
}
