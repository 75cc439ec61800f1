package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry/api"
)

const (
	defaultSocket    = "/run/sluice/sluiced.sock"
	defaultNamespace = "default"

	exitFailure = 1 // an error, a difference, or a node that is not ready
	exitUsage   = 2

	exitDenied = 1 // of "sluice why"
	exitError  = 2 // the same: no answer
)

// environment is what a process is given.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
}

// cli is what all commands share.
type cli struct {
	environment
	socket string
	output format
}

// failure marks an error of a command that was understood; all others are wrong usage.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// exit is a failure with an exit code of its own.
type exit struct {
	code int
	error
}

func (e exit) Unwrap() error { return e.error }

// errSaid is a failure that the output has told already.
var errSaid = errors.New("")

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, env environment) int {
	c := &cli{environment: env, output: table}
	root := c.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var f failure
	if !errors.As(err, &f) {
		fmt.Fprintf(env.stderr, "sluice: %s\nSee \"%s --help\".\n", err, cmd.CommandPath())
		return exitUsage
	}
	if !errors.Is(err, errSaid) {
		fmt.Fprintf(env.stderr, "sluice: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	if e := (exit{}); errors.As(err, &e) {
		return e.code
	}
	return exitFailure
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "sluice",
		Short:         "Look at and change the registry, services and policies of a Sluice node",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	socket := c.getenv("SLUICE_SOCKET")
	if socket == "" {
		socket = defaultSocket
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.socket, "socket", socket, "the agent's socket; $SLUICE_SOCKET sets the default")
	flags.VarP(&c.output, "output", "o", "table, wide, json or yaml")
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)))
	root.SetIn(c.stdin)
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.AddCommand(c.status(), c.apply(), c.delete(), c.get(), c.label(), c.register(), c.deregister(), c.drain(), c.undrain(), c.unready(), c.ready(), c.check(), c.monitor(), c.why(), c.backup(), c.restore(), c.version())
	return root
}

// must is for registrations that fail only when the code is wrong.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// command makes a command whose errors, other than those of its arguments, are failures.
func (c *cli) command(use, short string, args cobra.PositionalArgs, do func(context.Context, *api.Client, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			client := api.NewClient(c.socket)
			defer client.Close()
			err := do(cmd.Context(), client, args)
			if err == nil || errors.As(err, new(usage)) {
				return err
			}
			return failure{err}
		},
	}
}

// usage marks an error in what the user typed that cobra cannot see.
type usage struct{ error }

func usagef(format string, args ...any) error { return usage{fmt.Errorf(format, args...)} }
