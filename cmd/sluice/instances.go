package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// aboutInstances stands in the help of every command that takes one.
const aboutInstances = "INSTANCE is NAMESPACE/SERVICE/ID, as \"sluice get instances -A\" shows it."

func isInstance(kind string) bool { return kind == "instances" || kind == "instance" || kind == "inst" }

// parseInstance reads NAMESPACE/SERVICE/ID; ok is false for what is no name of an instance.
func parseInstance(word string) (id registry.InstanceID, ok bool) {
	parts := strings.Split(word, "/")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return id, false
	}
	return registry.InstanceID{Namespace: parts[0], Service: parts[1], ID: parts[2]}, true
}

func (c *cli) getInstances(ctx context.Context, client *api.Client, s scope) error {
	// The name is that of a service, or of one instance of it.
	service, one, _ := strings.Cut(s.name, "/")
	items, err := client.Instances(ctx, api.InstanceQuery{Namespace: s.where(), Service: service})
	if err != nil {
		return err
	}
	if one != "" {
		kept := items[:0]
		for _, i := range items {
			if i.ID == one {
				kept = append(kept, i)
			}
		}
		items = kept
	}
	if err := s.found("instance", len(items)); err != nil {
		return err
	}
	return c.print(api.List[api.Instance]{Items: items}, func(w io.Writer) {
		heads := []string{"SERVICE", "ID", "STATUS", "HEALTH", "ADDRESSES", "PORTS", "NODE"}
		if c.output == wide {
			heads = append(heads, "WEIGHT", "ZONE", "VERSION", "LEASE", "METADATA")
		}
		row(w, s.columns(heads...)...)
		for n := range items {
			i := &items[n]
			cells := []string{i.ID, instanceStatus(i), instanceHealth(i), list(i.Addresses), endpointPorts(i.Ports), i.Node}
			if c.output == wide {
				cells = append(cells, instanceWeight(i), i.Zone, i.Version, instanceLease(i), labels(i.Metadata))
			}
			row(w, s.cells(i.ServiceName(), cells...)...)
		}
	})
}

// instanceStatus is the status that counts, and what the instance says itself if that differs.
func instanceStatus(i *api.Instance) string {
	if i.Override != "" && i.Override != i.Status {
		return fmt.Sprintf("%s (says %s)", i.Override, i.Status)
	}
	return string(i.Status)
}

func instanceHealth(i *api.Instance) string {
	switch {
	case i.Lapsed:
		return "no heartbeat"
	case i.Health != nil:
		return "failing: " + i.Health.Reason
	case len(i.Checks) > 0:
		return "passing"
	}
	return ""
}

func instanceWeight(i *api.Instance) string {
	if i.Weight == nil {
		return strconv.Itoa(registry.DefaultWeight)
	}
	return strconv.Itoa(int(*i.Weight))
}

func instanceLease(i *api.Instance) string {
	if i.Lease == 0 {
		return ""
	}
	return strconv.Itoa(int(i.Lease)) + "s"
}

// instances completes the full names of all.
func instances(ctx context.Context, client *api.Client) (words []string, err error) {
	all, err := client.Instances(ctx, api.InstanceQuery{})
	for _, i := range all {
		words = append(words, i.InstanceID.String())
	}
	return words, err
}

// registeredServices completes the services that have instances.
func registeredServices(namespace *string) completer {
	return func(ctx context.Context, client *api.Client) (words []string, err error) {
		all, err := client.Instances(ctx, api.InstanceQuery{Namespace: *namespace})
		for _, i := range all {
			words = append(words, i.Service)
		}
		return words, err
	}
}
