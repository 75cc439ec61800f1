package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

func (c *cli) why() *cobra.Command {
	var steps bool
	cmd := c.command("why SRC DST[:PORT][/PROTO]", "Say whether traffic passes, and by what", cobra.ExactArgs(2),
		func(ctx context.Context, client *api.Client, args []string) error {
			q, err := parseWhy(args[0], args[1])
			if err != nil {
				return err
			}
			t, err := client.Why(ctx, q)
			if err != nil {
				return exit{exitError, err}
			}
			if err := c.print(t, func(w io.Writer) { writeTrace(w, &t, steps) }); err != nil {
				return exit{exitError, err}
			}
			if !t.Verdict.Passes() {
				return exit{exitDenied, errSaid}
			}
			return nil
		})
	cmd.Long = "Say whether a new connection passes, and by what.\n\n" +
		"SRC is a container (id, NAMESPACE/NAME, NAME or the beginning of an id), an address, node or\n" +
		"world. DST is the same, or a service (NAMESPACE/NAME, or NAME in namespace default), of which\n" +
		"each backend is judged. PROTO is tcp when it is not given. The agent makes the look-ups that the\n" +
		"kernel's programs make for the first packet, in the same maps; --steps shows them.\n\n" +
		"Exits with 0 when all of it passes, with 1 when something does not, and with 2 after an error."
	cmd.Example = "  sluice why shop/client shop/db:5432\n  sluice why world 10.244.1.7:53/udp\n  sluice why shop/client 'node/icmp'"
	cmd.Flags().BoolVar(&steps, "steps", false, "show each look-up: map, key, value")
	cmd.ValidArgsFunction = c.complete(func(args []string) completer {
		if len(args) < 2 {
			return containers
		}
		return nil
	})
	return cmd
}

// parseWhy reads what to ask for.
func parseWhy(from, to string) (q api.WhyQuery, err error) {
	q = api.WhyQuery{From: from, To: to, Protocol: registry.TCP.String()}
	number := uint8(registry.TCP)
	if i := strings.LastIndexByte(to, '/'); i >= 0 {
		if number, err = registry.ProtocolNumber(to[i+1:]); err == nil {
			q.To, q.Protocol = to[:i], registry.ProtocolName(number)
		} else {
			number = uint8(registry.TCP)
		}
	}
	switch registry.Protocol(number) {
	case registry.TCP, registry.UDP, registry.SCTP:
	default:
		q.To = strings.TrimSuffix(strings.TrimPrefix(q.To, "["), "]")
		return q, nil
	}
	host, port, cut := cutLast(q.To, ":")
	n, err := strconv.ParseUint(port, 10, 16)
	if !cut || err != nil || n == 0 || strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		return q, usagef("destination %q: want DST:PORT, DST:PORT/PROTO or DST/icmp; of IPv6 [ADDRESS]:PORT", to)
	}
	q.To, q.Port = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), uint16(n)
	return q, nil
}

// cutLast cuts a string at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// writeTrace says the verdict first, and then what it comes from.
func writeTrace(w io.Writer, t *registry.Trace, steps bool) {
	to := t.To
	if t.Port != 0 && strings.Contains(to, ":") {
		to = fmt.Sprintf("[%s]:%d", to, t.Port)
	} else if t.Port != 0 {
		to = fmt.Sprintf("%s:%d", to, t.Port)
	}
	fmt.Fprintf(w, "%s: %s to %s/%s\n", verdictText(t.Verdict), t.From, to, strings.ToLower(t.Protocol))
	for i := range t.Flows {
		writeFlow(w, &t.Flows[i], steps)
	}
}

func verdictText(v registry.Verdict) string {
	switch v {
	case registry.VerdictAudit:
		return "allowed (in audit mode only)"
	case registry.VerdictMixed:
		return "partly allowed"
	}
	return string(v)
}

