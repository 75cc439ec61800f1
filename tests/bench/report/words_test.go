package report

import (
	"testing"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

func TestColumnScale(t *testing.T) {
	for _, tt := range []struct {
		unit string
		in   float64
		want string
	}{
		{"p50-ns", 22140, "22.1 µs"}, {"ns/op", 84, "84 ns"}, {"cpu-ns/op", 1.5e6, "1.50 ms"}, {"load-s", 0.4567, "457 ms"}, {"load-s", 3, "3 s"},
		{"rss-B", 120 << 20, "120 MiB"}, {"B/s", 2.5e9, "2.50 GB/s"}, {"insns/op", 1234, "1234 "}, {"writes/op", 1005403, "1\u00a0005\u00a0403 "},
		{"ops/s", 41600, "41\u00a0600 "}, {"lookups/op", 0, "0 "},
	} {
		factor, s := scaleOf(tt.unit, tt.in)
		if got := number(tt.in*factor/s.by) + " " + s.suffix; got != tt.want {
			t.Errorf("%v %s is %q, want %q", tt.in, tt.unit, got, tt.want)
		}
	}
}

func TestTitle(t *testing.T) {
	for c, want := range map[sheet.Case]string{
		sheet.Of("Path", "kind", "TCP_RR", "family", "IPv4", "services", 10000): "TCP_RR, IPv4, 10\u00a0000 services",
		sheet.Of("Scale", "policies", 1):                                        "1 policy",
		sheet.Of("Scale", "algorithm", "maglev", "way", "vip_socket"):           "algorithm maglev, VIP by socket hook",
		sheet.Of("Scale"): "",
	} {
		if got := title(c); got != want {
			t.Errorf("%s is %q, want %q", c, got, want)
		}
	}
}

func TestFigure(t *testing.T) {
	for unit, want := range map[string]string{"ns/op": "1.50 µs", "insns/op": "1500", "rss-B": "1.46 KiB"} {
		if got := Figure(unit, 1500); got != want {
			t.Errorf("1500 %s is %q, want %q", unit, got, want)
		}
	}
}
