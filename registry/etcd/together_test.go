package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/etcd/etcdtest"
)

// TestPutServices: many services are written in few transactions, which whoever watches hears of as few batches.
func TestPutServices(t *testing.T) {
	s := openWith(t, Options{ServiceCIDRs: prefixes(t, "10.96.0.0/16")})
	batches := s.Watch(t.Context())
	receive(t, batches)
	const count = servicesTogether + 10
	var reqs []registry.ServiceRequest
	for i := range count {
		reqs = append(reqs, web(fmt.Sprint("s", i)))
	}
	stored, rev, err := s.PutServices(t.Context(), reqs)
	if err != nil || len(stored) != count {
		t.Fatal(len(stored), err)
	}
	services := audit(t, s)
	for _, svc := range stored {
		if len(svc.VIPs) != 1 || !reflect.DeepEqual(services[svc.Name], svc) {
			t.Errorf("stored %+v, said %+v", services[svc.Name], svc)
		}
	}
	got, transactions := 0, 0
	for at := int64(0); at < rev; transactions++ {
		b := receive(t, batches)
		got, at = got+len(b.Changes), b.Revision
	}
	if got != count || transactions != 2 {
		t.Errorf("%d changes in %d transactions, want %d in 2", got, transactions, count)
	}
	again, same, err := s.PutServices(t.Context(), reqs)
	if err != nil || same != rev || !reflect.DeepEqual(again, stored) {
		t.Errorf("written again: revision %d, %v; want %d, and the same", same, err, rev)
	}
}

// TestPutServicesLimited: a cluster that takes less at once is given less, be it of operations or of bytes.
func TestPutServicesLimited(t *testing.T) {
	s := join(t, startMembers(t, etcdtest.StartLimited, 1))
	for kind, size := range map[string]int{"small": 0, "large": 3 << 10, "larger": 48 << 10} {
		var reqs []registry.ServiceRequest
		for i := range min(300, (8<<20)/(size+1)) {
			req := web(fmt.Sprint(kind, i))
			req.Labels = map[string]string{"note": strings.Repeat("x", size)}
			reqs = append(reqs, req)
		}
		stored, _, err := s.PutServices(t.Context(), reqs)
		if err != nil || len(stored) != len(reqs) {
			t.Errorf("%s: %d of %d were written, %.200v", kind, len(stored), len(reqs), err)
		}
	}
}

// TestPutServicesCrowded: where most addresses and node ports are taken, many services are written at once all the
// same, and the last that there are are found.
func TestPutServicesCrowded(t *testing.T) {
	s := openWith(t, Options{ServiceCIDRs: prefixes(t, "10.96.0.0/24", "fd00::/120"), NodePorts: PortRange{30000, 30260}})
	open := func(from, to int) (reqs []registry.ServiceRequest) {
		for i := from; i < to; i++ {
			req := web(fmt.Sprint("s", i))
			req.Type, req.FamilyPolicy = registry.TypeNodePort, registry.RequireDualStack
			reqs = append(reqs, req)
		}
		return reqs
	}
	var last int64
	for _, from := range []int{0, 200} {
		_, rev, err := s.PutServices(t.Context(), open(from, from+200-3*from/4))
		if err != nil {
			t.Fatal(err)
		}
		if writes := rev - last; from > 0 && writes > 2 {
			t.Errorf("50 services were written in %d transactions", writes)
		}
		last = rev
	}
	stored, _, err := s.PutServices(t.Context(), open(250, 260)) // 4 addresses are left, and 11 ports
	if len(stored) != 4 || !errors.Is(err, registry.ErrVIPsExhausted) {
		t.Errorf("%d were written, %v; want 4, and that no address is left", len(stored), err)
	}
	if all := audit(t, s); len(all) != 254 {
		t.Errorf("%d services", len(all))
	}
}

// counted counts the operations of transactions.
type counted struct {
	clientv3.KV
	ops *int
}

func (c counted) Txn(ctx context.Context) clientv3.Txn { return countedTxn{c.KV.Txn(ctx), c.ops} }

type countedTxn struct {
	clientv3.Txn
	ops *int
}

func (c countedTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	*c.ops += len(ops)
	return c.Txn.Then(ops...)
}

