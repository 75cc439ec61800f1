// Package eurekatest runs the server of Eureka's protocol on a real store, for tests.
package eurekatest

import (
	"context"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/etcd"
	"github.com/sluice-net/sluice/registry/eureka"
)

// Token is one that may write everything.
const Token = "eureka-test-token-0123456789"

// Server is one that runs until the test ends.
type Server struct {
	*eureka.Server
	// URL is http://127.0.0.1:PORT, without a path.
	URL   string
	Store *etcd.Store
	Hub   *registry.Hub
}

// Start runs a server at a free port of loopback. What of o is not set is a store of its own, and a guard that knows
// Token and lets whoever comes from loopback register at loopback and at the addresses in own. o may be nil.
func Start(t testing.TB, o *eureka.Options, own ...netip.Addr) *Server {
	t.Helper()
	s := &Server{Store: openStore(t)}
	s.Hub = registry.NewHub(s.Store, registry.HubOptions{})
	options := eureka.Options{}
	if o != nil {
		options = *o
	}
	if options.Source == nil {
		options.Source = s.Hub
	}
	if options.Registrar == nil {
		options.Registrar, options.Registry = s.Store, s.Store.ID
	}
	if options.Guard == nil {
		options.Guard = guard(t, own)
	}
	if options.Node == "" {
		options.Node = "node1"
	}
	s.Server = eureka.New(options)
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := s.Hub.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	group.Go(func() { s.Run(ctx) })
	l := httptest.NewServer(s.Server)
	t.Cleanup(func() {
		l.Close()
		stop()
		group.Wait()
	})
	s.URL = l.URL
	if err := s.Wait(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return s
}

func openStore(t testing.TB) *etcd.Store {
	t.Helper()
	run, err := os.MkdirTemp("", "sl") // a test's own directory may have too long a name for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	s, err := etcd.Open(t.Context(), etcd.Options{
		Dir: filepath.Join(t.TempDir(), "etcd"), Run: run,
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func guard(t testing.TB, own []netip.Addr) *access.Guard {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("test "+Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := access.OpenTokens(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &access.Guard{Tokens: tokens, Own: func(from netip.Addr) []netip.Addr {
		if !from.IsLoopback() {
			return nil
		}
		return append([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, own...)
	}}
}
