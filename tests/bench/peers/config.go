package peers

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// nginxConfig is what nginx is to do: forward from each VIP to the server of its family, and from those of other
// services to backends that are nowhere. It has one worker, on the CPU that all else is on.
type nginxConfig struct {
	dir, module string
	cpu         int // counted from 1; 0: any
	others      int
	// vips, servers and from, which connections to the servers come from, have one address of each family.
	vips, servers, from []netip.Addr
}

// text is the configuration file. No access is logged, which is stream's default.
func (c nginxConfig) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "load_module %s;\nuser root;\ndaemon off;\nworker_processes 1;\n", c.module)
	if c.cpu > 0 {
		fmt.Fprintf(&b, "worker_cpu_affinity 1%s;\n", strings.Repeat("0", c.cpu-1))
	}
	fmt.Fprintf(&b, "pid %s/pid;\nerror_log stderr error;\n", c.dir)
	// A connection is one to nginx or one from it, or a socket that listens.
	fmt.Fprintf(&b, "events { worker_connections %d; }\nstream {\nproxy_timeout 1m;\n", len(c.vips)*(c.others+len(endpoints()))+4096)
	for i, vip := range c.vips {
		for _, e := range endpoints() {
			fmt.Fprintf(&b, "server { listen %s%s; proxy_bind %s; proxy_pass %s; }\n", netip.AddrPortFrom(vip, e.port),
				map[string]string{"udp": " udp"}[e.protocol], c.from[i], netip.AddrPortFrom(c.servers[i], e.port))
		}
	}
	for i := range c.others {
		c.other(&b, i, netip.MustParseAddr("10.97.0.0"), netip.MustParseAddr("100.64.0.0"))
		c.other(&b, i, netip.MustParseAddr("fd00:10:96::1:0"), netip.MustParseAddr("fd00:100:64::"))
	}
	b.WriteString("}\n")
	return b.String()
}

// other is a service that nobody calls, the i-th behind these addresses.
func (nginxConfig) other(b *strings.Builder, i int, vips, backendsFrom netip.Addr) {
	name := fmt.Sprintf("other%d_%d", i, vips.BitLen())
	fmt.Fprintf(b, "upstream %s {", name)
	for j := range backends {
		fmt.Fprintf(b, " server %s;", netip.AddrPortFrom(plus(backendsFrom, i*backends+j+1), 8080))
	}
	fmt.Fprintf(b, " }\nserver { listen %s; proxy_pass %s; }\n", netip.AddrPortFrom(plus(vips, i+1), 80), name)
}

// plus is the n-th address behind another.
func plus(addr netip.Addr, n int) netip.Addr {
	b := addr.AsSlice()
	last := b[len(b)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+uint32(n))
	addr, _ = netip.AddrFromSlice(b)
	return addr
}
