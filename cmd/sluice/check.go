package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry/api"
)

func (c *cli) check() *cobra.Command {
	cmd := c.command("check", "Compare this node's maps and programs with the registry", cobra.NoArgs,
		func(ctx context.Context, client *api.Client, _ []string) error {
			r, err := client.Check(ctx)
			if err != nil {
				return err
			}
			err = c.print(r, func(w io.Writer) {
				for _, d := range r.Differences {
					fmt.Fprintln(w, d)
				}
				if len(r.Differences) == 0 {
					fmt.Fprintf(w, "maps and registry are equal (%s, %s, %s)\n", count(r.Services, "service"),
						count(r.Backends, "backend"), count(r.Containers, "container"))
				}
			})
			if err == nil && len(r.Differences) > 0 {
				return errSaid
			}
			return err
		})
	cmd.Long = "Compare this node's maps and programs with the registry.\n\n" +
		"Prints every difference, and then exits with 1. A node that is just working on a change may\n" +
		"show differences for a moment."
	return cmd
}

func count(n int, noun string) string { return countMany(n, noun, noun+"s") }

func countMany(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
