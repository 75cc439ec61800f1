package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// lossPeriod is how often at most the user is told of lost events.
const lossPeriod = time.Second

func (c *cli) monitor() *cobra.Command {
	var q api.EventQuery
	cmd := c.command("monitor", "Show live what is dropped, and what is allowed", cobra.NoArgs,
		func(ctx context.Context, client *api.Client, _ []string) error {
			if _, err := q.Filter(); err != nil {
				return usage{err}
			}
			return c.watchEvents(ctx, client, q)
		})
	cmd.Long = "Show live what is dropped, and what is allowed, until it is interrupted.\n\n" +
		"A drop says whose policy it was: egress is the sender's, ingress the receiver's. Audit is what\n" +
		"would be dropped if not for audit mode. Allowed flows are shown as verdicts: those of the\n" +
		"containers that --verdicts names, and samples of all if the agent's configuration asks for\n" +
		"them. A lease is that of an instance: it has lapsed, is held because too many of a service lapsed\n" +
		"at once, was renewed after all, or has expired. All filters must hold; END is world, node, an address, a CIDR, NAMESPACE/NAME, NAME or the\n" +
		"beginning of a container id. What is not shown because there was too much of it is counted on\n" +
		"standard error."
	cmd.Example = "  sluice monitor --type drop -n shop\n  sluice monitor --verdicts shop/web-0 --to world\n  sluice monitor --reason spoofed -o json --count 10"
	f := cmd.Flags()
	f.StringSliceVar(&q.Types, "type", nil, "drop, verdict, audit, lease; may be repeated")
	f.StringSliceVar(&q.Reasons, "reason", nil, "why it was dropped: ingress, egress, network, closed, spoofed, ...; may be repeated")
	f.StringVarP(&q.Namespace, "namespace", "n", "", "of a container that it is about (default: any)")
	f.StringVar(&q.Container, "container", "", "END that sends or receives")
	f.StringVar(&q.From, "from", "", "END that sends")
	f.StringVar(&q.To, "to", "", "END that receives")
	f.StringVar(&q.Policy, "policy", "", "NAME or NAMESPACE/NAME of the policy that decided")
	f.StringVar(&q.Protocol, "proto", "", "TCP, UDP, SCTP, ICMP, ICMPv6 or a number")
	f.Uint16Var(&q.Port, "port", 0, "of either end")
	f.StringArrayVar(&q.Watch, "verdicts", nil, "also show each new flow of this container; may be repeated")
	f.Uint64Var(&q.Limit, "count", 0, "end after so many events")
	for flag, words := range map[string]completer{
		"type": fixed("drop", "verdict", "audit", "lease"), "container": containers, "from": containers, "to": containers,
		"verdicts": containers, "namespace": namespaces, "proto": fixed("TCP", "UDP", "SCTP", "ICMP", "ICMPv6"),
	} {
		must(cmd.RegisterFlagCompletionFunc(flag, c.complete(func([]string) completer { return words })))
	}
	return cmd
}

// watchEvents prints events until ctx ends or there are as many as were asked for.
func (c *cli) watchEvents(ctx context.Context, client *api.Client, q api.EventQuery) error {
	var lost, missed uint64
	var told time.Time
	tell := func() {
		if lost > 0 {
			fmt.Fprintf(c.stderr, "sluice: %s not reported: there were more than the kernel may report\n", count(int(lost), "event"))
		}
		if missed > 0 {
			fmt.Fprintf(c.stderr, "sluice: %s not shown: this program was too slow\n", count(int(missed), "event"))
		}
		lost, missed, told = 0, 0, time.Now()
	}
	defer tell()
	for e, err := range client.Events(ctx, q) {
		switch {
		case ctx.Err() != nil:
			return nil // as the user wants it
		case err != nil:
			return err
		case e.Type == registry.EventLost:
			lost, missed = lost+e.Lost, missed+e.Missed
			if time.Since(told) >= lossPeriod {
				tell()
			}
			continue
		}
		if err := c.printEvent(&e); err != nil {
			if errors.Is(err, syscall.EPIPE) {
				return nil // whoever read has seen enough
			}
			return fmt.Errorf("write event: %w", err)
		}
	}
	return nil
}

// printEvent writes one event: a line, or a document.
func (c *cli) printEvent(e *registry.Event) error {
	switch c.output {
	case inJSON:
		return json.NewEncoder(c.stdout).Encode(e)
	case inYAML:
		b, err := yaml.Marshal(e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.stdout, "---\n%s", b)
		return err
	}
	_, err := fmt.Fprintln(c.stdout, eventLine(e))
	return err
}

// eventLine writes an event as people read it:
//
//	12:00:00.000  drop     ingress   tcp   shop/client:40000 -> shop/db:5432  NetworkPolicy shop/db
func eventLine(e *registry.Event) string {
	reason := e.Reason
	if e.Type == registry.EventVerdict {
		reason = "allowed"
	}
	if e.Type == registry.EventLease {
		return leaseLine(e)
	}
	line := fmt.Sprintf("%s  %-7s  %-12s  %-5s  %s -> %s", e.Time.Local().Format("15:04:05.000"), e.Type, reason,
		protocolColumn(e), senderText(e), partyText(e.Destination))
	if e.Service != nil {
		line += " by service " + e.Service.String()
	}
	if e.Policy != nil {
		line += "  " + e.Policy.String()
	}
	return line
}

// leaseLine writes what became of an instance, or of several of a service.
func leaseLine(e *registry.Event) string {
	whose := "-"
	if e.Instance != nil {
		whose = e.Instance.String()
	} else if e.Service != nil {
		whose = "instances of " + e.Service.String()
	}
	return fmt.Sprintf("%s  %-7s  %-12s  %-5s  %s", e.Time.Local().Format("15:04:05.000"), e.Type, e.Reason, "-", whose)
}

// protocolColumn is as netstat has it: tcp6 is TCP over IPv6.
func protocolColumn(e *registry.Event) string {
	if e.Protocol == "" {
		return "-"
	}
	name := strings.ToLower(e.Protocol)
	if a := e.Destination.Address; a.Is6() && name != "icmpv6" {
		name += "6"
	}
	return name
}

// senderText names who sent the packet: whom its source address names, or who took another's.
func senderText(e *registry.Event) string {
	sender := "interface " + e.Interface
	switch {
	case e.Container != nil:
		sender = e.Container.String()
	case e.Interface == "":
		return partyText(e.Source)
	}
	if !e.Source.Address.IsValid() {
		return sender
	}
	return sender + " as " + e.Source.Endpoint()
}

// partyText names an end; one that is only an address also says what is known of it.
func partyText(p registry.Party) string {
	text := p.Endpoint()
	switch {
	case p.Workload == nil && !p.Address.IsValid():
		return "-"
	case p.Workload != nil, p.Kind == registry.PartyNode, p.Kind == registry.PartyContainer, p.Kind == "":
		return text
	case p.Group != "":
		return text + " (" + p.Group + ")"
	}
	return text + " (" + string(p.Kind) + ")"
}
