package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// completionTimeout is short: someone waits with a finger on the tab key.
const completionTimeout = 2 * time.Second

// completer returns the words that fit at one place; nil means none.
type completer func(context.Context, *api.Client) ([]string, error)

// complete makes a completion function of one that chooses a completer by the arguments so far.
func (c *cli) complete(choose func(args []string) completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
		words := choose(args)
		if words == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
		defer cancel()
		client := api.NewClient(c.socket)
		defer client.Close()
		all, err := words(ctx, client)
		if err != nil {
			cobra.CompDebugln(err.Error(), false)
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		slices.Sort(all)
		all = slices.Compact(all)
		return slices.DeleteFunc(all, func(w string) bool { return !strings.HasPrefix(w, begin) }), cobra.ShellCompDirectiveNoFileComp
	}
}

func fixed(words ...string) completer {
	return func(context.Context, *api.Client) ([]string, error) { return words, nil }
}

func services(namespace *string) completer {
	return func(ctx context.Context, client *api.Client) (words []string, err error) {
		all, err := client.Services(ctx, *namespace)
		for _, s := range all {
			words = append(words, s.Name.Name)
		}
		return words, err
	}
}

func endpointSlices(namespace *string) completer {
	return func(ctx context.Context, client *api.Client) (words []string, err error) {
		all, err := client.Slices(ctx, *namespace)
		for _, s := range all {
			words = append(words, s.Name.Name)
		}
		return words, err
	}
}

func workloads(namespace *string) completer {
	return func(ctx context.Context, client *api.Client) (words []string, err error) {
		all, err := client.Endpoints(ctx)
		for _, e := range all {
			if e.Name.Namespace == *namespace {
				words = append(words, e.Name.Name)
			}
		}
		return words, err
	}
}

func nodes(ctx context.Context, client *api.Client) (words []string, err error) {
	all, err := client.Nodes(ctx)
	for _, n := range all {
		words = append(words, n.Name)
	}
	return words, err
}

func containers(ctx context.Context, client *api.Client) (words []string, err error) {
	all, err := client.Endpoints(ctx)
	for _, e := range all {
		words = append(words, e.Name.String(), e.ContainerID)
	}
	return words, err
}

func containersAndInstances(ctx context.Context, client *api.Client) ([]string, error) {
	words, err := containers(ctx, client)
	if err != nil {
		return nil, err
	}
	more, err := instances(ctx, client)
	return append(words, more...), err
}

func namespaces(ctx context.Context, client *api.Client) (words []string, err error) {
	all, err := client.Namespaces(ctx)
	for _, n := range all {
		words = append(words, n.Name)
	}
	return words, err
}

// policies completes the names of those of one tier, or of all.
func policies(namespace *string, tiers ...registry.Tier) completer {
	return func(ctx context.Context, client *api.Client) (words []string, err error) {
		all, err := client.Policies(ctx, *namespace, false)
		for _, p := range all {
			if len(tiers) == 0 || slices.Contains(tiers, p.Tier) {
				words = append(words, p.Name.Name)
			}
		}
		return words, err
	}
}
