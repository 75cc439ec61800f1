package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry/api"
)

const pollInterval = 50 * time.Millisecond

func (c *cli) status() *cobra.Command {
	var wait time.Duration
	cmd := c.command("status", "Show how this node does", cobra.NoArgs,
		func(ctx context.Context, client *api.Client, _ []string) error {
			s, err := await(ctx, client, wait)
			if err != nil {
				return err
			}
			if err := c.print(s, func(w io.Writer) { writeStatus(w, s) }); err != nil {
				return err
			}
			if !s.Ready {
				return errSaid
			}
			return nil
		})
	cmd.Long = "Show how this node does. Exits with 1 when it is not ready."
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait so long for the node to be ready, e.g. 30s")
	return cmd
}

// await asks until the node is ready or the time is over. It returns the last answer, or why there
// was none.
func await(ctx context.Context, client *api.Client, wait time.Duration) (api.Status, error) {
	end := time.Now().Add(wait)
	for {
		s, err := client.Status(ctx)
		var away *api.UnreachableError
		again := err == nil && !s.Ready || errors.As(err, &away)
		if !again || time.Until(end) < pollInterval {
			if err != nil && wait > 0 && again {
				err = fmt.Errorf("node is not ready after %s: %w", wait, err)
			}
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}

func writeStatus(w io.Writer, s api.Status) {
	ready := "yes"
	if !s.Ready {
		ready = "NO"
	}
	fmt.Fprintf(w, "Node:\t%s\n", s.Node)
	fmt.Fprintf(w, "Version:\t%s\n", s.Version)
	fmt.Fprintf(w, "Kernel:\t%s, programs attached by %s\n", s.Kernel, s.Attach)
	fmt.Fprintf(w, "Ready:\t%s\n", ready)
	for _, c := range s.Conditions {
		state := "ok"
		if !c.OK {
			state = "NOT OK"
		}
		fmt.Fprintf(w, "  %s:\t%s\n", c.Name, strings.TrimSuffix(state+", "+c.Message, ", "))
	}
	backends := count(s.Counts.Backends, "backend")
	if n := s.Counts.Draining; n > 0 {
		backends += fmt.Sprintf(" (%d draining)", n)
	}
	fmt.Fprintf(w, "Registry:\trevision %d, %s, %s, %s, %s, %s\n", s.Revision, count(s.Counts.Services, "service"),
		backends, count(s.Counts.Endpoints, "endpoint"),
		countMany(s.Counts.Policies, "policy", "policies"), count(s.Counts.Namespaces, "namespace"))
	fmt.Fprintf(w, "This node:\t%s\n", count(s.Counts.Containers, "container"))
	if len(s.Pools) > 0 {
		fmt.Fprintln(w)
		row(w, "ADDRESSES", "RANGE", "USED", "SIZE")
		for _, p := range s.Pools {
			row(w, p.Use, p.CIDR.String(), strconv.FormatUint(p.Used, 10), size(p.Size))
		}
	}
	if len(s.Maps) > 0 {
		fmt.Fprintln(w)
		row(w, "MAP", "ENTRIES", "LIMIT", "FILL", "MEMORY")
		for _, m := range s.Maps {
			fill := "-"
			if m.Limit > 0 {
				fill = fmt.Sprintf("%.1f%%", 100*float64(m.Entries)/float64(m.Limit))
			}
			row(w, m.Name, strconv.FormatUint(m.Entries, 10), strconv.FormatUint(m.Limit, 10), fill, bytesText(m.Bytes))
		}
	}
}

// size writes a number of addresses; beyond a billion nobody counts.
func size(n uint64) string {
	if n >= 1e9 {
		return "> 10^9"
	}
	return strconv.FormatUint(n, 10)
}
