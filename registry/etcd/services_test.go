package etcd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}

func put(t testing.TB, s *Store, req registry.ServiceRequest) (registry.Service, int64) {
	t.Helper()
	svc, rev, err := s.PutService(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return svc, rev
}

func dual(name string) registry.ServiceRequest {
	req := web(name)
	req.FamilyPolicy = registry.RequireDualStack
	return req
}

func TestServiceKeepsItsVIPs(t *testing.T) {
	s := open(t, defaultCIDRs...)
	first, rev := put(t, s, dual("web"))
	if len(first.VIPs) != 2 || !first.VIPs[0].Is4() || !first.VIPs[1].Is6() {
		t.Fatalf("VIPs %v, want one of each family, IPv4 first", first.VIPs)
	}
	again, rev2 := put(t, s, dual("web"))
	if !reflect.DeepEqual(first, again) || rev2 != rev {
		t.Errorf("written again: %+v at %d, want %+v at %d", again, rev2, first, rev)
	}
	changed := dual("web")
	changed.Ports[0].TargetPort = 9090
	changed.VIPs = first.VIPs[:1] // naming what it has is fine
	got, rev3 := put(t, s, changed)
	if !slices.Equal(got.VIPs, first.VIPs) || got.Ports[0].TargetPort != 9090 || rev3 <= rev {
		t.Errorf("changed: %+v at %d", got, rev3)
	}
	single, _ := put(t, s, web("web"))
	if !slices.Equal(single.VIPs, first.VIPs[:1]) {
		t.Errorf("single-stack: VIPs %v, want %v", single.VIPs, first.VIPs[:1])
	}
	taker := web("taker")
	taker.VIPs = first.VIPs[1:]
	if got, _ := put(t, s, taker); !slices.Equal(got.VIPs, first.VIPs[1:]) {
		t.Errorf("a released VIP asked for: %v, want %v", got.VIPs, first.VIPs[1:])
	}
	audit(t, s)
	if _, err := s.DeleteService(t.Context(), single.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteService(t.Context(), single.Name); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("deleting twice: %v", err)
	}
	if n := len(audit(t, s)); n != 1 {
		t.Errorf("%d services are left, want 1", n)
	}
}

func TestServiceRefused(t *testing.T) {
	s := open(t, "10.96.0.0/24", "fd00:10:96::/112")
	four := open(t, "10.96.0.0/24")
	taken := web("taken")
	taken.VIPs = addrs("10.96.0.7")
	put(t, s, taken)
	headless := web("headless")
	headless.Headless = true
	put(t, s, headless)
	for _, c := range []struct {
		name  string
		store *Store
		edit  func(*registry.ServiceRequest)
		want  error
		text  string
	}{
		{"another's", s, func(r *registry.ServiceRequest) { r.VIPs = addrs("10.96.0.7") }, registry.ErrVIPTaken, "port 80/TCP of 10.96.0.7 belongs to service default/taken"},
		{"out of range", s, func(r *registry.ServiceRequest) { r.VIPs = addrs("10.97.0.7") }, registry.ErrVIPOutOfRange, "10.96.0.0/24, fd00:10:96::/112"},
		{"network", s, func(r *registry.ServiceRequest) { r.VIPs = addrs("10.96.0.0") }, registry.ErrVIPOutOfRange, ""},
		{"broadcast", s, func(r *registry.ServiceRequest) { r.VIPs = addrs("10.96.0.255") }, registry.ErrVIPOutOfRange, ""},
		{"IPv6 network", s, func(r *registry.ServiceRequest) { r.VIPs = addrs("fd00:10:96::") }, registry.ErrVIPOutOfRange, ""},
		{"change of family", s, func(r *registry.ServiceRequest) {
			r.Name = taken.Name
			r.Families = []registry.Family{registry.IPv6}
		}, registry.ErrVIPImmutable, "cannot become one of IPv6"},
		{"to headless", s, func(r *registry.ServiceRequest) { r.Name = taken.Name; r.Headless = true }, registry.ErrVIPImmutable, "headless"},
		{"from headless", s, func(r *registry.ServiceRequest) { r.Name = headless.Name }, registry.ErrVIPImmutable, "headless"},
		{"headless VIP", s, func(r *registry.ServiceRequest) { r.Headless = true; r.VIPs = addrs("10.96.0.8") }, registry.ErrInvalid, ""},
		{"family mismatch", s, func(r *registry.ServiceRequest) {
			r.VIPs = addrs("10.96.0.8")
			r.Families = []registry.Family{registry.IPv6}
		}, registry.ErrFamily, "10.96.0.8 is not an IPv6 address"},
		{"one family twice", s, func(r *registry.ServiceRequest) { r.VIPs = addrs("10.96.0.8", "10.96.0.9") }, registry.ErrFamily, ""},
		{"no range", four, func(r *registry.ServiceRequest) { r.Families = []registry.Family{registry.IPv6} }, registry.ErrFamily, "no IPv6 range"},
		{"dual on single", four, func(r *registry.ServiceRequest) { r.FamilyPolicy = registry.RequireDualStack }, registry.ErrFamily, "both families"},
		{"no name", s, func(r *registry.ServiceRequest) { r.Name.Name = "" }, registry.ErrInvalid, "empty name"},
		{"slash", s, func(r *registry.ServiceRequest) { r.Name.Name = "a/b" }, registry.ErrInvalid, "'/'"},
		{"too large", s, func(r *registry.ServiceRequest) { r.Labels = map[string]string{"a": strings.Repeat("x", maxValue)} }, registry.ErrInvalid, "more than the 262144"},
		{"port 0", s, func(r *registry.ServiceRequest) { r.Ports[0].Port = 0 }, registry.ErrInvalid, "port 0"},
	} {
		before := audit(t, c.store)
		req := web("new")
		c.edit(&req)
		_, _, err := c.store.PutService(t.Context(), req)
		if !errors.Is(err, c.want) || !contains(err, c.text) {
			t.Errorf("%s: error %v, want %v with %q", c.name, err, c.want, c.text)
		}
		if _, checked := checkOne(t, c.store, req); !errors.Is(checked, c.want) || !contains(checked, c.text) {
			t.Errorf("%s: the check says %v, want %v", c.name, checked, c.want)
		}
		if after := audit(t, c.store); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: something was changed", c.name)
		}
	}
	prefer := web("prefer")
	prefer.FamilyPolicy = registry.PreferDualStack
	if got, _ := put(t, four, prefer); len(got.VIPs) != 1 {
		t.Errorf("PreferDualStack on one family: VIPs %v", got.VIPs)
	}
}

