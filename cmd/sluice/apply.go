package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

func (c *cli) apply() *cobra.Command {
	var files []string
	cmd := c.command("apply -f FILE", "Create or change services, their slices, policies and namespaces from Kubernetes YAML or JSON", cobra.NoArgs,
		func(ctx context.Context, client *api.Client, _ []string) error {
			in, err := c.read(files)
			if err != nil {
				return err
			}
			r, err := client.Apply(ctx, in.text)
			return c.done(in, r, err)
		})
	cmd.Long = "Create or change services, their slices, policies and namespaces from Kubernetes YAML or JSON.\n\n" +
		"The kinds are Service, EndpointSlice, Namespace (for its labels), NetworkPolicy,\n" +
		"AdminNetworkPolicy and BaselineAdminNetworkPolicy. What Sluice does not do is refused with the\n" +
		"reason.\n\n" +
		"A service keeps the VIPs and node ports that it has, unless it names others in spec.clusterIP and\n" +
		"nodePort. Services may name the same VIP if their ports are apart. The annotation\n" +
		"sluice.net/algorithm, random or maglev, says how backends are chosen; a slice's annotation\n" +
		"sluice.net/weight, 0 to 256, is the weight of all its endpoints. Addresses of load balancers are\n" +
		"spec.loadBalancerIP and those of status.loadBalancer.ingress; nothing else of a status is read.\n\n" +
		"All documents of all files are checked before anything is written; slices, policies and namespaces\n" +
		"then change all at once. The command returns when this node acts on the change."
	cmd.Example = "  sluice apply -f web.yaml\n  cat web.yaml | sluice apply -f -"
	fileFlag(cmd, &files)
	must(cmd.MarkFlagRequired("filename"))
	return cmd
}

func (c *cli) delete() *cobra.Command {
	var files []string
	var namespace string
	cmd := c.command("delete (-f FILE | KIND NAME)", "Delete services, endpointslices, policies, namespaces and nodes", cobra.MaximumNArgs(2),
		func(ctx context.Context, client *api.Client, args []string) error {
			switch {
			case len(files) > 0 && len(args) > 0:
				return usagef("give either -f FILE or KIND NAME")
			case len(files) > 0:
				in, err := c.read(files)
				if err != nil {
					return err
				}
				r, err := client.DeleteDocuments(ctx, in.text)
				return c.done(in, r, err)
			case len(args) == 2:
				r, err := deleteNamed(ctx, client, args[0], registry.Name{Namespace: namespace, Name: args[1]})
				if err != nil {
					return err
				}
				return c.results(r)
			}
			return usagef("want -f FILE, or KIND NAME")
		})
	cmd.Long = "Delete services, endpointslices, policies, namespaces, and nodes that are no more.\n\n" +
		"A namespace loses its labels; what lies in it stays. A service takes along the endpointslices whose\n" +
		"metadata.ownerReferences name it; others stay, and serve one that is made anew."
	cmd.Example = "  sluice delete -f web.yaml\n  sluice delete service web -n shop\n  sluice delete networkpolicy deny-all"
	fileFlag(cmd, &files)
	namespaceFlag(cmd, c, &namespace)
	cmd.ValidArgsFunction = c.complete(func(args []string) completer {
		switch {
		case len(args) == 0:
			return fixed(append(policyKinds(), "service", "endpointslice", "namespace", "node")...)
		case len(args) > 1:
			return nil
		case isService(args[0]):
			return services(&namespace)
		case isSlice(args[0]):
			return endpointSlices(&namespace)
		case isNamespace(args[0]):
			return namespaces
		case isNode(args[0]):
			return nodes
		}
		if tier, one := policyTier(args[0]); one {
			return policies(&namespace, tier)
		}
		return nil
	})
	return cmd
}

// deleteNamed deletes one object; its namespace is of no interest for kinds of the whole cluster.
func deleteNamed(ctx context.Context, client *api.Client, kind string, n registry.Name) (api.Results, error) {
	switch {
	case isService(kind):
		return client.DeleteService(ctx, n)
	case isSlice(kind):
		return client.DeleteSlice(ctx, n)
	case isNamespace(kind):
		return client.DeleteNamespace(ctx, n.Name)
	case isNode(kind):
		return client.DeleteNode(ctx, n.Name)
	}
	tier, one := policyTier(kind)
	if !one {
		return api.Results{}, usagef("unknown kind %q: want service, endpointslice, namespace, %s", kind, strings.Join(policyKinds(), ", "))
	}
	if tier != registry.TierNamespaced {
		n.Namespace = ""
	}
	return client.DeletePolicy(ctx, registry.PolicyID{Tier: tier, Name: n})
}

// done prints results, or an error that speaks of the user's files, after what had been done
// before it.
func (c *cli) done(in *input, r api.Results, err error) error {
	if err == nil {
		return c.results(r)
	}
	var e *api.Error
	if errors.As(err, &e) && len(e.Results) > 0 {
		if err := c.results(api.Results{Results: e.Results, Synced: true}); err != nil {
			return err
		}
	}
	return in.locate(err)
}

func isService(kind string) bool { return kind == "service" || kind == "services" || kind == "svc" }

func fileFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVarP(files, "filename", "f", nil, "file with documents, - for standard input; may be repeated")
	must(cmd.MarkFlagFilename("filename", "yaml", "yml", "json"))
}

func namespaceFlag(cmd *cobra.Command, c *cli, namespace *string) {
	cmd.Flags().StringVarP(namespace, "namespace", "n", defaultNamespace, "namespace")
	must(cmd.RegisterFlagCompletionFunc("namespace", c.complete(func([]string) completer { return namespaces })))
}
