// Command sluiced is Sluice's agent, one on each node. It keeps the registry, makes the kernel's maps
// equal to it, serves sluice-cni and sluice on a unix socket, and answers the HTTP API, Eureka's clients and DNS.
// Ending it, in whatever way, leaves the dataplane at work.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "sluiced: %v\n", err)
		os.Exit(1)
	}
}

const usage = `Usage: sluiced [--config FILE]
       sluiced [--config FILE] --detach

Runs the agent of one node until SIGTERM. Containers and services go on working without it.

Flags:
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("sluiced", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors are returned
	file := fs.String("config", "", "YAML `FILE`; without it every key has its default")
	detach := fs.Bool("detach", false, "take programs, pins and interfaces off the node, and end")
	format := fs.String("log-format", "text", "text or json")
	level := slog.LevelInfo
	fs.TextVar(&level, "log-level", level, "debug, info, warn or error")
	show := fs.Bool("version", false, "print the version and end")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, usage)
			fs.SetOutput(stdout)
			fs.PrintDefaults()
		}
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if *show {
		fmt.Fprintln(stdout, version)
		return nil
	}
	logger, err := newLogger(stderr, *format, level)
	if err != nil {
		return err
	}
	config, err := loadConfig(*file)
	if err != nil {
		return err
	}
	if *detach {
		return detachNode(config, logger)
	}
	saveMemory()
	return runAgent(ctx, config, logger)
}

func newLogger(w io.Writer, format string, level slog.Level) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("log-format %q: want text or json", format)
}
