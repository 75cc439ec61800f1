package path

import "testing"

// A way that goes another way than its name says is found out.
func TestMustBe(t *testing.T) {
	const metrics = `# TYPE sluice_sock_translated_total counter
sluice_sock_translated_total 5
sluice_service_connections_total{namespace="default",port="echo",protocol="TCP",service="by-socket"} 4
sluice_service_connections_total{namespace="default",port="echo-udp",protocol="UDP",service="by-socket"} 1
sluice_service_connections_total{namespace="default",port="echo",protocol="TCP",service="by-tc"} 2
`
	before, err := parseCounts(metrics)
	if err != nil || before.bySocket != 5 || before.given["by-socket"] != 5 || before.given["by-tc"] != 2 {
		t.Fatalf("read %+v, %v", before, err)
	}
	if _, err := parseCounts("sluice_up 1\n"); err == nil {
		t.Error("no counter, and no error")
	}
	more := func(bySocket, atSocket, atTC int) counts {
		return counts{5 + bySocket, map[string]int{"by-socket": 5 + atSocket, "by-tc": 2 + atTC}}
	}
	for _, c := range []struct {
		way   string
		after counts
		right bool
	}{
		{Container, more(0, 0, 0), true},
		{Container, more(8, 8, 0), false},
		{VIPSocket, more(8, 8, 0), true},
		{VIPSocket, more(0, 8, 0), false}, // tc has done it
		{VIPSocket, more(7, 7, 0), false},
		{VIPTC, more(0, 0, 8), true},
		{VIPTC, more(8, 0, 8), false}, // a socket hook has
		{VIPTC, more(0, 0, 0), false},
		{VIPTC, more(0, 8, 0), false},
	} {
		if err := mustBe(c.way, before, c.after, 8); (err == nil) != c.right {
			t.Errorf("%s: %+v: %v", c.way, c.after, err)
		}
	}
}
