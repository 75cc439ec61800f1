package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry/api"
)

func (c *cli) label() *cobra.Command {
	cmd := c.command("label CONTAINER KEY=VALUE... KEY-...", "Set or remove labels of a running container", cobra.MinimumNArgs(2),
		func(ctx context.Context, client *api.Client, args []string) error {
			req, err := parseLabels(args)
			if err != nil {
				return err
			}
			r, err := client.Label(ctx, req)
			if err != nil {
				return err
			}
			return c.results(r)
		})
	cmd.Long = "Set or remove labels of a running container.\n\n" +
		"CONTAINER is a container id or the beginning of one, NAMESPACE/NAME, or NAME. The command\n" +
		"returns when this node acts on the change. The label sluice.net/weight, 0 to 256, says how many\n" +
		"new connections the container takes, relative to the others of a service; 1 without it. With 0\n" +
		"it takes new ones only where all have 0."
	cmd.Example = "  sluice label 3f2a91c0 app=web\n  sluice label shop/web-0 canary-"
	cmd.ValidArgsFunction = c.complete(func(args []string) completer {
		if len(args) > 0 {
			return nil
		}
		return containers
	})
	return cmd
}

func parseLabels(args []string) (api.LabelRequest, error) {
	req := api.LabelRequest{Container: args[0], Set: map[string]string{}}
	for _, a := range args[1:] {
		k, v, set := strings.Cut(a, "=")
		switch {
		case set && k != "":
			if old, twice := req.Set[k]; twice && old != v {
				return req, usagef("label %s is given twice: %q and %q", k, old, v)
			}
			req.Set[k] = v
		case !set && len(a) > 1 && strings.HasSuffix(a, "-"):
			req.Remove = append(req.Remove, strings.TrimSuffix(a, "-"))
		default:
			return req, usagef("label %q: want KEY=VALUE to set it or KEY- to remove it", a)
		}
	}
	return req, nil
}
