package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

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
	// Peers are servers of other registries that are told what clients do here; see eureka.ParsePeer.
	Peers  []*url.URL
	PeerCA string // PEM file of whom https peers' certificates come from; "": whom the system trusts
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
		"peers":     list(d, &e.Peers, eureka.ParsePeer),
		"peerCA":    d.text(&e.PeerCA),
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

// checkPeers wants every peer to be another server, and once, and a CA to be of use. own are the node's addresses, as far as they are given. A
// name that leads here is found out when the server is asked.
func (e *eurekaConfig) checkPeers(d *document, own []netip.Addr) {
	checkFile(d, "eureka.peerCA", &e.PeerCA)
	if e.PeerCA != "" && !slices.ContainsFunc(e.Peers, func(u *url.URL) bool { return u.Scheme == "https" }) {
		d.fail("eureka.peerCA", "of no use: none of eureka.peers is https")
	}
	seen := map[string]bool{}
	for i, u := range e.Peers {
		key, name := fmt.Sprintf("eureka.peers[%d]", i), eureka.PeerName(u)
		switch {
		case seen[name]:
			d.fail(key, "%s is given twice", name)
		case e.serves(u, own):
			d.fail(key, "%s is this node itself", name)
		}
		seen[name] = true
	}
}

// serves reports whether a URL surely leads to where this node listens.
func (e *eurekaConfig) serves(u *url.URL, own []netip.Addr) bool {
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	host := u.Hostname()
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	if e.NodeLocal && nodeLocal(addr) && port == strconv.Itoa(eureka.Port) {
		return true
	}
	return slices.ContainsFunc(e.Listen, func(at netip.AddrPort) bool {
		here := addr.IsLoopback() || addr.IsUnspecified() || slices.Contains(own, addr)
		return strconv.Itoa(int(at.Port())) == port &&
			(at.Addr() == addr || at.Addr().IsUnspecified() && here || addr.IsUnspecified() && at.Addr().IsLoopback())
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
