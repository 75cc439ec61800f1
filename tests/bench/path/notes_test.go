package path

import (
	"strings"
	"testing"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// add enters ten equal rounds of a way, in nanoseconds.
func add(s *sheet.Sheet, k batch.Kind, way string, p50, cpu float64) {
	for round := range 10 {
		s.Add(Case(k, IPv4, 10_000, way), round, 100, sheet.Value{Unit: "p50-ns", Value: p50},
			sheet.Value{Unit: "ns/op", Value: p50}, sheet.Value{Unit: "cpu-ns/op", Value: cpu})
	}
}

func notes(s *sheet.Sheet) string {
	Explain(s)
	var b strings.Builder
	for _, n := range s.Notes(Name) {
		b.WriteString(n.Text + "\n")
	}
	return b.String()
}

// Aims that are missed are told with what other kinds say about them; those that are met are not.
func TestMissedAims(t *testing.T) {
	s := &sheet.Sheet{}
	for way, p50 := range map[string][3]float64{ // TCP_RR, TCP_CRR, TCP_CONNECT
		Direct:                {20_000, 100_000, 60_000},
		Loopback:              {16_000, 80_000, 50_000},
		Container:             {18_000, 92_000, 60_000},
		VIPTC:                 {18_000, 105_000, 66_000},
		"kube_proxy_iptables": {22_000, 250_000, 200_000},
	} {
		for i, k := range []batch.Kind{batch.TCPRR, batch.TCPCRR, batch.TCPConnect} {
			add(s, k, way, p50[i], p50[i])
		}
	}
	got := notes(s)
	for _, want := range []string{
		"vip_tc at most 0.96 x direct in TCP_CRR (p50-ns), but 1.050 [1.050, 1.050] over IPv4 with services=10000",
		"105.0 us, by direct 100.0, by loopback 80.0", "1.25 of what it takes by direct",
		"+5.0 us for request, answer and all, +6.0 for a connection with nothing sent, -2.0 for a round trip",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	for _, wrong := range []string{
		"container at most", "vip_socket at most", "vip_tc at most 0.92", "vip_tc at most 0.47", "NaN", "not theirs alone",
	} {
		if strings.Contains(got, wrong) {
			t.Errorf("%q in:\n%s", wrong, got)
		}
	}
}

// Connects that cost too much are told with what the hook costs anyway.
func TestDearConnects(t *testing.T) {
	s := &sheet.Sheet{}
	for way, extra := range map[string]float64{Container: 120, VIPSocket: 163} {
		for _, k := range []batch.Kind{batch.UDPConnectReused, batch.UDPConnectNew} {
			for round := range 10 {
				s.Add(Case(k, IPv6, 100, way), round, 100, sheet.Value{Unit: extraUnit, Value: extra})
			}
		}
	}
	got := notes(s)
	want := "UDP_CONNECT_REUSED to a VIP at most +150 ns over no_hook (extra-ns/op, difference of medians in the same round), " +
		"but +163 [+163, +163] over IPv6 with services=100, where an address that is no VIP costs +120."
	if !strings.Contains(got, want) {
		t.Errorf("no %q in:\n%s", want, got)
	}
	if strings.Contains(got, "UDP_CONNECT_NEW") {
		t.Errorf("an aim that is met in:\n%s", got)
	}
}

func TestSharedCPU(t *testing.T) {
	s := &sheet.Sheet{}
	add(s, batch.TCPRR, Direct, 20_000, 15_000)
	if got := notes(s); !strings.Contains(got, "75 % of the time") {
		t.Error(got)
	}
}
