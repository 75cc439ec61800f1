package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry/api"
)

func (c *cli) version() *cobra.Command {
	return c.command("version", "Show the versions of this program and of the agent", cobra.NoArgs,
		func(ctx context.Context, client *api.Client, _ []string) error {
			agent, err := client.Version(ctx)
			var away *api.UnreachableError
			if err != nil && !errors.As(err, &away) {
				return err
			}
			versions := struct {
				Client string `json:"client"`
				Agent  string `json:"agent,omitempty"`
				Node   string `json:"node,omitempty"`
			}{buildVersion(), agent.Version, agent.Node}
			return c.print(versions, func(w io.Writer) {
				fmt.Fprintf(w, "sluice\t%s\n", versions.Client)
				if away != nil {
					fmt.Fprintf(w, "sluiced\tnot running at %s\n", c.socket)
				} else {
					fmt.Fprintf(w, "sluiced\t%s (node %s)\n", agent.Version, agent.Node)
				}
			})
		})
}

// buildVersion is what the Go toolchain noted of the source that this was built from.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
