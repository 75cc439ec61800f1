// Command kubeproxy is kube-proxy's own code without an API server: the proxiers of k8s.io/kubernetes,
// given Services and EndpointSlices made up here. It writes its rules into the network namespace that it
// is started in, and nowhere else; they stay when it ends.
//
// It says "ready", reads orders and answers each, one line of JSON both, once the rules are in place. It ends
// with its standard input.
//
// This is a module of its own: what it depends on is not to become a dependency of Sluice.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

func main() {
	var o options
	flag.StringVar(&o.mode, "mode", "iptables", "iptables or nftables, as kube-proxy's --proxy-mode")
	flag.Func("pods", "CIDR of the cluster's containers, one of each family; calls from elsewhere are masqueraded", func(text string) error {
		prefix, err := netip.ParsePrefix(text)
		o.pods = append(o.pods, prefix)
		return err
	})
	flag.Func("service", "measured service, as VIP=BACKEND, one of each family; more have the VIPs behind it", func(text string) error {
		m, err := parseMeasured(text)
		o.measured = append(o.measured, m)
		return err
	})
	flag.Func("port", "port of measured services and of their backends, as tcp/80; several times", func(text string) error {
		p, err := parsePort(text)
		o.ports = append(o.ports, p)
		return err
	})
	flag.Func("new", "TCP port of them that new connections are measured at; several times", func(text string) error {
		p, err := strconv.ParseUint(text, 10, 16)
		o.fresh = append(o.fresh, uint16(p))
		return err
	})
	flag.Parse()
	if err := run(context.Background(), o, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kubeproxy:", err)
		os.Exit(1)
	}
}

type options struct {
	mode     string
	pods     []netip.Prefix
	measured []measured
	ports    []port
	fresh    []uint16
}

// measured is the first of the services that calls are made to.
type measured struct{ vip, backend netip.Addr }

type port struct {
	protocol v1.Protocol
	number   uint16
}

func parseMeasured(text string) (m measured, err error) {
	vip, backend, _ := strings.Cut(text, "=")
	if m.vip, err = netip.ParseAddr(vip); err != nil {
		return m, err
	}
	if m.backend, err = netip.ParseAddr(backend); err != nil {
		return m, err
	}
	if m.vip.Is4() != m.backend.Is4() {
		return m, fmt.Errorf("%q: VIP and backend are of different families", text)
	}
	return m, nil
}

func parsePort(text string) (p port, err error) {
	protocol, number, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	return port{v1.Protocol(strings.ToUpper(protocol)), uint16(n)}, err
}

// order is what there is to be.
type order struct{ Services int }

// answer says how it came to be.
type answer struct {
	Families []programmed
	Error    string `json:",omitempty"`
}

// programmed is one family's part.
type programmed struct {
	Family  v1.IPFamily
	Seconds float64 // from the first object to the last rule
	// VIP is that of the measured services whose rules lie closest to the middle of all: kube-proxy's iptables
	// rules are held against a new connection one by one, in an order that changes from run to run.
	VIP netip.Addr
	// Rules are how many lead to services, and Before are those of them that come before the rules of the VIP's ports
	// where new connections are measured; none: there is no order.
	Rules  int   `json:",omitempty"`
	Before []int `json:",omitempty"`
}

func run(ctx context.Context, o options, in io.Reader, out io.Writer) error {
	p, err := newProxy(ctx, o)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	lines, answers := bufio.NewScanner(in), json.NewEncoder(out)
	for lines.Scan() {
		var wanted order
		if err := json.Unmarshal(lines.Bytes(), &wanted); err != nil {
			return fmt.Errorf("read order: %w", err)
		}
		if err := answers.Encode(p.services(ctx, wanted.Services)); err != nil {
			return err
		}
	}
	return lines.Err()
}
