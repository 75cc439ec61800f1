package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-net/sluice/registry/access"
)

// apiPort is where the HTTP API is served over the network.
const apiPort = 9465

// apiConfig says where the HTTP API is served beside the socket.
type apiConfig struct {
	Listen    []netip.AddrPort // loopback, or anything else with TLS
	NodeLocal bool             // also for this node's containers, at the node-local addresses
	TLS       access.TLS       // of addresses that are not loopback
}

func defaultAPI() apiConfig {
	return apiConfig{Listen: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), apiPort)}, NodeLocal: true}
}

func (a *apiConfig) schema(d *document) decoder {
	return d.object(keys{
		"listen":    list(d, &a.Listen, parseAPIListen),
		"nodeLocal": d.boolean(&a.NodeLocal),
		"tls": d.object(keys{
			"cert":     d.text(&a.TLS.Cert),
			"key":      d.text(&a.TLS.Key),
			"clientCA": d.text(&a.TLS.ClientCA),
		}),
	})
}

func (a *apiConfig) check(d *document) { checkListen(d, "api", a.Listen, &a.TLS) }

// checkListen judges where a part of the agent listens: beyond loopback only with TLS.
func checkListen(d *document, part string, addrs []netip.AddrPort, tls *access.TLS) {
	for _, f := range []struct {
		key  string
		path *string
	}{{"cert", &tls.Cert}, {"key", &tls.Key}, {"clientCA", &tls.ClientCA}} {
		checkFile(d, part+".tls."+f.key, f.path)
	}
	whole := tls.Cert != "" && tls.Key != ""
	if *tls != (access.TLS{}) && !whole {
		d.fail(part+".tls", "want cert and key, or none of its keys")
	}
	for i, at := range addrs {
		key := fmt.Sprintf("%s.listen[%d]", part, i)
		if !at.Addr().IsLoopback() && !whole {
			d.fail(key, "%s is not a loopback address: that needs TLS: name %s.tls.cert and %[2]s.tls.key", at.Addr(), part)
		}
		if slices.Contains(addrs[:i], at) {
			d.fail(key, "%s is given twice", at)
		}
	}
}

// parseAPIListen reads an address and a port to listen at.
func parseAPIListen(text string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(text)
	switch {
	case err != nil || at.Addr().Zone() != "" || at.Port() == 0:
		return at, fmt.Errorf("%q: want an address and a port, such as 127.0.0.1:%d", text, apiPort)
	case at.Addr().Is4In6():
		return at, fmt.Errorf("%s: write an IPv4 address as %s", at, at.Addr().Unmap())
	case at.Addr().IsMulticast():
		return at, fmt.Errorf("%s: nobody listens at a multicast address", at.Addr())
	}
	return at, nil
}
