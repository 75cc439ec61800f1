package loader

import (
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf/rlimit"
)

// TestMain lets any subset of the tests make maps. Before Linux 5.11 these count against the locked memory
// that the process may have (kernel commit 3d8dabe "bpf: memcg-based memory accounting"); many tests load
// programs without New, which lifts the limit.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 {
		if err := rlimit.RemoveMemlock(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	m.Run()
}
