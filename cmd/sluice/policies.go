package main

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

func isPolicy(kind string) bool { return kind == "policies" || kind == "policy" }

func isNamespace(kind string) bool {
	return kind == "namespaces" || kind == "namespace" || kind == "ns"
}

// policyKinds returns what users call the kinds of policies.
func policyKinds() []string {
	return []string{"networkpolicy", "adminnetworkpolicy", "baselineadminnetworkpolicy"}
}

// policyTier returns the tier of one kind of policies, whose plural and Kubernetes' short name fit too.
func policyTier(kind string) (registry.Tier, bool) {
	switch kind {
	case "networkpolicy", "networkpolicies", "netpol":
		return registry.TierNamespaced, true
	case "adminnetworkpolicy", "adminnetworkpolicies", "anp":
		return registry.TierAdmin, true
	case "baselineadminnetworkpolicy", "baselineadminnetworkpolicies", "banp":
		return registry.TierBaseline, true
	}
	return 0, false
}

// getPolicies shows the policies of some tiers, or of all. Those of the whole cluster are of every
// namespace.
func (c *cli) getPolicies(ctx context.Context, client *api.Client, s scope, tiers ...registry.Tier) error {
	wants := func(id registry.PolicyID) bool {
		return (len(tiers) == 0 || slices.Contains(tiers, id.Tier)) && (s.name == "" || id.Name.Name == s.name)
	}
	if !c.output.isTable() {
		return c.getKubernetesPolicies(ctx, client, s, wants)
	}
	all, err := client.Policies(ctx, s.where(), c.output == wide)
	if err != nil {
		return err
	}
	items := slices.DeleteFunc(all, func(p api.Policy) bool { return !wants(p.PolicyID) })
	if err := s.found("policy", len(items)); err != nil {
		return err
	}
	return c.print(nil, func(w io.Writer) {
		heads := append([]string{"KIND"}, s.columns("NAME", "PRIORITY", "DIRECTIONS", "AUDIT", "SELECTS")...)
		if c.output == wide {
			heads = append(heads, "CONTAINERS")
		}
		row(w, heads...)
		for _, p := range items {
			cells := append([]string{p.Tier.String()}, s.cells(p.Name, priority(p), directions(p), yes(p.Audit), strconv.Itoa(p.Selected))...)
			if c.output == wide {
				cells = append(cells, workloadNames(p.Containers))
			}
			row(w, cells...)
		}
	})
}

func (c *cli) getKubernetesPolicies(ctx context.Context, client *api.Client, s scope, wants func(registry.PolicyID) bool) error {
	objects, err := client.KubernetesPolicies(ctx, s.where())
	if err != nil {
		return err
	}
	items, err := filter(objects, func(kind string, n registry.Name) bool {
		var tier registry.Tier
		return tier.UnmarshalText([]byte(kind)) == nil && wants(registry.PolicyID{Tier: tier, Name: n})
	})
	if err != nil {
		return err
	}
	if err := s.found("policy", len(items)); err != nil {
		return err
	}
	return c.printObjects(items, s)
}

// printObjects shows one object that was asked for by name as it is, and others in a List.
func (c *cli) printObjects(items []json.RawMessage, s scope) error {
	if s.name != "" && len(items) == 1 {
		return c.print(items[0], nil)
	}
	return c.printList(items)
}

func priority(p api.Policy) string {
	if p.Tier != registry.TierAdmin {
		return ""
	}
	return strconv.Itoa(int(p.Priority))
}

// directions are those that the policy has a say in.
func directions(p api.Policy) string {
	var list []string
	for _, d := range []registry.Direction{registry.Ingress, registry.Egress} {
		if p.Concerns(d) {
			list = append(list, d.String())
		}
	}
	return strings.Join(list, ",")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// workloadNames names containers, each once however many interfaces it has.
func workloadNames(containers []api.Container) string {
	var names []string
	for _, c := range containers {
		c.Name = shorten(c.Name)
		names = append(names, c.Name.String())
	}
	return strings.Join(slices.Compact(names), ",")
}

func (c *cli) getNamespaces(ctx context.Context, client *api.Client, s scope) error {
	if !c.output.isTable() {
		objects, err := client.KubernetesNamespaces(ctx)
		if err != nil {
			return err
		}
		items, err := filter(objects, func(_ string, n registry.Name) bool { return s.name == "" || n.Name == s.name })
		if err != nil {
			return err
		}
		if err := s.found("namespace", len(items)); err != nil {
			return err
		}
		return c.printObjects(items, s)
	}
	items, err := client.Namespaces(ctx)
	if err != nil {
		return err
	}
	items = slices.DeleteFunc(items, func(n registry.Namespace) bool { return s.name != "" && n.Name != s.name })
	if err := s.found("namespace", len(items)); err != nil {
		return err
	}
	return c.print(nil, func(w io.Writer) {
		row(w, "NAME", "LABELS")
		for _, n := range items {
			row(w, n.Name, labels(n.Labels))
		}
	})
}
