package etcd

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
)

// audit fails the test unless the addresses and node ports that services have are exactly those that the store says
// they have, and no two have the same. It returns the services.
func audit(t testing.TB, s *Store) map[registry.Name]registry.Service {
	t.Helper()
	r, err := s.client.Get(t.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	services := map[registry.Name]registry.Service{}
	stored, want := map[string][]holding{}, map[string][]holding{}
	old := map[string]bool{}
	for _, kv := range r.Kvs {
		switch k := string(kv.Key); {
		case strings.HasPrefix(k, vipPrefix), strings.HasPrefix(k, nodePortPrefix):
			if stored[k], old[k], err = parseHolders(kv.Value); err != nil {
				t.Errorf("%s: %v", k, err)
			}
		case strings.HasPrefix(k, servicePrefix):
			svc, err := decodeService(kv.Key, kv.Value)
			if err != nil {
				t.Errorf("%s: %v", k, err)
			}
			services[svc.Name] = svc
			for k, h := range footprint(&svc) {
				if _, err := conflict(k, h, want[k]); err != nil {
					t.Errorf("service %s: %v", svc.Name, err)
				}
				want[k] = append(want[k], h)
			}
		}
	}
	byName := func(a, b holding) int { return registry.CompareNames(a.Name, b.Name) }
	for k := range want {
		slices.SortFunc(want[k], byName)
		slices.SortFunc(stored[k], byName)
		if old[k] && len(want[k]) == 1 && want[k][0].Name == stored[k][0].Name {
			stored[k] = want[k]
		}
		if !reflect.DeepEqual(stored[k], want[k]) {
			t.Errorf("%s belongs to %+v, want %+v", k, stored[k], want[k])
		}
		delete(stored, k)
	}
	for k, list := range stored {
		t.Errorf("%s belongs to %+v, which do not have it", k, list)
	}
	return services
}
