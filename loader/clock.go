package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// tellTime fills in how the programs tell CLOCK_MONOTONIC from the kernel's jiffies, where these follow it:
// with high resolution timers on, each tick adds as many as that clock says
// (tick_do_update_jiffies64 in kernel/time/tick-sched.c). Without, they count interrupts, which may be lost.
func (c *config) tellTime() error {
	var fine, tick unix.Timespec
	// 1 ns when the timers have high resolution (hrtimer_get_res, kernel/time/hrtimer.c).
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC, &fine); err != nil {
		return fmt.Errorf("ask for the clock's resolution: %w", err)
	}
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return fmt.Errorf("ask for the length of a tick: %w", err)
	}
	if fine.Nano() != 1 || tick.Sec != 0 || tick.Nsec <= 0 {
		return nil
	}
	epoch, err := jiffiesEpoch(uint32(tick.Nsec))
	if errors.Is(err, ebpf.ErrNotSupported) {
		return nil
	}
	if err == nil {
		c.Tick, c.Epoch = uint32(tick.Nsec), epoch
	}
	return err
}

// jiffiesEpoch returns CLOCK_MONOTONIC, in ns, when there were no jiffies; it wraps. Each reading is late by what
// has passed of a tick: the least late of some is taken.
func jiffiesEpoch(tick uint32) (epoch uint64, err error) {
	const result = "result"
	out, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 1})
	if err != nil {
		return 0, fmt.Errorf("make map to tell the time: %w", err)
	}
	defer out.Close()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "tell_time", Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, out.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, result),
			asm.Mov.Reg(asm.R6, asm.R0),
			asm.FnKtimeGetNs.Call(), asm.StoreMem(asm.R6, 0, asm.R0, asm.DWord),
			asm.FnJiffies64.Call(), asm.StoreMem(asm.R6, 8, asm.R0, asm.DWord),
			asm.Mov.Imm(asm.R0, 0).WithSymbol(result),
			asm.Return(),
		},
	})
	if err != nil {
		return 0, fmt.Errorf("load program to tell the time: %w", err)
	}
	defer prog.Close()
	for i := range 16 {
		if _, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 14)}); err != nil {
			return 0, fmt.Errorf("run program to tell the time: %w", err)
		}
		var read struct{ Now, Jiffies uint64 }
		if err := out.Lookup(uint32(0), &read); err != nil {
			return 0, fmt.Errorf("read the time: %w", err)
		}
		at := read.Now - read.Jiffies*uint64(tick)
		if i == 0 || int64(at-epoch) < 0 {
			epoch = at
		}
	}
	return epoch, nil
}
