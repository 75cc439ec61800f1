package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

const shortID = 12 // letters of a container id in a table

// scope is what a get command is asked for.
type scope struct {
	namespace string
	all       bool
	name      string // "" for every one
}

func (s scope) wants(n registry.Name) bool {
	return (s.all || n.Namespace == s.namespace) && (s.name == "" || n.Name == s.name)
}

// where is the namespace to ask the agent for.
func (s scope) where() string {
	if s.all {
		return ""
	}
	return s.namespace
}

func (c *cli) get() *cobra.Command {
	var s scope
	cmd := c.command("get KIND [NAME]", "Show services, their slices and instances, policies, namespaces, endpoints or nodes", cobra.RangeArgs(1, 2),
		func(ctx context.Context, client *api.Client, args []string) error {
			if len(args) == 2 {
				s.name = args[1]
			}
			switch {
			case isService(args[0]):
				return c.getServices(ctx, client, s)
			case isEndpoint(args[0]):
				return c.getEndpoints(ctx, client, s)
			case isInstance(args[0]):
				return c.getInstances(ctx, client, s)
			case isSlice(args[0]):
				return c.getSlices(ctx, client, s)
			case isNode(args[0]):
				return c.getNodes(ctx, client, s)
			case isNamespace(args[0]):
				return c.getNamespaces(ctx, client, s)
			case isPolicy(args[0]):
				return c.getPolicies(ctx, client, s)
			}
			if tier, one := policyTier(args[0]); one {
				return c.getPolicies(ctx, client, s, tier)
			}
			return usagef("unknown kind %q: want %s", args[0], strings.Join(kinds(), ", "))
		})
	cmd.Long = "Show services, endpointslices, instances, policies, namespaces, endpoints or nodes.\n\n" +
		"A service's BACKENDS are those that take new connections, as this node sees them, and those that\n" +
		"only keep what they have. An endpoint's STATE is ready, unready or draining, or both of these. With\n" +
		"-o wide there is more of both. A node is away when its agent is not in touch with the registry;\n" +
		"what it forwards it goes on forwarding. NAME of instances is SERVICE, or SERVICE/ID; their STATUS is what\n" +
		"counts, and what they say themselves if that is something else.\n\n" +
		"With -o yaml or json, what \"sluice apply\" takes is shown as Kubernetes objects. A policy's\n" +
		"status then names the containers that it selects, as -o wide does. \"policies\" shows all kinds\n" +
		"of them, those of the whole cluster in every namespace."
	cmd.Example = "  sluice get services\n  sluice get svc web -n shop -o yaml\n  sluice get policies -A -o wide\n  sluice get endpoints -A"
	namespaceFlag(cmd, c, &s.namespace)
	cmd.Flags().BoolVarP(&s.all, "all-namespaces", "A", false, "of all namespaces")
	cmd.ValidArgsFunction = c.complete(func(args []string) completer {
		switch {
		case len(args) == 0:
			return fixed(kinds()...)
		case len(args) == 1 && isService(args[0]):
			return services(&s.namespace)
		case len(args) == 1 && isEndpoint(args[0]):
			return workloads(&s.namespace)
		case len(args) == 1 && isInstance(args[0]):
			return registeredServices(&s.namespace)
		case len(args) == 1 && isSlice(args[0]):
			return endpointSlices(&s.namespace)
		case len(args) == 1 && isNode(args[0]):
			return nodes
		case len(args) == 1 && isNamespace(args[0]):
			return namespaces
		case len(args) == 1 && isPolicy(args[0]):
			return policies(&s.namespace)
		case len(args) == 1:
			if tier, one := policyTier(args[0]); one {
				return policies(&s.namespace, tier)
			}
		}
		return nil
	})
	return cmd
}

// kinds returns what can be shown.
func kinds() []string {
	return append([]string{"services", "endpointslices", "instances", "policies", "namespaces", "endpoints", "nodes"}, policyKinds()...)
}

func isSlice(kind string) bool { return kind == "endpointslices" || kind == "endpointslice" }

func isEndpoint(kind string) bool { return kind == "endpoints" || kind == "endpoint" || kind == "ep" }

// getKubernetes shows services as Kubernetes does: one as it is, several in a List.
func (c *cli) getKubernetes(ctx context.Context, client *api.Client, s scope) error {
	if s.name != "" && !s.all {
		object, err := client.KubernetesService(ctx, registry.Name{Namespace: s.namespace, Name: s.name})
		if err != nil {
			return err
		}
		return c.print(object, nil)
	}
	objects, err := client.KubernetesServices(ctx, s.where())
	if err != nil {
		return err
	}
	items, err := filter(objects, func(kind string, n registry.Name) bool { return s.wants(n) })
	if err != nil {
		return err
	}
	if err := s.found("service", len(items)); err != nil {
		return err
	}
	return c.printList(items)
}

// filter reads the heads of Kubernetes objects and keeps those that are wanted.
func filter(objects []json.RawMessage, wants func(kind string, n registry.Name) bool) ([]json.RawMessage, error) {
	items := []json.RawMessage{}
	for _, o := range objects {
		var head struct {
			Kind     string        `json:"kind"`
			Metadata registry.Name `json:"metadata"`
		}
		if err := json.Unmarshal(o, &head); err != nil {
			return nil, fmt.Errorf("read object: %w", err)
		}
		if wants(head.Kind, head.Metadata) {
			items = append(items, o)
		}
	}
	return items, nil
}

// printList shows Kubernetes objects in a List.
func (c *cli) printList(items []json.RawMessage) error {
	return c.print(struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Items      []json.RawMessage `json:"items"`
	}{"v1", "List", items}, nil)
}

// found is an error when one thing was asked for by name and is not there.
func (s scope) found(kind string, n int) error {
	if n > 0 || s.name == "" {
		return nil
	}
	if kind != "node" && kind != "namespace" && !s.all {
		return fmt.Errorf("%s %s/%s: not found (-A looks in all namespaces)", kind, s.namespace, s.name)
	}
	return fmt.Errorf("%s %s: not found", kind, s.name)
}

func (s scope) columns(heads ...string) []string {
	if s.all {
		return append([]string{"NAMESPACE"}, heads...)
	}
	return heads
}

func (s scope) cells(n registry.Name, rest ...string) []string {
	cells := append([]string{n.Name}, rest...)
	if s.all {
		return append([]string{n.Namespace}, cells...)
	}
	return cells
}

func short(id string) string {
	if len(id) > shortID {
		return id[:shortID]
	}
	return id
}

// shorten cuts the name of a container that has none but its id.
func shorten(n registry.Name) registry.Name {
	if len(n.Name) >= 64 {
		n.Name = short(n.Name)
	}
	return n
}
