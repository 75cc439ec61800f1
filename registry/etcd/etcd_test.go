package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
)

var defaultCIDRs = []string{"10.96.0.0/16", "fd00:10:96::/112"}

// logBuffer collects a logger's output.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func prefixes(t testing.TB, cidrs ...string) []netip.Prefix {
	t.Helper()
	var list []netip.Prefix
	for _, c := range cidrs {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// runDir is short: a test's own temporary directory may be too long for a socket.
func runDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func open(t testing.TB, cidrs ...string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{
		Dir: filepath.Join(t.TempDir(), "etcd"), Run: runDir(t), ServiceCIDRs: prefixes(t, cidrs...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func web(name string) registry.ServiceRequest {
	return registry.ServiceRequest{Service: registry.Service{
		Name:     registry.Name{Namespace: "default", Name: name},
		Selector: map[string]string{"app": name},
		Ports:    []registry.ServicePort{{Protocol: registry.TCP, Port: 80, TargetPort: 8080}},
	}}
}

func TestOpenWarnsOfNothing(t *testing.T) {
	var logs logBuffer
	dir, run := filepath.Join(t.TempDir(), "state", "etcd"), runDir(t)
	for range 2 {
		s, err := Open(t.Context(), Options{
			Dir: dir, Run: run, ServiceCIDRs: prefixes(t, defaultCIDRs...),
			Logger: slog.New(slog.NewTextHandler(&logs, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Health(t.Context()); err != nil {
			t.Error(err)
		}
		if _, _, err := s.PutService(t.Context(), web("web")); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if logs.String() != "" {
		t.Errorf("a quiet start and stop logs:\n%s", logs.String())
	}
}

// TestOpenAfterManyWrites: the second start says no more than the first.
func TestOpenAfterManyWrites(t *testing.T) {
	var logs logBuffer
	o := Options{Dir: filepath.Join(t.TempDir(), "etcd"), Run: runDir(t)}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(256)
	for i := range 8000 { // etcd lets 5000 entries pile up before it takes nothing more
		group.Go(func() error {
			_, err := s.client.Put(ctx, fmt.Sprint("/x/", i%100), "")
			return err
		})
	}
	if err := errors.Join(group.Wait(), s.Close()); err != nil {
		t.Fatal(err)
	}
	o.Logger = slog.New(slog.NewTextHandler(&logs, nil))
	if s, err = Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if said := logs.String(); strings.Contains(said, "failed to publish") {
		t.Errorf("said at start:\n%.500s", said)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	s, err := Open(t.Context(), Options{Dir: dir, Run: runDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	long := "/" + strings.Repeat("x", 120)
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"data in use", Options{Dir: dir, Run: runDir(t)}, "in use by another process"},
		{"long socket path", Options{Dir: dir, Run: long}, "the kernel allows 107"},
		{"relative run", Options{Dir: dir, Run: "run"}, "not an absolute path"},
		{"host bits", Options{Dir: dir, Run: "/r", ServiceCIDRs: prefixes(t, "10.0.0.1/8")}, "did you mean 10.0.0.0/8"},
		{"overlap", Options{Dir: dir, Run: "/r", ServiceCIDRs: prefixes(t, "10.0.0.0/8", "10.1.0.0/16")}, "overlap"},
	} {
		_, err := Open(context.Background(), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}
