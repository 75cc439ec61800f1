package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-net/sluice/tests/bench/control"
	"github.com/sluice-net/sluice/tests/bench/kernel"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/path"
	"github.com/sluice-net/sluice/tests/bench/peers"
	"github.com/sluice-net/sluice/tests/bench/report"
	"github.com/sluice-net/sluice/tests/bench/scale"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// one part of the benchmark.
type one struct {
	name string
	run  func(context.Context, part.Env) error
}

// parts in the order in which they run, and are shown.
var parts = []one{
	{kernel.Name, kernel.Run},
	{path.Name, func(ctx context.Context, env part.Env) error {
		err := path.Run(ctx, env, peers.Makers(env.Peers)...)
		peers.Explain(env.Sheet)
		return err
	}},
	{scale.Name, scale.Run}, {control.Name, control.Run},
}

// choose returns the parts with these names, in their order; "": all.
func choose(names string) ([]one, error) {
	var wanted []string
	for name := range strings.FieldsFuncSeq(names, func(r rune) bool { return r == ',' || r == ' ' }) {
		if !slices.ContainsFunc(parts, func(p one) bool { return strings.EqualFold(p.name, name) }) {
			return nil, fmt.Errorf("no part is called %q: kernel, path, scale and control are", name)
		}
		wanted = append(wanted, strings.ToLower(name))
	}
	if len(wanted) == 0 {
		return parts, nil
	}
	var chosen []one
	for _, p := range parts {
		if slices.Contains(wanted, strings.ToLower(p.name)) {
			chosen = append(chosen, p)
		}
	}
	return chosen, nil
}

// measure runs the parts one after the other, the next ones also when one fails. It returns what was measured
// beside the error; nil: nothing could be.
func measure(ctx context.Context, o options, chosen []one) (s *sheet.Sheet, err error) {
	root := os.DirFS("/")
	average := load(root) // before the build, which is a load, too
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binaries, err := nstest.Build(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("build what is measured, of the repository that this is run in: %w", err)
	}
	s = &sheet.Sheet{About: about(ctx, root, o)}
	quiet(s, average)
	env := part.Env{
		Sheet: s, Lab: &nstest.Lab{Binaries: binaries},
		Rounds: o.rounds, Quick: o.quick, Attach: o.attach, CPU: cpu, Peers: o.peers,
		Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	for _, p := range chosen {
		if ctx.Err() != nil {
			break
		}
		began := time.Now()
		env.Log("== %s", strings.ToLower(p.name))
		e := p.run(ctx, env)
		env.Log("== %s took %s", strings.ToLower(p.name), time.Since(began).Round(time.Second))
		if e != nil {
			s.Note(p.name, "This part did not come to its end: %v", e)
			err = errors.Join(err, fmt.Errorf("measure %s: %w", strings.ToLower(p.name), e))
		}
	}
	s.About = append(s.About, told([]sheet.About{{Key: "load-end", Value: load(root)}})...)
	if !errors.Is(err, context.Canceled) {
		err = errors.Join(err, ctx.Err())
	}
	return s, err
}

// save writes what was measured, also when a part failed.
func save(s *sheet.Sheet, o options) error {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	return errors.Join(
		write(filepath.Join(o.out, "results.json"), s.Save),
		write(filepath.Join(o.out, "results.txt"), s.WriteBenchmarks),
		show(s, o))
}

// again makes the report of a run from what it saved.
func again(o options) error {
	f, err := os.Open(o.report)
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := sheet.Load(f)
	if err != nil {
		return fmt.Errorf("%s: %w", o.report, err)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	return show(s, o)
}

// show writes the report, and the summary where one is wanted.
func show(s *sheet.Sheet, o options) error {
	if err := report.Write(s, o.out); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "report:", filepath.Join(o.out, "report.html"))
	if o.summary == "" {
		return nil
	}
	if err := write(o.summary, func(w io.Writer) error { return report.Summary(s, w) }); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "summary:", o.summary)
	return nil
}

func write(name string, to func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := errors.Join(to(f), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
