package main

import (
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/eureka"
)

// eurekaConfig says where Eureka's clients are answered.
type eurekaConfig struct {
	Enabled   bool
	Listen    []netip.AddrPort
	NodeLocal bool       // also for this node's containers, at the node-local addresses
	TLS       access.TLS // of addresses that are not loopback
	Plain     bool       // do without it there: tokens can be read on their way
	Namespace string     // of all applications
}

func defaultEureka() eurekaConfig {
	return eurekaConfig{
		Enabled: true, NodeLocal: true, Namespace: "default",
		Listen: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), eureka.Port)},
	}
}

func (e *eurekaConfig) schema(d *document) decoder {
	return d.object(keys{
		"enabled":   d.boolean(&e.Enabled),
		"listen":    list(d, &e.Listen, parseListen),
		"nodeLocal": d.boolean(&e.NodeLocal),
		"tls": d.object(keys{
			"cert":     d.text(&e.TLS.Cert),
			"key":      d.text(&e.TLS.Key),
			"clientCA": d.text(&e.TLS.ClientCA),
		}),
		"plain":     d.boolean(&e.Plain),
		"namespace": d.text(&e.Namespace),
	})
}

func (e *eurekaConfig) check(d *document) {
	if e.Plain && e.TLS != (access.TLS{}) {
		d.fail("eureka.plain", "contradicts eureka.tls")
	}
	if !e.Plain {
		checkListen(d, "eureka", e.Listen, &e.TLS)
	}
	if wrong := validation.IsDNS1123Label(e.Namespace); len(wrong) > 0 {
		d.fail("eureka.namespace", "%q: %s", e.Namespace, wrong[0])
	}
}

// parseListen reads where to listen.
func parseListen(text string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(text)
	if err != nil || at.Port() == 0 {
		return at, fmt.Errorf("%q: want an address and a port, such as 127.0.0.1:%d", text, eureka.Port)
	}
	return at, nil
}
