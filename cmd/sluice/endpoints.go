package main

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

func (c *cli) getEndpoints(ctx context.Context, client *api.Client, s scope) error {
	all, err := client.Endpoints(ctx)
	if err != nil {
		return err
	}
	name := s.name
	s.name = ""
	items := slices.DeleteFunc(all, func(e registry.Endpoint) bool {
		return !s.wants(e.Name) || name != "" && e.Name.Name != name && !strings.HasPrefix(e.ContainerID, name)
	})
	s.name = name
	if err := s.found("endpoint", len(items)); err != nil {
		return err
	}
	zones := map[string]string{}
	if c.output == wide {
		all, err := client.Nodes(ctx)
		if err != nil {
			return err
		}
		for _, n := range all {
			zones[n.Name] = n.Zone
		}
	}
	return c.print(api.List[registry.Endpoint]{Items: items}, func(w io.Writer) {
		heads := []string{"NAME", "STATE", "ADDRESSES", "NODE", "CONTAINER", "INTERFACE", "NETWORK", "LABELS"}
		if c.output == wide {
			heads = append(heads, "WEIGHT", "ZONE", "PORTS")
		}
		row(w, s.columns(heads...)...)
		for _, e := range items {
			cells := []string{strings.Join(api.EndpointConditions(&e), ","), list(e.Addresses), e.Node, short(e.ContainerID), e.Interface, e.Network, labels(e.Labels)}
			if c.output == wide {
				cells = append(cells, weight(e.Labels), zones[e.Node], endpointPorts(e.Ports))
			}
			row(w, s.cells(shorten(e.Name), cells...)...)
		}
	})
}

// weight is the one that a container's labels give it.
func weight(set map[string]string) string {
	if text, given := set[registry.WeightLabel]; given {
		return text
	}
	return strconv.Itoa(registry.DefaultWeight)
}

// endpointPorts writes http=8080/TCP; a port may have no name.
func endpointPorts(all []registry.EndpointPort) string {
	text := make([]string, len(all))
	for i, p := range all {
		text[i] = strconv.Itoa(int(p.Port)) + "/" + p.Protocol.String()
		if p.Name != "" {
			text[i] = p.Name + "=" + text[i]
		}
	}
	return strings.Join(text, ",")
}

func (c *cli) getSlices(ctx context.Context, client *api.Client, s scope) error {
	if !c.output.isTable() {
		objects, err := client.KubernetesSlices(ctx, s.where())
		if err != nil {
			return err
		}
		items, err := filter(objects, func(_ string, n registry.Name) bool { return s.wants(n) })
		if err != nil {
			return err
		}
		if err := s.found("endpointslice", len(items)); err != nil {
			return err
		}
		return c.printObjects(items, s)
	}
	all, err := client.Slices(ctx, s.where())
	if err != nil {
		return err
	}
	items := slices.DeleteFunc(all, func(v registry.Slice) bool { return !s.wants(v.Name) })
	if err := s.found("endpointslice", len(items)); err != nil {
		return err
	}
	return c.print(nil, func(w io.Writer) {
		row(w, s.columns("NAME", "SERVICE", "FAMILY", "PORTS", "ENDPOINTS", "READY", "DRAINING")...)
		for _, v := range items {
			ready, draining := 0, 0
			for _, e := range v.Endpoints {
				if e.Terminating && e.Serving {
					draining++
				} else if e.Ready && !e.Terminating {
					ready++
				}
			}
			row(w, s.cells(v.Name, v.Service, v.Family.String(), endpointPorts(v.Ports), strconv.Itoa(len(v.Endpoints)),
				strconv.Itoa(ready), strconv.Itoa(draining))...)
		}
	})
}
