// Command compare measures two revisions of Sluice beside each other: an older one, and the working tree. One node of
// each is there at the same time, and what is compared is measured in turn, so that what the machine does
// besides falls on both alike. It tells the change of each figure, and how likely one as large is by chance alone.
//
// Only agents, tool and plugin are of the two revisions: what generates the load and measures is the working tree's.
// It needs root, git, and a quiet machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

func main() {
	o := options{log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	flag.StringVar(&o.ref, "ref", "", "the revision to compare with, as git names it")
	flag.IntVar(&o.rounds, "rounds", 12, "times that each figure is measured; with fewer than 6 nothing can be told")
	flag.IntVar(&o.services, "services", 100, "how many there are")
	flag.StringVar(&o.attach, "attach", "auto", "how agents attach programs: auto, tcx or clsact")
	flag.StringVar(&o.out, "out", "bin/bench", "directory for old.txt and new.txt")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

type options struct {
	ref, attach, out string
	rounds, services int
	log              func(format string, args ...any)
}

// cpu is what client and server share; counted from 1.
const cpu = 2

func run(ctx context.Context, o options) (err error) {
	if o.ref == "" || flag.NArg() > 0 {
		return errors.New("say -ref and a revision, and nothing else")
	}
	if os.Geteuid() != 0 {
		return errors.New("run as root: it makes network namespaces and loads programs")
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sluice-compare-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o.log("building %s and the working tree", o.ref)
	old, before, err := buildOld(ctx, o, filepath.Join(dir, "old"))
	if err != nil {
		return err
	}
	after, err := buildNew(ctx, filepath.Join(dir, "new"))
	if err != nil {
		return err
	}
	before.Probe, before.Load = after.Probe, after.Load
	all := &sheet.Sheet{}
	m := &measurement{options: o, sheet: all, lab: &nstest.Lab{}, binaries: map[string]nstest.Binaries{oldSide: before, newSide: after}}
	err = m.all(ctx)
	if len(all.Cases("")) == 0 {
		return err
	}
	p := split(all)
	p.old.About, p.new.About = about(old), about(describe(ctx))
	if e := p.save(o.out); e != nil {
		return errors.Join(err, e)
	}
	return errors.Join(err, p.print(os.Stdout, old, describe(ctx)))
}

// about is what benchstat shows above its tables.
func about(commit string) []sheet.About { return []sheet.About{{Key: "commit", Value: commit}} }

// save writes both sides in Go's benchmark format.
func (p pair) save(dir string) error {
	for name, s := range map[string]*sheet.Sheet{"old.txt": p.old, "new.txt": p.new} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := errors.Join(s.WriteBenchmarks(io.Writer(f)), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