// TestFamiliesAreKept: a service is stored with the policy that it named, and with the families where no VIP says
// them.
func TestFamiliesAreKept(t *testing.T) {
	s := open(t, defaultCIDRs...)
	both := []registry.Family{registry.IPv6, registry.IPv4}
	for _, c := range []struct {
		headless bool
		policy   registry.FamilyPolicy
		asked    []registry.Family
		want     []registry.Family
	}{
		{false, registry.SingleStack, both[:1], nil},
		{false, registry.PreferDualStack, both, nil},
		{false, registry.RequireDualStack, nil, nil},
		{true, registry.SingleStack, both[:1], both[:1]},
		{true, registry.PreferDualStack, both, both},
		{true, registry.RequireDualStack, nil, nil},
	} {
		req := web(fmt.Sprintf("web-%t-%s", c.headless, c.policy))
		req.Name.Name = strings.ToLower(req.Name.Name)
		req.Headless, req.FamilyPolicy, req.Families = c.headless, c.policy, c.asked
		first, rev := put(t, s, req)
		if _, again := put(t, s, req); again != rev {
			t.Errorf("%s: asked for again it is written again", req.Name)
		}
		got, err := checkOne(t, s, req)
		if err != nil || got == nil || !reflect.DeepEqual(*got, first) {
			t.Fatalf("%s: stored as %+v, returned as %+v: %v", req.Name, got, first, err)
		}
		if got.FamilyPolicy != c.policy || !slices.Equal(got.Families, c.want) {
			t.Errorf("%s: stored with %s and %v, want %v", req.Name, got.FamilyPolicy, got.Families, c.want)
		}
	}
}

