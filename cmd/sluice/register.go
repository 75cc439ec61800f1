package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// registration is what "sluice register" is told.
type registration struct {
	namespace, id, host string
	node, zone, version string
	addresses, ports    []string
	metadata, checks    []string
	status              string
	weight              uint16
	lease, interval     time.Duration
	keep                bool
}

func (c *cli) register() *cobra.Command {
	var r registration
	var flags *pflag.FlagSet
	cmd := c.command("register SERVICE --address ADDRESS --port [NAME=]PORT[/PROTOCOL]", "Register an instance of a service", cobra.ExactArgs(1),
		func(ctx context.Context, client *api.Client, args []string) error {
			i, err := r.instance(args[0], flags.Changed("weight"))
			if err != nil {
				return err
			}
			out, err := client.Register(ctx, i)
			if err != nil {
				return err
			}
			if err := c.results(out); err != nil || !r.keep {
				return err
			}
			return c.keepRegistered(ctx, client, i)
		})
	flags = cmd.Flags()
	cmd.Long = "Register an instance of a service: a process that no container of Sluice stands for.\n\n" +
		"While it is up, its lease is renewed and its checks pass, it is a backend of the service of that\n" +
		"name, which is made with a VIP if there is none. Registering the same id again replaces it.\n\n" +
		"Without --lease it is registered for good. With --lease it has to be renewed, which --keep does\n" +
		"until the command is ended; then the instance is deregistered.\n\n" +
		"A check is tcp, http://[HOST][:PORT]/PATH, https://…, or grpc[:SERVICE]; without a port it is the first.\n" +
		"The agent nearest to the instance makes them, each --interval."
	cmd.Example = "  sluice register web --address 192.0.2.7 --port http=8080 --check http:///healthz\n" +
		"  sluice register web -n shop --id web-1 --address 192.0.2.7 --port 8080 --lease 30s --keep"
	namespaceFlag(cmd, c, &r.namespace)
	flags.StringVar(&r.id, "id", "", "of the instance; ADDRESS:PORT unless said")
	flags.StringSliceVar(&r.addresses, "address", nil, "IP address; one of each family")
	flags.StringSliceVar(&r.ports, "port", nil, "[NAME=]PORT[/PROTOCOL]; may be repeated")
	flags.StringVar(&r.host, "host", "", "name that it goes by")
	flags.StringVar(&r.node, "node", "", "that it runs on")
	flags.StringVar(&r.zone, "zone", "", "that it is in; that of the node unless said")
	flags.StringVar(&r.version, "app-version", "", "version of what runs there")
	flags.StringSliceVar(&r.metadata, "metadata", nil, "KEY=VALUE; may be repeated")
	flags.StringVar(&r.status, "status", string(registry.InstanceUp), "STARTING, UP, DRAINING, OUT_OF_SERVICE or DOWN")
	flags.Uint16Var(&r.weight, "weight", registry.DefaultWeight, "share of new connections, relative to the others': 0 to 256")
	flags.DurationVar(&r.lease, "lease", 0, "how long after a heartbeat it counts as alive; 0: for good")
	flags.BoolVar(&r.keep, "keep", false, "send heartbeats until the command is ended, then deregister")
	flags.StringSliceVar(&r.checks, "check", nil, "health check; may be repeated")
	flags.DurationVar(&r.interval, "interval", 0, "of the checks; 10s unless said")
	must(cmd.MarkFlagRequired("address"))
	must(cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(statuses(), cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("node", c.complete(func([]string) completer { return nodes })))
	cmd.ValidArgsFunction = c.complete(func(args []string) completer {
		if len(args) > 0 {
			return nil
		}
		return services(&r.namespace)
	})
	return cmd
}

func statuses() (words []string) {
	for _, s := range registry.InstanceStatuses() {
		words = append(words, string(s))
	}
	return words
}

// instance makes one of the flags. What only the registry can judge it leaves to it.
func (r *registration) instance(service string, weighted bool) (i registry.Instance, err error) {
	i = registry.Instance{
		InstanceID: registry.InstanceID{Namespace: r.namespace, Service: service, ID: r.id},
		Host:       r.host, Node: r.node, Zone: r.zone, Version: r.version,
		Status: registry.InstanceStatus(strings.ToUpper(r.status)),
	}
	if weighted {
		i.Weight = &r.weight
	}
	for _, text := range r.addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return i, usagef("address %q: want an IPv4 or IPv6 address", text)
		}
		i.Addresses = append(i.Addresses, a)
	}
	for _, text := range r.ports {
		p, err := parsePort(text)
		if err != nil {
			return i, err
		}
		i.Ports = append(i.Ports, p)
	}
	for _, text := range r.metadata {
		k, v, ok := strings.Cut(text, "=")
		if !ok {
			return i, usagef("metadata %q: want KEY=VALUE", text)
		}
		if i.Metadata == nil {
			i.Metadata = map[string]string{}
		}
		i.Metadata[k] = v
	}
	if i.ID == "" && len(i.Addresses) > 0 {
		i.ID = i.Addresses[0].String()
		if len(i.Ports) > 0 {
			i.ID = netip.AddrPortFrom(i.Addresses[0], i.Ports[0].Port).String()
		}
	}
	if i.Lease, err = wholeSeconds("lease", r.lease); err != nil {
		return i, err
	}
	if r.keep && i.Lease == 0 {
		return i, usagef("--keep renews a lease: say how long it is with --lease")
	}
	if r.interval < 0 || r.interval%time.Millisecond != 0 || r.interval > 24*time.Hour {
		return i, usagef("--interval %s: want whole milliseconds, at most a day", r.interval)
	}
	for _, text := range r.checks {
		check, err := parseCheck(text, r.interval)
		if err != nil {
			return i, err
		}
		i.Checks = append(i.Checks, check)
	}
	return i, nil
}

