package etcd

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"

	"github.com/sluice-net/sluice/registry"
)

func TestMetrics(t *testing.T) {
	s := openWith(t, Options{keep: true, ServiceCIDRs: prefixes(t, "10.96.0.0/24")})
	put(t, s, web("web"))
	for n := range 2 {
		register(t, s, instance("web", n))
	}
	if err := s.Renew(t.Context(), instance("web", 0).InstanceID); err != nil {
		t.Fatal(err)
	}
	lapse(t, s, instance("web", 1).InstanceID)
	knownLapsed(t, s, instance("web", 1).InstanceID)
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(s.Collector()); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	faults, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(faults) > 0 {
		t.Errorf("lint: %v, %v", faults, err)
	}
	var text bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{
		"sluice_registry_up 1", `sluice_registry_vips{range="10.96.0.0/24"} 1`, `sluice_registry_vips_limit{range="10.96.0.0/24"} 254`,
		"sluice_registry_invalid_values_total 0", "sluice_registry_instances 2", "sluice_registry_renewals_total 1",
		`sluice_registry_expiries_held{namespace="default",service="web"} 1`, "sluice_registry_renewals_owed 0",
	} {
		if !strings.Contains(text.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, text.String())
		}
	}
}

// TestFullRegistry fills the database to its quota with old revisions: writes fail, Health says so,
// reads go on, and maintenance makes it whole.
func TestFullRegistry(t *testing.T) {
	s, err := Open(t.Context(), Options{
		Dir: filepath.Join(t.TempDir(), "etcd"), Run: runDir(t), Quota: 4 << 20,
		ServiceCIDRs: prefixes(t, defaultCIDRs...),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, web("web"))
	large := endpoint(1)
	for i := 0; err == nil; i++ {
		if i > 1000 {
			t.Fatal("the quota is not kept")
		}
		large.Labels = map[string]string{"x": strings.Repeat(fmt.Sprint(i%10), 100<<10)}
		_, err = s.PutEndpoint(t.Context(), large)
	}
	if err := s.Health(t.Context()); !contains(err, "NOSPACE") {
		t.Errorf("health of a full registry: %v", err)
	}
	if list, err := s.Endpoints(t.Context(), "n1"); err != nil || len(list) != 1 {
		t.Errorf("a full registry reads %d endpoints, %v", len(list), err)
	}
	if err := s.relieve(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
	put(t, s, web("more"))
}

func TestDefragment(t *testing.T) {
	s := open(t, defaultCIDRs...)
	large := endpoint(1)
	var rev int64
	var err error
	for i := range 40 {
		large.Labels = map[string]string{"x": strings.Repeat(fmt.Sprint(i%10), 100<<10)}
		if rev, err = s.PutEndpoint(t.Context(), large); err != nil {
			t.Fatal(err)
		}
	}
	s.server.Server.Backend().ForceCommit() // only what is committed counts for its size
	before := s.server.Server.Backend().Size()
	if err := s.compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	// What a compaction frees is free in the file once a later commit has written so.
	for deadline := time.Now().Add(30 * time.Second); s.server.Server.Backend().Size() > before/2 && time.Now().Before(deadline); {
		s.server.Server.Backend().ForceCommit()
		if err := s.defragment(1); err != nil {
			t.Fatal(err)
		}
	}
	if after := s.server.Server.Backend().Size(); after > before/2 {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	if list, err := s.Endpoints(t.Context(), "n1"); err != nil || len(list) != 1 {
		t.Errorf("%d endpoints, %v", len(list), err)
	}
}

func TestValuesAreBounded(t *testing.T) {
	s := open(t, defaultCIDRs...)
	large := endpoint(1)
	large.Labels = map[string]string{"x": strings.Repeat("x", maxValue)}
	if _, err := s.PutEndpoint(t.Context(), large); !contains(err, "more than the 262144 allowed") {
		t.Errorf("a huge endpoint: %v", err)
	}
	req := web("web")
	req.Labels = large.Labels
	if _, _, err := s.PutService(t.Context(), req); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("a huge service: %v", err)
	}
}
