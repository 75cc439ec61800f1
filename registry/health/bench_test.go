package health

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sluice-net/sluice/registry"
)

// BenchmarkProbe makes a check of each type; the server's share is counted too.
func BenchmarkProbe(b *testing.B) {
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer web.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, grpchealth.NewServer())
	go server.Serve(l)
	defer server.Stop()
	for kind, at := range map[registry.CheckType]net.Addr{
		registry.CheckTCP: web.Listener.Addr(), registry.CheckHTTP: web.Listener.Addr(), registry.CheckGRPC: l.Addr(),
	} {
		b.Run(string(kind), func(b *testing.B) {
			to := netip.MustParseAddrPort(at.String())
			c := registry.HealthCheck{Type: kind, Port: to.Port()}
			w := &watched{Instance: &registry.Instance{}, addrs: []netip.Addr{to.Addr()}}
			t := &task{of: w, check: &c, subject: newSubject(w, &c)}
			b.ReportAllocs()
			for b.Loop() {
				if err := probe(b.Context(), t); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRegistry follows a registry where one of 10 000 checked instances changes.
func BenchmarkRegistry(b *testing.B) {
	k := newKeeper(New(Options{Node: "here"}), nil)
	all := []registry.Change{lease("here", false), lease("there", false)}
	for n := range 10_000 {
		all = append(all, instance(n, ""))
	}
	k.apply(registry.Batch{Revision: 1, Snapshot: true, Changes: all})
	b.ReportAllocs()
	for i := int64(0); b.Loop(); i++ {
		ch := instance(int(i%10_000), "")
		ch.Instance.Weight = new(uint16(i % 256))
		k.apply(registry.Batch{Revision: 2 + i, Changes: []registry.Change{ch}})
	}
}