func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }

func TestVIPsExhausted(t *testing.T) {
	s := open(t, "10.96.0.0/29", "10.97.0.0/30", "fd00::/126")
	seen := map[netip.Addr]bool{}
	for i := range 8 { // 6 of the first range, 2 of the second
		got, _ := put(t, s, web(fmt.Sprint("s", i)))
		seen[got.VIPs[0]] = true
	}
	if len(seen) != 8 {
		t.Errorf("8 services have the VIPs %v", seen)
	}
	_, _, err := s.PutService(t.Context(), web("more"))
	if !errors.Is(err, registry.ErrVIPsExhausted) || !contains(err, "services.cidrs") {
		t.Errorf("full ranges: %v", err)
	}
	if _, err := s.DeleteService(t.Context(), registry.Name{Namespace: "default", Name: "s3"}); err != nil {
		t.Fatal(err)
	}
	put(t, s, web("more"))
	pools, err := s.Pools(t.Context())
	if err != nil || len(pools) != 3 || pools[0].Used != 6 || pools[0].Size != 6 || pools[1].Used != 2 || pools[2].Used != 0 || pools[2].Size != 3 {
		t.Errorf("pools %+v, error %v", pools, err)
	}
	audit(t, s)
}

// TestServicesAtOnce lets writers fight over few addresses and few names. Whatever the order, no
// address ever has two owners and none leaks.
func TestServicesAtOnce(t *testing.T) {
	s := open(t, "10.96.0.0/28", "fd00::/124")
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 3))
			for range 60 {
				req := web(fmt.Sprint("s", r.IntN(10)))
				req.FamilyPolicy = registry.FamilyPolicy(r.IntN(3))
				if r.IntN(4) == 0 {
					req.VIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(1 + r.IntN(14))})}
				}
				var err error
				if r.IntN(3) == 0 {
					_, err = s.DeleteService(t.Context(), req.Name)
				} else {
					_, _, err = s.PutService(t.Context(), req)
				}
				for _, allowed := range []error{registry.ErrNotFound, registry.ErrVIPTaken, registry.ErrVIPImmutable, registry.ErrVIPsExhausted, registry.ErrFamily} {
					if errors.Is(err, allowed) {
						err = nil
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	audit(t, s)
}

// TestServicesAgainstModel compares random writes with a model that is a plain map.
func TestServicesAgainstModel(t *testing.T) {
	s := open(t, "10.96.0.0/27", "fd00::/123")
	r := rand.New(rand.NewPCG(5, 6))
	model := map[registry.Name]registry.Service{}
	for range 600 {
		req := web(fmt.Sprint("s", r.IntN(12)))
		old, exists := model[req.Name]
		if r.IntN(4) == 0 {
			_, err := s.DeleteService(t.Context(), req.Name)
			if exists != (err == nil) {
				t.Fatalf("delete %s, which exists: %t: %v", req.Name, exists, err)
			}
			delete(model, req.Name)
			continue
		}
		req.FamilyPolicy = registry.FamilyPolicy(r.IntN(3))
		req.Headless = r.IntN(8) == 0
		if r.IntN(3) == 0 && !req.Headless {
			req.VIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(r.IntN(33))})}
		}
		want := verdict(model, req, old, exists)
		got, _, err := s.PutService(t.Context(), req)
		if !errors.Is(err, want) {
			t.Fatalf("put %+v over %+v: error %v, want %v", req, old, err, want)
		}
		if err != nil {
			continue
		}
		checkVIPs(t, req, old, got)
		model[req.Name] = got
	}
	if got := audit(t, s); !reflect.DeepEqual(got, model) {
		t.Errorf("stored\n%v\nwant\n%v", got, model)
	}
}

