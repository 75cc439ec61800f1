package tests

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/sluice-net/sluice/tests/nstest"
)

// scrape reads the agent's metrics from inside the node.
func scrape(t *testing.T, n *nstest.Node) []byte {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = n.InNetns(func() error {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
	res, err := client.Get("http://127.0.0.1:9464/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("scrape: %s, %v", res.Status, err)
	}
	return data
}

// TestMetrics: every metric that the README promises is there, well named.
func TestMetrics(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		n := newNode(t, settings)
		client := addContainer(t, n, "client", nil)
		addContainer(t, n, "web-1", map[string]string{"app": "web"})
		call := kinds(apply(t, n, "web", web("web", "web")))[0]
		call.Count = 7
		if r, err := client.Call(t.Context(), call); err != nil || r.Failed > 0 {
			t.Fatalf("call: %v, %+v", err, r)
		}
		data := scrape(t, n)
		problems, err := promlint.New(bytes.NewReader(data)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
		for _, want := range []string{
			"sluice_service_connections_total", "sluice_service_packets_total", "sluice_service_bytes_total",
			"sluice_drops_total", "sluice_map_entries", "sluice_map_limit_entries", "sluice_sync_duration_seconds", "sluice_sync_lag_seconds",
			"sluice_cni_request_duration_seconds", "sluice_registry_up",
		} {
			if !bytes.Contains(data, []byte("\n"+want)) {
				t.Errorf("no metric %s", want)
			}
		}
		if t.Failed() {
			t.Logf("metrics:\n%s", names(data))
		}
	})
}

// names lists our metrics of a scrape.
func names(data []byte) string {
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "# TYPE sluice") {
			out.WriteString(line)
		}
	}
	return out.String()
}