func writeFlow(w io.Writer, f *registry.TraceFlow, steps bool) {
	head := fmt.Sprintf("  %s -> %s", located(f.Source), located(f.Destination))
	if f.Service != nil {
		head += ", service " + f.Service.String()
	}
	if f.Service != nil || len(f.Targets) == 0 {
		fmt.Fprintf(w, "%s: %s", head, verdictText(f.Verdict))
		if f.Reason != "" {
			fmt.Fprintf(w, ", %s", f.Reason)
		}
		fmt.Fprintln(w)
		writeSteps(w, "      ", f.Steps, steps)
	}
	writeChoice(w, f.Choice)
	uneven := f.Choice != nil && slices.ContainsFunc(f.Targets, func(t registry.TraceTarget) bool {
		return t.Slots != f.Targets[0].Slots
	})
	for i := range f.Targets {
		t := &f.Targets[i]
		if f.Service != nil {
			head = "    backend " + located(t.Party)
		}
		if uneven {
			head += fmt.Sprintf(", %d of %d slots", t.Slots, f.Choice.Slots)
		}
		fmt.Fprintf(w, "%s: %s", head, verdictText(t.Verdict))
		if t.Reason != "" {
			fmt.Fprintf(w, ", %s", reasonText(t))
		}
		fmt.Fprintln(w)
		if f.Service == nil {
			writeSteps(w, "      ", f.Steps, steps)
		}
		writeSteps(w, "      ", t.Steps, steps)
		for j := range t.Sides {
			writeSide(w, &t.Sides[j], steps)
		}
	}
	if f.More > 0 {
		fmt.Fprintf(w, "    and %s more, not judged\n", count(f.More, "backend"))
	}
}

// writeChoice says how a backend is chosen, where that is more than evenly at random.
func writeChoice(w io.Writer, c *registry.TraceChoice) {
	if c == nil {
		return
	}
	switch {
	case c.AffinityTimeout > 0:
		fmt.Fprintf(w, "    chosen by %s, a client stays for %d s\n", c.Algorithm, c.AffinityTimeout)
	case c.Algorithm != registry.AlgorithmRandom:
		fmt.Fprintf(w, "    chosen by %s\n", c.Algorithm)
	}
	for _, a := range c.Affinity {
		who := "packets of this address"
		if a.By == "namespace" {
			who = "sockets of its network namespace"
		}
		if a.Ended == "" {
			fmt.Fprintf(w, "      %s stay with %s for %d s\n", who, a.Backend, a.Seconds)
		} else {
			fmt.Fprintf(w, "      %s do not stay where they were: %s\n", who, a.Ended)
		}
	}
	for _, b := range c.Draining {
		fmt.Fprintf(w, "    backend %s is draining: not chosen\n", b)
	}
}

// located names an end and says where it is.
func located(p registry.Party) string {
	text := p.Endpoint()
	switch {
	case !p.Address.IsValid() || text == (registry.Party{Address: p.Address, Port: p.Port}).Endpoint():
		if p.Group != "" {
			text += " (" + p.Group + ")"
		}
		return text
	case p.Workload != nil || p.Kind == registry.PartyNode:
		return text + " (" + p.Address.String() + ")"
	}
	return text
}

// reasonText explains a target's reason.
func reasonText(t *registry.TraceTarget) string {
	switch t.Reason {
	case "ingress":
		return "by the receiver's ingress policies"
	case "egress":
		return "by the sender's egress policies"
	case "network":
		return "the networks are closed to each other"
	case "closed":
		return "closed: the policies did not fit into this node's maps"
	}
	return t.Reason
}

func writeSide(w io.Writer, s *registry.TraceSide, steps bool) {
	if s.Disagreement != "" {
		fmt.Fprintf(w, "      !!! maps and policies disagree: %s\n", s.Disagreement)
	}
	switch {
	case len(s.Reasons) > 0:
		for _, r := range s.Reasons {
			fmt.Fprintf(w, "      %s of %s: %s\n", s.Direction, s.Subject, ruleText(r, s.Direction))
		}
	case s.Policy != nil:
		fmt.Fprintf(w, "      %s of %s: %s by %s\n", s.Direction, s.Subject, s.Verdict, s.Policy)
	default:
		fmt.Fprintf(w, "      %s of %s: no policy\n", s.Direction, s.Subject)
	}
	writeSteps(w, "        ", s.Steps, steps)
}

func ruleText(r registry.TraceReason, d registry.Direction) string {
	text := ""
	if r.Rule < 0 {
		text = fmt.Sprintf("%s closes it but for what its rules allow", r.Policy)
	} else {
		text = fmt.Sprintf("%s, %s rule %d: %s", r.Policy, d, r.Rule+1, r.Action)
	}
	if r.Audit {
		text += " (audit mode)"
	}
	return text
}

func writeSteps(w io.Writer, indent string, all []registry.TraceStep, wanted bool) {
	if !wanted {
		return
	}
	for _, s := range all {
		fmt.Fprintf(w, "%s%s[%s] = %s\n", indent, s.Map, s.Key, s.Value)
	}
}
