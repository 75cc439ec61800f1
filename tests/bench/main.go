// Command bench measures Sluice on this machine: what a packet costs in each program (kernel), calls
// between containers beside other ways for them to go (path), what grows with what there is (scale), and
// how soon and how fast things change (control).
//
// All that is compared is measured in one run, interleaved, client and server on one CPU: absolute
// times of two runs differ by more than what there is to see. It needs root, and a quiet machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sluice-net/sluice/registry/etcd/etcdtest"
	"github.com/sluice-net/sluice/tests/bench/control"
	"github.com/sluice-net/sluice/tests/bench/kernel"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/path"
	"github.com/sluice-net/sluice/tests/bench/scale"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

func main() {
	etcdtest.Main()
	var o options
	flag.StringVar(&o.only, "only", "", "kernel, path, scale or control: measure nothing else")
	flag.BoolVar(&o.quick, "quick", false, "leave out what takes long")
	flag.IntVar(&o.rounds, "rounds", 0, "times that what is compared is measured; 0: 10, or 6 where it has to be quick")
	flag.StringVar(&o.attach, "attach", "auto", "how agents attach programs: auto, tcx or clsact")
	flag.StringVar(&o.out, "out", "bin/bench", "directory for the results")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	only, attach, out string
	quick             bool
	rounds            int
}

// cpu is what client and server share; counted from 1.
const cpu = 2

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binaries, err := nstest.Build(ctx, dir)
	if err != nil {
		return err
	}
	env := part.Env{
		Sheet: &sheet.Sheet{}, Lab: &nstest.Lab{Binaries: binaries},
		Rounds: o.rounds, Quick: o.quick, Attach: o.attach, CPU: cpu,
		Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	if env.Rounds == 0 {
		env.Rounds = map[bool]int{false: 10, true: 6}[o.quick]
	}
	for _, p := range []struct {
		name string
		run  func(context.Context, part.Env) error
	}{
		{kernel.Name, kernel.Run}, {path.Name, func(ctx context.Context, env part.Env) error { return path.Run(ctx, env) }}, {scale.Name, scale.Run}, {control.Name, control.Run},
	} {
		if o.only == "" || strings.EqualFold(o.only, p.name) {
			if e := p.run(ctx, env); e != nil {
				err = errors.Join(err, fmt.Errorf("measure %s: %w", strings.ToLower(p.name), e))
			}
		}
	}
	return errors.Join(err, save(env.Sheet, o.out))
}

// save writes what was measured, also when a part failed.
func save(s *sheet.Sheet, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, file := range []struct {
		name  string
		write func(*os.File) error
	}{
		{"results.json", func(f *os.File) error { return s.Save(f) }},
		{"results.txt", func(f *os.File) error { return s.WriteBenchmarks(f) }},
	} {
		f, err := os.Create(filepath.Join(dir, file.name))
		if err != nil {
			return err
		}
		if err := errors.Join(file.write(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
