// Command bench measures Sluice on this machine: what a packet costs in each program (kernel), calls
// between containers beside other ways for them to go (path), what grows with what there is (scale), and
// how soon and how fast things change (control).
//
// All that is compared is measured in one run, interleaved, client and server on one CPU: absolute
// times of two runs differ by more than what there is to see. It needs root, and a quiet machine.
//
// It writes into its output directory results.json, from which -report makes the report again,
// results.txt, on which benchstat works, report.html, and the plots in a directory of their own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sluice-net/sluice/registry/etcd/etcdtest"
	"github.com/sluice-net/sluice/tests/bench/scale"
)

func main() {
	etcdtest.Main()
	scale.Main()
	var o options
	flag.StringVar(&o.only, "only", "", "kernel, path, scale, control, or several with commas between them: measure nothing else")
	flag.BoolVar(&o.quick, "quick", false, "leave out what takes long")
	flag.IntVar(&o.rounds, "rounds", 0, "times that what is compared is measured; 0: 10, or 6 where it has to be quick")
	flag.StringVar(&o.attach, "attach", "auto", "how agents attach programs: auto, tcx or clsact")
	flag.StringVar(&o.out, "out", "bin/bench", "directory for the results")
	flag.StringVar(&o.peers, "peers", "bin/bench", "directory of kubeproxy and nginx, as make bench has them there; without them these are not measured")
	flag.StringVar(&o.report, "report", "", "a results.json: measure nothing, and make its report again")
	flag.StringVar(&o.summary, "summary", "", "file for the summary in Markdown; without this, a run of everything that was not quick writes "+summaryFile)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	only, attach, out, peers, report, summary string
	quick                                     bool
	rounds                                    int
}

// cpu is what client and server share; counted from 1.
const cpu = 2

// summaryFile is where the repository keeps the summary of the latest whole run.
const summaryFile = "tests/bench/RESULTS.md"

func run(ctx context.Context, o options) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if o.report != "" {
		return again(o)
	}
	chosen, err := choose(o.only)
	if err == nil {
		err = mayMeasure(os.Geteuid())
	}
	if err != nil {
		return err
	}
	if o.rounds == 0 {
		o.rounds = map[bool]int{false: 10, true: 6}[o.quick]
	}
	s, err := measure(ctx, o, chosen)
	if s == nil {
		return err
	}
	o.summary = summary(o, len(chosen), err)
	return errors.Join(err, save(s, o))
}

// mayMeasure tells a user what is missing before minutes are spent on building.
func mayMeasure(uid int) error {
	if uid != 0 {
		return errors.New("run as root: it makes network namespaces and loads programs; -report makes a report without that")
	}
	return nil
}

// summary is where that goes: where it was said, or, of a whole run, to the repository. One of less, or of what
// failed, would take the place of a better one.
func summary(o options, measured int, err error) string {
	if o.summary == "" && err == nil && !o.quick && measured == len(parts) {
		return summaryFile
	}
	return o.summary
}
