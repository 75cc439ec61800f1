package path

import (
	"reflect"
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

// Each aim that was measured is judged, with the cases that it is for.
func TestJudgedAims(t *testing.T) {
	s := &sheet.Sheet{}
	for way, p50 := range map[string]float64{Direct: 20_000, VIPTC: 18_600} {
		add(s, batch.TCPRR, way, p50, p50)
	}
	for way, p50 := range map[string]float64{"kube_proxy_iptables": 200_000, VIPTC: 93_000} {
		add(s, batch.TCPCRR, way, p50, p50)
	}
	s.Add(Case(batch.TCPRR, IPv6, 1, Direct), 0, 1, sheet.Value{Unit: figure, Value: 100})
	s.Add(Case(batch.TCPRR, IPv6, 1, VIPTC), 0, 1, sheet.Value{Unit: figure, Value: 90}) // one round has no interval
	s.Add(Case(batch.UDPConnectNew, IPv4, 1, VIPSocket), 0, 1, sheet.Value{Unit: extraUnit, Value: 400})
	Explain(s)
	want := []sheet.Aim{
		{Part: Name, What: "vip_tc, TCP_RR: p50, x direct", Most: 0.92, Low: 0.9, High: 0.93, Open: 1, Missed: 1,
			All: &sheet.Estimate{Center: 0.93, Lo: 0.93, Hi: 0.93, Rounds: 11}},
		{Part: Name, What: "vip_tc, TCP_CRR: p50, x kube_proxy_iptables, services: 10000", Most: 0.47, Low: 0.465, High: 0.465, Met: 1,
			All: &sheet.Estimate{Center: 0.465, Lo: 0.465, Hi: 0.465, Rounds: 10}},
		{Part: Name, What: "UDP_CONNECT_NEW to a VIP: p50, more than by no_hook", Unit: extraUnit, Most: 350, Low: 400, High: 400, Open: 1},
	}
	if got := s.Aims(); !reflect.DeepEqual(got, want) {
		t.Errorf("judged %+v, want %+v", got, want)
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
	if strings.Contains(got, "Aim missed: UDP_CONNECT_NEW") {
		t.Errorf("an aim that is met in:\n%s", got)
	}
}

// A p99.9 of few operations is called what it is.
func TestFewOperations(t *testing.T) {
	s := &sheet.Sheet{}
	for k, n := range map[batch.Kind]int{batch.TCPRR: 1000, batch.TCPCRR: 600} {
		s.Add(Case(k, IPv4, 1, Direct), 0, n, sheet.Value{Unit: "p99.9-ns", Value: 1})
	}
	s.Add(Case(batch.TCPStream, IPv4, 1, Direct), 0, 10, sheet.Value{Unit: "B/s", Value: 1})
	if got := fewest(s); !strings.Contains(got, "which there are of TCP_CRR, have their slowest") {
		t.Errorf("%q", got)
	}
}

func TestSharedCPU(t *testing.T) {
	s := &sheet.Sheet{}
	add(s, batch.TCPRR, Direct, 20_000, 15_000)
	if got := notes(s); !strings.Contains(got, "75 % of the time") {
		t.Error(got)
	}
}
