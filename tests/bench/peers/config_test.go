package peers

import (
	"net/netip"
	"strings"
	"testing"
)

func TestNginxConfig(t *testing.T) {
	addr := netip.MustParseAddr
	c := nginxConfig{
		dir: "/d", module: "/m.so", cpu: 2, others: 1,
		vips: []netip.Addr{addr("10.96.0.10"), addr("fd00:10:96::10")}, from: []netip.Addr{nginxV4, nginxV6},
		servers: []netip.Addr{addr("10.9.0.2"), addr("fd09::2")},
	}
	want := `load_module /m.so;
user root;
daemon off;
worker_processes 1;
worker_cpu_affinity 10;
pid /d/pid;
error_log stderr error;
events { worker_connections 4106; }
stream {
proxy_timeout 1m;
server { listen 10.96.0.10:7000; proxy_bind 10.9.0.254; proxy_pass 10.9.0.2:7000; }
server { listen 10.96.0.10:7000 udp; proxy_bind 10.9.0.254; proxy_pass 10.9.0.2:7000; }
server { listen 10.96.0.10:7001; proxy_bind 10.9.0.254; proxy_pass 10.9.0.2:7001; }
server { listen 10.96.0.10:7002; proxy_bind 10.9.0.254; proxy_pass 10.9.0.2:7002; }
server { listen [fd00:10:96::10]:7000; proxy_bind fd09::fe; proxy_pass [fd09::2]:7000; }
server { listen [fd00:10:96::10]:7000 udp; proxy_bind fd09::fe; proxy_pass [fd09::2]:7000; }
server { listen [fd00:10:96::10]:7001; proxy_bind fd09::fe; proxy_pass [fd09::2]:7001; }
server { listen [fd00:10:96::10]:7002; proxy_bind fd09::fe; proxy_pass [fd09::2]:7002; }
upstream other0_32 { server 100.64.0.1:8080; server 100.64.0.2:8080; server 100.64.0.3:8080; server 100.64.0.4:8080; }
server { listen 10.97.0.1:80; proxy_pass other0_32; }
upstream other0_128 { server [fd00:100:64::1]:8080; server [fd00:100:64::2]:8080; server [fd00:100:64::3]:8080; server [fd00:100:64::4]:8080; }
server { listen [fd00:10:96::1:1]:80; proxy_pass other0_128; }
}
`
	if got := c.text(); got != want {
		t.Errorf("it is\n%s", got)
	}
	c.cpu, c.others = 0, 10_000
	text := c.text()
	if strings.Contains(text, "affinity") {
		t.Error("it is bound to a CPU when it may run on any")
	}
	if !strings.Contains(text, "listen 10.97.39.16:80;") || !strings.Contains(text, "server 100.64.156.64:8080; }") {
		t.Error("the last of 10 000 services is not there")
	}
}
