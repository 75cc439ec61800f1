package tests

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/path"
	"github.com/sluice-net/sluice/tests/bench/peers"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// TestPeers: each peer leads calls to the VIP to the server, of every kind, also when there are services besides, as soon
// as it has been told of services and not before. What make bench has not built or unpacked is skipped: kube-proxy wants
// "make bin/bench/kubeproxy" first.
func TestPeers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for i, name := range []string{peers.IPTables, peers.NFTables, peers.Nginx} {
		t.Run(name, func(t *testing.T) {
			s := &sheet.Sheet{}
			way, err := peers.Makers("../bin/bench")[i](t.Context(), part.Env{Sheet: s, Lab: lab, Log: t.Logf})
			if errors.Is(err, path.ErrAbsent) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := way.Close(); err != nil {
					t.Error(err)
				}
				left, err := nstest.Leaks(nstest.Owner())
				if err != nil || len(left) > 0 {
					t.Errorf("%v, left behind:\n%s", err, strings.Join(left, "\n"))
				}
			})
			if got := way.Name(); got != name {
				t.Errorf("it is called %s", got)
			}
			plan := path.Plan{
				Kinds: path.Kinds(), Families: []path.Family{path.IPv4, path.IPv6}, Services: []int{1, 120}, Rounds: 2,
				Batch: 2 * time.Millisecond, Log: t.Logf,
			}
			for _, family := range plan.Families {
				_, err := way.Driver().Do(batch.Order{
					Kind: batch.TCPCRR, To: netip.AddrPortFrom(way.To(family), batch.Echo), Count: 1, For: time.Millisecond, Bytes: 1,
				})
				if err == nil {
					t.Errorf("calls over %s succeed before there are services", family)
				}
			}
			if err := path.Measure(t.Context(), s, plan, way); err != nil {
				t.Fatal(err)
			}
			for _, n := range plan.Services {
				for _, family := range plan.Families {
					for _, kind := range plan.Kinds {
						for range path.WaysOf(kind, []path.Way{way}) {
							sane(t, s, path.Case(kind, family, n, name))
						}
					}
				}
			}
			if cases := s.Cases("Scale"); len(cases) == 0 || cases[0].Get("way") != name {
				t.Errorf("no word of how long it took: %v", cases)
			}
		})
	}
}
