package etcd

import (
	"encoding/json"
	"net/netip"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// audit checks what must hold at every revision: each VIP of each service has a key that names the
// service, and there are no other VIP keys. It returns the services.
func audit(t testing.TB, s *Store) map[registry.Name]registry.Service {
	t.Helper()
	r, err := s.client.Get(t.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	services := map[registry.Name]registry.Service{}
	owners := map[netip.Addr]registry.Name{}
	for _, kv := range r.Kvs {
		switch k := string(kv.Key); {
		case len(k) > len(vipPrefix) && k[:len(vipPrefix)] == vipPrefix:
			var n registry.Name
			if err := json.Unmarshal(kv.Value, &n); err != nil {
				t.Errorf("%s: %v", k, err)
			}
			owners[netip.MustParseAddr(k[len(vipPrefix):])] = n
		case len(k) > len(servicePrefix) && k[:len(servicePrefix)] == servicePrefix:
			svc, err := decodeService(kv.Key, kv.Value)
			if err != nil {
				t.Errorf("%s: %v", k, err)
			}
			services[svc.Name] = svc
		}
	}
	for n, svc := range services {
		for _, a := range svc.VIPs {
			if owners[a] != n {
				t.Errorf("%s of service %s belongs to %q", a, n, owners[a])
			}
			delete(owners, a)
		}
	}
	for a, n := range owners {
		t.Errorf("%s belongs to %s, which does not have it", a, n)
	}
	return services
}
