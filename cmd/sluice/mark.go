package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// aboutMarks stands in the help of every command that changes a container's conditions.
const aboutMarks = "CONTAINER is a container id or the beginning of one, NAMESPACE/NAME, or NAME; an INSTANCE, one that\n" +
	"registered, is NAMESPACE/SERVICE/ID. The command returns when this node acts on the change. What was\n" +
	"said holds until the contrary is said or the container is gone; a restart of the agent does not\n" +
	"undo it. Of an instance it overrides what the instance says of itself: drain makes it DRAINING,\n" +
	"unready OUT_OF_SERVICE, and undrain and ready end either."

func (c *cli) drain() *cobra.Command {
	return c.mark("drain", "Let a container or an instance finish what it has, and send it nothing new", terminating(true), registry.InstanceDraining,
		"Services send new connections to other containers; those that the container has go on. If all\n"+
			"containers of a service are drained, they still take new ones.")
}

func (c *cli) undrain() *cobra.Command {
	return c.mark("undrain", "Send new connections to a drained container or instance again", terminating(false), "",
		"What \"sluice drain\" did is undone.")
}

func (c *cli) unready() *cobra.Command {
	return c.mark("unready", "Take a container or an instance out of its services", unready(true), registry.InstanceOutOfService,
		"Services treat the container as one that does not work: it gets no connections, not even when\n"+
			"it is the only one, unless the service wants unready ones too (publishNotReadyAddresses).")
}

func (c *cli) ready() *cobra.Command {
	return c.mark("ready", "Bring an unready container or instance back into its services", unready(false), "",
		"What \"sluice unready\" did is undone.")
}

func terminating(is bool) registry.Marks { return registry.Marks{Terminating: &is} }

func unready(is bool) registry.Marks { return registry.Marks{Unready: &is} }

// mark makes a command that changes conditions of one container, or the override of one instance.
func (c *cli) mark(verb, short string, m registry.Marks, override registry.InstanceStatus, long string) *cobra.Command {
	cmd := c.command(verb+" (CONTAINER | INSTANCE)", short, cobra.ExactArgs(1),
		func(ctx context.Context, client *api.Client, args []string) error {
			if id, ok := parseInstance(args[0]); ok {
				r, err := client.Override(ctx, id, override)
				if err != nil {
					return err
				}
				return c.results(r)
			}
			r, err := client.Mark(ctx, api.MarkRequest{Container: args[0], Marks: m})
			if err != nil {
				return err
			}
			return c.results(r)
		})
	cmd.Long = short + ".\n\n" + long + "\n\n" + aboutMarks
	cmd.Example = "  sluice " + verb + " shop/web-0\n  sluice " + verb + " shop/web/192.0.2.7:8080"
	cmd.ValidArgsFunction = c.complete(func(args []string) completer {
		if len(args) > 0 {
			return nil
		}
		return containersAndInstances
	})
	return cmd
}