func wholeSeconds(flag string, d time.Duration) (uint32, error) {
	if d < 0 || d%time.Second != 0 || d/time.Second > 1<<31 {
		return 0, usagef("--%s %s: want whole seconds", flag, d)
	}
	return uint32(d / time.Second), nil
}

// parsePort reads [NAME=]PORT[/PROTOCOL].
func parsePort(text string) (p registry.EndpointPort, err error) {
	rest := text
	if name, number, named := strings.Cut(text, "="); named {
		p.Name, rest = name, number
	}
	number, protocol, _ := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return p, usagef("port %q: want [NAME=]PORT[/PROTOCOL]", text)
	}
	p.Port = uint16(n)
	if p.Protocol, err = registry.ParseProtocol(protocol); err != nil {
		return p, usagef("port %q: %w", text, err)
	}
	return p, nil
}

// parseCheck reads tcp[:PORT], grpc[:SERVICE] or a URL of which the host may be missing.
func parseCheck(text string, interval time.Duration) (check registry.HealthCheck, err error) {
	check.Interval = uint32(interval / time.Millisecond)
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "tcp":
		check.Type = registry.CheckTCP
		check.Port, err = checkPort(rest)
	case "grpc":
		check.Type, check.Service = registry.CheckGRPC, rest
	case "http", "https":
		var u *url.URL
		if u, err = url.Parse(text); err != nil {
			break
		}
		check.Type, check.TLS, check.Host, check.Path = registry.CheckHTTP, kind == "https", u.Hostname(), u.RequestURI()
		check.Port, err = checkPort(u.Port())
	default:
		err = errors.New("want tcp, grpc or a URL")
	}
	if err != nil {
		return check, usagef("check %q: %w", text, err)
	}
	return check, nil
}

func checkPort(text string) (uint16, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: want 1 to 65535", text)
	}
	return uint16(n), nil
}

// keepRegistered sends heartbeats until ctx ends, and then deregisters.
func (c *cli) keepRegistered(ctx context.Context, client *api.Client, i registry.Instance) error {
	beat := time.NewTicker(time.Duration(i.Lease) * time.Second / 3)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), completionTimeout)
			defer cancel()
			r, err := client.Deregister(last, i.InstanceID)
			if err != nil {
				return err
			}
			return c.results(r)
		case <-beat.C:
		}
		err := client.Heartbeat(ctx, i.InstanceID)
		var e *api.Error
		if errors.As(err, &e) && e.Status == http.StatusNotFound { // somebody let it go
			_, err = client.Register(ctx, i)
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(c.stderr, "sluice: %v; tried again\n", err)
		}
	}
}

func (c *cli) deregister() *cobra.Command {
	cmd := c.command("deregister INSTANCE", "Take an instance out of the registry", cobra.ExactArgs(1),
		func(ctx context.Context, client *api.Client, args []string) error {
			id, ok := parseInstance(args[0])
			if !ok {
				return usagef("%q: want NAMESPACE/SERVICE/ID", args[0])
			}
			r, err := client.Deregister(ctx, id)
			if err != nil {
				return err
			}
			return c.results(r)
		})
	cmd.Long = "Take an instance out of the registry.\n\n" + aboutInstances + " The service and its VIP stay."
	cmd.Example = "  sluice deregister default/web/192.0.2.7:8080"
	cmd.ValidArgsFunction = c.complete(func(args []string) completer {
		if len(args) > 0 {
			return nil
		}
		return instances
	})
	return cmd
}
