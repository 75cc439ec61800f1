package path

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/nstest"
)

// counts are what a node's programs have done.
type counts struct {
	// bySocket are connects that a socket hook gave a backend, given those and flows of tc, by the service's name.
	bySocket int
	given    map[string]int
}

// proofCalls are how many connections of its own each proof makes: TCP ones, and a UDP socket.
const proofCalls = 3 + 1

// prove has each way make some calls, and compares what the programs counted meanwhile with what the way is called: that
// there are answers does not tell which hook has translated a VIP, or that none had to.
func prove(ctx context.Context, node *nstest.Node, ways []Way) error {
	before, err := countsOf(ctx, node)
	if err != nil {
		return err
	}
	for _, w := range ways {
		for _, f := range []Family{IPv4, IPv6} {
			for _, k := range []batch.Kind{batch.TCPCRR, batch.UDPRR} {
				o := batch.Order{Kind: k, To: netip.AddrPortFrom(w.To(f), k.Port()), For: time.Minute, Count: proofCalls - 1, Bytes: 1}
				if _, err := w.Driver().Do(o); err != nil {
					return fmt.Errorf("call by %s: %w", w.Name(), err)
				}
			}
		}
		after, err := countsOf(ctx, node)
		if err != nil {
			return err
		}
		if err := mustBe(w.Name(), before, after, 2*proofCalls); err != nil {
			return err
		}
		before = after
	}
	return nil
}

// mustBe compares what was counted during so many connections by a way.
func mustBe(way string, before, after counts, n int) error {
	stalls := stalls()
	wanted := counts{given: map[string]int{}}
	switch way {
	case VIPSocket:
		wanted.bySocket, wanted.given[stalls[0].name] = n, n
	case VIPTC:
		wanted.given[stalls[1].name] = n
	}
	if got := after.bySocket - before.bySocket; got != wanted.bySocket {
		return fmt.Errorf("%s: socket hooks translated %d of %d connections, not %d", way, got, n, wanted.bySocket)
	}
	for _, s := range stalls {
		if got := after.given[s.name] - before.given[s.name]; got != wanted.given[s.name] {
			return fmt.Errorf("%s: service %s was given %d of %d connections, not %d", way, s.name, got, n, wanted.given[s.name])
		}
	}
	return nil
}

func countsOf(ctx context.Context, node *nstest.Node) (counts, error) {
	metrics, err := node.Metrics(ctx)
	if err != nil {
		return counts{}, err
	}
	return parseCounts(metrics)
}

// parseCounts reads Prometheus's text format.
func parseCounts(metrics string) (counts, error) {
	c, seen := counts{given: map[string]int{}}, false
	for line := range strings.Lines(metrics) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, labels, _ := strings.Cut(name, "{")
		if name != "sluice_sock_translated_total" && name != "sluice_service_connections_total" {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return c, fmt.Errorf("read metric %s: %w", name, err)
		}
		if name == "sluice_sock_translated_total" {
			c.bySocket, seen = int(v), true
			continue
		}
		_, service, _ := strings.Cut(labels, `service="`)
		service, _, _ = strings.Cut(service, `"`)
		c.given[service] += int(v)
	}
	if !seen {
		return c, fmt.Errorf("read metrics: there is no sluice_sock_translated_total")
	}
	return c, nil
}
