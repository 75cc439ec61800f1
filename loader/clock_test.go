package loader

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The time that programs note is that of CLOCK_MONOTONIC, whichever way they tell it: what they wrote
// before an upgrade of the agent or the kernel's timers is compared with what they write after it.
func TestClock(t *testing.T) {
	for name, plain := range map[string]bool{"jiffies": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			f := families()[0]
			r := newRig(t, f, rigOptions{plain: plain})
			r.reset()
			var tick unix.Timespec
			if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				r.reset()
				before := clockNow(t)
				if v, _ := r.run("A>", packet(protoUDP, "A:1234", "V:80").bytes(f)); v != redirect {
					t.Fatalf("verdict %v", v)
				}
				after := clockNow(t)
				var made sockFlow
				r.lookup("flows", sockFlowKey{
					Saddr: toAddress(f.addr("A")), Daddr: toAddress(f.addr("V")), Sport: 1234, Dport: 80, Proto: protoUDP,
				}, &made)
				// The last tick may be late where another machine has the CPU. Lifetimes are whole seconds.
				seen := time.Duration(made.Seen)
				if seen < before-time.Second || seen > after+time.Duration(tick.Nsec) {
					t.Fatalf("seen at %s, which was between %s and %s", seen, before, after)
				}
			}
		})
	}
}

func clockNow(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}
