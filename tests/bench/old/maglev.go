package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
)

// maglevTables shows how even Maglev tables are, and what of them moves when one backend goes, beside
// what the paper says (Eisenbud et al., NSDI 2016).
func maglevTables() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "Maglev: slots\tbackends\tmost / least\tpaper: at most\tmoved of the others', mean %%\tworst %%\t2/N %%\tus a table\t\n")
	for _, size := range []uint32{1021, 65521} {
		for _, n := range []int{2, 5, 10, 20, 32, 50, 100, 250, 500} {
			if uint32(n) > size {
				continue
			}
			if err := maglevRow(w, size, n); err != nil {
				return err
			}
		}
	}
	fmt.Fprintln(w)
	return w.Flush()
}

func maglevRow(w *tabwriter.Writer, size uint32, n int) error {
	backends := make([]registry.Backend, n)
	for i := range backends {
		a := netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})
		backends[i] = registry.Evenly(netip.AddrPortFrom(a, 8080))[0]
	}
	start := time.Now()
	before, err := loader.MaglevTable(backends, size)
	if err != nil {
		return err
	}
	took := time.Since(start)
	counts := map[netip.AddrPort]int{}
	for _, b := range before {
		counts[b]++
	}
	least, most := int(size), 0
	for _, c := range counts {
		least, most = min(least, c), max(most, c)
	}
	var sum, worst float64
	times := 0
	for gone := 0; gone < n; gone += max(1, n/20) {
		after, err := loader.MaglevTable(slices.Delete(slices.Clone(backends), gone, gone+1), size)
		if err != nil {
			return err
		}
		moved, others := 0, 0
		for i := range before {
			if before[i] == backends[gone].AddrPort {
				continue
			}
			others++
			if before[i] != after[i] {
				moved++
			}
		}
		share := float64(moved) / float64(others)
		sum, worst, times = sum+share, max(worst, share), times+1
	}
	// 3.4: M > 100 N gives "at most a 1% difference in hash space assigned to backends".
	paper := "-"
	if size > 100*uint32(n) {
		paper = "1.01"
	}
	fmt.Fprintf(w, "%d\t%d\t%.4f\t%s\t%.2f\t%.2f\t%.2f\t%.0f\t\n", size, n, float64(most)/float64(least), paper,
		100*sum/float64(times), 100*worst, 200/float64(n), took.Seconds()*1e6)
	return nil
}