// TestPutServicesShared: services that share an address are written one after the other, without looking at all the
// others for each of them.
func TestPutServicesShared(t *testing.T) {
	s := openWith(t, Options{ServiceCIDRs: prefixes(t, "10.96.0.0/16")})
	var reqs []registry.ServiceRequest
	for i := range 128 {
		req := web(fmt.Sprint("s", i))
		req.ExternalIPs = addrs("198.51.100.7")
		req.Ports[0].Port = uint16(1000 + i)
		reqs = append(reqs, req)
	}
	ops := 0
	s.client.KV = counted{s.client.KV, &ops}
	if stored, _, err := s.PutServices(t.Context(), reqs); err != nil || len(stored) != len(reqs) {
		t.Fatal(len(stored), err)
	}
	if each := ops / len(reqs); each > 20 {
		t.Errorf("%d operations for each service", each)
	}
	if all := audit(t, s); len(all) != len(reqs) {
		t.Errorf("%d services", len(all))
	}
}

// TestPutServicesOneByOne compares what PutServices does with what PutService does of the same requests in a row, when
// these leave no choice.
func TestPutServicesOneByOne(t *testing.T) {
	together, single := openWith(t, Options{}), openWith(t, Options{})
	r := rand.New(rand.NewPCG(4, 4))
	refusals := 0
	for range 150 {
		var reqs []registry.ServiceRequest
		for range 1 + r.IntN(6) {
			reqs = append(reqs, insist(r))
		}
		before := audit(t, together)
		old, refused, err := together.CheckServices(t.Context(), reqs)
		if err != nil {
			t.Fatal(err)
		}
		for i, req := range reqs {
			if svc, has := before[req.Name]; has != (old[i] != nil) || has && !reflect.DeepEqual(*old[i], svc) {
				t.Fatalf("%s is %+v, not %+v", req.Name, svc, old[i])
			}
			if _, err := checkOne(t, together, req); fmt.Sprint(err) != fmt.Sprint(refused[i]) {
				t.Fatalf("checked by itself: %v, with others: %v", err, refused[i])
			}
		}
		stored, _, err := together.PutServices(t.Context(), reqs)
		var want []registry.Service
		var wantErr error
		for _, req := range reqs {
			var svc registry.Service
			if svc, _, wantErr = single.PutService(t.Context(), req); wantErr != nil {
				refusals++
				break
			}
			want = append(want, svc)
		}
		if fmt.Sprint(err) != fmt.Sprint(wantErr) || !slices.EqualFunc(stored, want, func(a, b registry.Service) bool { return reflect.DeepEqual(a, b) }) {
			t.Fatalf("%+v:\ntogether %+v, %v\none by one %+v, %v", reqs, stored, err, want, wantErr)
		}
		if a, b := audit(t, together), audit(t, single); !reflect.DeepEqual(a, b) {
			t.Fatalf("%+v:\ntogether %+v\none by one %+v", reqs, a, b)
		}
		if r.IntN(3) == 0 {
			n := reqs[0].Name
			_, a := together.DeleteService(t.Context(), n)
			_, b := single.DeleteService(t.Context(), n)
			if errors.Is(a, registry.ErrNotFound) != errors.Is(b, registry.ErrNotFound) {
				t.Fatalf("delete %s: %v, %v", n, a, b)
			}
		}
	}
	if refusals < 20 || refusals > 140 {
		t.Errorf("%d of 150 inputs were refused", refusals)
	}
}

// insist makes a request of few names, addresses and ports that leaves nothing to be chosen.
func insist(r *rand.Rand) registry.ServiceRequest {
	req := scramble(r)
	req.FamilyPolicy = registry.SingleStack
	req.Type = registry.TypeClusterIP
	if r.IntN(3) == 0 {
		req.Type = registry.TypeNodePort
	}
	for i := range req.Ports {
		req.Ports[i].NodePort = 0
		if req.Type == registry.TypeNodePort {
			req.Ports[i].NodePort = uint16(30000 + r.IntN(20))
		}
	}
	req.VIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(1 + r.IntN(20))})}
	return req
}

// TestPutServicesAtOnce lets writers of several services each fight over few addresses and names.
func TestPutServicesAtOnce(t *testing.T) {
	s := openWith(t, Options{ServiceCIDRs: prefixes(t, "10.96.0.0/28", "fd00::/124"), NodePorts: PortRange{30000, 30020}})
	allowed := []error{
		registry.ErrNotFound, registry.ErrVIPTaken, registry.ErrVIPImmutable, registry.ErrVIPsExhausted, registry.ErrFamily,
		registry.ErrNodePortTaken, registry.ErrNodePortsExhausted, registry.ErrInvalid,
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 11))
			for range 30 {
				var reqs []registry.ServiceRequest
				for range 1 + r.IntN(5) {
					reqs = append(reqs, scramble(r))
				}
				_, _, err := s.PutServices(t.Context(), reqs)
				if r.IntN(2) == 0 {
					_, err = s.DeleteService(t.Context(), scramble(r).Name)
				}
				if err != nil && !slices.ContainsFunc(allowed, func(a error) bool { return errors.Is(err, a) }) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	audit(t, s)
}
