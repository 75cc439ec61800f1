package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

func (c *cli) apply() *cobra.Command {
	var files []string
	cmd := c.command("apply -f FILE", "Create or change services from Kubernetes YAML or JSON", cobra.NoArgs,
		func(ctx context.Context, client *api.Client, _ []string) error {
			in, err := c.read(files)
			if err != nil {
				return err
			}
			r, err := client.Apply(ctx, in.text)
			return c.done(in, r, err)
		})
	cmd.Long = "Create or change services from Kubernetes YAML or JSON.\n\n" +
		"All documents of all files are checked before anything is written. The command returns when\n" +
		"this node acts on the change."
	cmd.Example = "  sluice apply -f web.yaml\n  cat web.yaml | sluice apply -f -"
	fileFlag(cmd, &files)
	must(cmd.MarkFlagRequired("filename"))
	return cmd
}

func (c *cli) delete() *cobra.Command {
	var files []string
	var namespace string
	cmd := c.command("delete (-f FILE | service NAME)", "Delete services", cobra.MaximumNArgs(2),
		func(ctx context.Context, client *api.Client, args []string) error {
			switch {
			case len(files) > 0 && len(args) > 0:
				return usagef("give either -f FILE or service NAME")
			case len(files) > 0:
				in, err := c.read(files)
				if err != nil {
					return err
				}
				r, err := client.DeleteDocuments(ctx, in.text)
				return c.done(in, r, err)
			case len(args) == 2 && isService(args[0]):
				r, err := client.DeleteService(ctx, registry.Name{Namespace: namespace, Name: args[1]})
				if err != nil {
					return err
				}
				return c.results(r)
			}
			return usagef("want -f FILE, or service NAME")
		})
	cmd.Example = "  sluice delete -f web.yaml\n  sluice delete service web -n shop"
	fileFlag(cmd, &files)
	namespaceFlag(cmd, c, &namespace)
	cmd.ValidArgsFunction = c.complete(func(args []string) completer {
		switch len(args) {
		case 0:
			return fixed("service")
		case 1:
			return services(&namespace)
		}
		return nil
	})
	return cmd
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