// verdict says which error a request must meet, or nil.
func verdict(model map[registry.Name]registry.Service, req registry.ServiceRequest, old registry.Service, exists bool) error {
	if exists && old.Headless != req.Headless {
		return registry.ErrVIPImmutable
	}
	if len(req.VIPs) == 0 {
		return nil
	}
	a := req.VIPs[0]
	if n := a.As4()[3]; n == 0 || n >= 31 {
		return registry.ErrVIPOutOfRange
	}
	for n, s := range model {
		if n != req.Name && slices.Contains(s.VIPs, a) {
			return registry.ErrVIPTaken
		}
	}
	return nil
}

func checkVIPs(t *testing.T, req registry.ServiceRequest, old, got registry.Service) {
	t.Helper()
	want := 1
	switch {
	case req.Headless:
		want = 0
	case req.FamilyPolicy != registry.SingleStack:
		want = 2
	}
	if len(got.VIPs) != want {
		t.Fatalf("put %+v: VIPs %v, want %d", req, got.VIPs, want)
	}
	for i, a := range got.VIPs {
		named := slices.Contains(req.VIPs, a)
		if i < len(old.VIPs) && old.VIPs[i] != a && !named {
			t.Fatalf("VIPs %v became %v", old.VIPs, got.VIPs)
		}
		if i == 0 && len(req.VIPs) > 0 && a != req.VIPs[0] {
			t.Fatalf("asked for %v, got %v", req.VIPs, got.VIPs)
		}
	}
}

func TestRanges(t *testing.T) {
	for _, c := range []struct {
		cidr        string
		size        uint64
		first, last string
	}{
		{"10.0.0.0/32", 1, "10.0.0.0", "10.0.0.0"},
		{"10.0.0.0/31", 2, "10.0.0.0", "10.0.0.1"},
		{"10.0.0.0/30", 2, "10.0.0.1", "10.0.0.2"},
		{"10.96.0.0/16", 65534, "10.96.0.1", "10.96.255.254"},
		{"0.0.0.0/0", 1<<32 - 2, "0.0.0.1", "255.255.255.254"},
		{"fd00::/127", 2, "fd00::", "fd00::1"},
		{"fd00::/112", 65535, "fd00::1", "fd00::ffff"},
		{"fd00::/64", 1<<63 - 1, "fd00::1", "fd00::7fff:ffff:ffff:ffff"},
		{"fd00::/8", 1<<63 - 1, "fd00::1", "fd00::7fff:ffff:ffff:ffff"},
	} {
		list, err := newRanges(prefixes(t, c.cidr))
		if err != nil {
			t.Errorf("%s: %v", c.cidr, err)
			continue
		}
		r := list[0]
		if r.size != c.size || r.at(0) != addr(c.first) || r.at(r.size-1) != addr(c.last) {
			t.Errorf("%s: %d addresses %s-%s, want %d, %s-%s", c.cidr, r.size, r.at(0), r.at(r.size-1), c.size, c.first, c.last)
		}
		if !r.contains(addr(c.first)) || !r.contains(addr(c.last)) || r.contains(addr(c.first).Prev()) ||
			r.contains(addr(c.last).Next()) && c.size < 1<<62 {
			t.Errorf("%s: contains the wrong ends", c.cidr)
		}
		for range 100 {
			if a := r.random(); !r.contains(a) {
				t.Errorf("%s: random %s", c.cidr, a)
			}
		}
	}
}

// TestServiceAdoptsItsOwnVIPKey: a VIP key that names a service without one is that service's to take.
func TestServiceAdoptsItsOwnVIPKey(t *testing.T) {
	s := open(t, "10.96.0.0/24")
	if _, err := s.client.Put(t.Context(), vipKey(addr("10.96.0.9")), `{"namespace":"default","name":"web"}`); err != nil {
		t.Fatal(err)
	}
	req := web("web")
	req.VIPs = addrs("10.96.0.9")
	put(t, s, req)
	audit(t, s)
}
