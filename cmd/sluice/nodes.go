package main

import (
	"context"
	"io"
	"slices"
	"strconv"

	"github.com/sluice-net/sluice/registry/api"
)

func isNode(kind string) bool { return kind == "nodes" || kind == "node" }

func (c *cli) getNodes(ctx context.Context, client *api.Client, s scope) error {
	items, err := client.Nodes(ctx)
	if err != nil {
		return err
	}
	items = slices.DeleteFunc(items, func(n api.Node) bool { return s.name != "" && n.Name != s.name })
	if err := s.found("node", len(items)); err != nil {
		return err
	}
	return c.print(api.List[api.Node]{Items: items}, func(w io.Writer) {
		heads := []string{"NAME", "AGENT", "ZONE", "ADDRESSES", "ENDPOINTS"}
		if c.output == wide {
			heads = append(heads, "CONTAINERS", "VERSION", "SINCE")
		}
		row(w, heads...)
		for _, n := range items {
			agent, version, since := "away", "", ""
			if n.Agent != nil {
				agent, version, since = "ready", n.Agent.Version, n.Agent.Since.Local().Format("2006-01-02 15:04:05")
			}
			cells := []string{n.Name, agent, n.Zone, list(n.Addresses), strconv.Itoa(n.Endpoints)}
			if c.output == wide {
				cells = append(cells, list(n.ContainerCIDRs), version, since)
			}
			row(w, cells...)
		}
	})
}
