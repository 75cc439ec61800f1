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
	Listen    []netip.AddrPort // and the node-local addresses
	TLS       access.TLS       // of the addresses that others than this node and its containers reach
	Plain     bool             // do without it
	Namespace string           // of all applications
	Rate      int              // requests of one address in a second
}

// maxEurekaRate is more than a core can answer.
const maxEurekaRate = 1_000_000

func defaultEureka() eurekaConfig {
	return eurekaConfig{
		Enabled: true, Namespace: "default", Rate: 2000,
		Listen: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), eureka.Port)},
	}
}

func (e *eurekaConfig) schema(d *document) decoder {
	return d.object(keys{
		"enabled": d.boolean(&e.Enabled),
		"listen":  list(d, &e.Listen, parseListen),
		"tls": d.object(keys{
			"cert":     d.text(&e.TLS.Cert),
			"key":      d.text(&e.TLS.Key),
			"clientCA": d.text(&e.TLS.ClientCA),
		}),
		"plain":     d.boolean(&e.Plain),
		"namespace": d.text(&e.Namespace),
		"rate":      d.integer(&e.Rate),
	})
}

// parseListen reads where to listen.
func parseListen(text string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(text)
	if err != nil || at.Port() == 0 {
		return at, fmt.Errorf("%q: want an address and a port, such as 127.0.0.1:%d", text, eureka.Port)
	}
	return at, nil
}

func (e *eurekaConfig) check(d *document) {
	checkFile(d, "eureka.tls.cert", &e.TLS.Cert)
	checkFile(d, "eureka.tls.key", &e.TLS.Key)
	checkFile(d, "eureka.tls.clientCA", &e.TLS.ClientCA)
	encrypted := e.TLS.Cert != "" && e.TLS.Key != ""
	switch {
	case encrypted && e.Plain:
		d.fail("eureka.plain", "contradicts eureka.tls")
	case !encrypted && e.TLS != access.TLS{}:
		d.fail("eureka.tls", "want both cert and key")
	}
	for i, at := range e.Listen {
		if !encrypted && !e.Plain && !at.Addr().IsLoopback() {
			d.fail(fmt.Sprintf("eureka.listen[%d]", i), "%s: others than this node reach it: set eureka.tls, or eureka.plain: true to have tokens read on their way", at)
		}
	}
	if wrong := validation.IsDNS1123Label(e.Namespace); len(wrong) > 0 {
		d.fail("eureka.namespace", "%q: %s", e.Namespace, wrong[0])
	}
	if e.Rate < 1 || e.Rate > maxEurekaRate {
		d.fail("eureka.rate", "%d: want 1 to %d", e.Rate, maxEurekaRate)
	}
}
