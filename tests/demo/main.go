// Command demo shows Sluice's main job on a test node: containers reach a service by its virtual
// address, translated in the kernel, if policies let them, whatever becomes of a backend or of the
// agent. It is what make demo runs. Nothing of it leaves the machine, and nothing stays behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/sluice-net/sluice/tests/nstest"
)

// patience bounds the whole demo, so that a hang becomes an error.
const patience = 2 * time.Minute

func main() {
	bin := flag.String("bin", "bin", "`DIR` of sluiced, sluice and sluice-cni")
	probe := flag.String("probe", "bin/test/probe", "`FILE` of the probe that runs in the containers")
	flag.Parse()
	// Who reads may go (make demo | head): then writing fails, and all is cleaned up as on any failure.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not done within %s", patience))
	defer cancel()

	binaries := nstest.In(*bin)
	binaries.Probe = *probe
	if err := run(ctx, binaries); err != nil {
		fmt.Printf("\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
	fmt.Println("\ndemo: ok")
}

func run(ctx context.Context, binaries nstest.Binaries) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces and BPF programs need root")
	}
	if err := nstest.Sweep(); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	lab := &nstest.Lab{Binaries: binaries}
	node, err := lab.New(ctx, nstest.Settings{MapScale: scale})
	if err != nil {
		return err
	}
	d := &demo{node: node}
	err = d.tell(ctx)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w\nthe agent's last words:\n%s", err, node.Log(10))
	}
	err = errors.Join(err, node.Close())
	left, lerr := nstest.Leaks(node.Name)
	if len(left) > 0 {
		lerr = errors.Join(lerr, fmt.Errorf("left behind:\n%s", strings.Join(left, "\n")))
	}
	if err = errors.Join(err, lerr); err == nil {
		heading("Cleaned up: no namespace, pin, cgroup, process or file of %s is left", node.Name)
	}
	return err
}

func heading(format string, args ...any) { fmt.Printf("\n"+format+"\n", args...) }

// table prints rows of cells in aligned columns, numbers to the right.
type table struct{ w *tabwriter.Writer }

func newTable() *table {
	return &table{tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)}
}

func (t *table) row(cells ...any) {
	fmt.Fprint(t.w, "  ")
	for i, cell := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, cell)
	}
	fmt.Fprintln(t.w)
}

func (t *table) print() { t.w.Flush() }
