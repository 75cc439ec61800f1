package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry/access"
)

// lockedBuffer is a log that a test reads while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default:
	}
	return b.text.Write(p)
}

// await returns when the log holds a text.
func (b *lockedBuffer) await(t *testing.T, text string) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		b.mu.Lock()
		has := strings.Contains(b.text.String(), text)
		b.mu.Unlock()
		if has {
			return
		}
		select {
		case <-b.more:
		case <-limit:
			t.Fatalf("the log never says %q", text)
		}
	}
}

// TestNetwork: an address that something else has is waited for, one that no device has is no trouble, and what is for this
// node only lets nobody else in.
func TestNetwork(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(taken.Addr().String())
	log := &lockedBuffer{more: make(chan struct{}, 1)}
	own := func(a netip.Addr) []netip.Addr {
		if a == netip.MustParseAddr("127.0.0.1") {
			return []netip.Addr{a}
		}
		return nil
	}
	n := network{
		name: "a test", addrs: []netip.AddrPort{at},
		// One of nobody here (RFC 5737): it can be bound, and nobody comes there.
		local:   []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("192.0.2.77"), at.Port()), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.53"), at.Port())},
		limiter: access.NewLimiter(access.Limits{}, own), own: own, log: slog.New(slog.NewTextHandler(log, nil)),
		handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }),
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.serve(ctx) }()
	log.await(t, "msg=listening for=\"a test\" address=192.0.2.77") // freebind
	log.await(t, "msg=listening for=\"a test\" address=127.0.0.53")
	log.await(t, "address already in use")
	taken.Close()
	log.await(t, "msg=listening for=\"a test\" address="+at.String())
	get := func(source, to string) (string, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
		c := &http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
		res, err := c.Get("http://" + netip.AddrPortFrom(netip.MustParseAddr(to), at.Port()).String())
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return string(b), err
	}
	for _, to := range []string{"127.0.0.1", "127.0.0.53"} {
		if answer, err := get("127.0.0.1", to); answer != "here" {
			t.Errorf("%s: %q, %v", to, answer, err)
		}
	}
	if answer, err := get("127.0.0.2", "127.0.0.1"); answer != "here" {
		t.Errorf("somebody at an address for everybody: %q, %v", answer, err)
	}
	if answer, err := get("127.0.0.2", "127.0.0.53"); err == nil {
		t.Errorf("somebody at an address for this node: %q", answer)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
