package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// harness runs a program on one packet again and again although the program rewrites it. A test run repeats
// what it was given on the same buffer; so that is a program which restores the packet, and then
// tail-calls the one to measure, or, to know what all that costs, an empty one.
type harness struct {
	full, bare *ebpf.Program
	programs   *ebpf.Map // what they call: the program to measure, the empty one
	state      *ebpf.Map // a counter of 8 bytes, and the packet
	empty      *ebpf.Program
	frame      []byte
	ctx        skb
	vary       vary
}

// vary says what of the packet is another at each run, after a counter that each run raises first.
type vary struct {
	// port is the offset of a source port, see portAt; 0: it stays.
	port int
	// addr is the offset of a destination that is numbered by the counter modulo as many; 0: it stays.
	addr addrVary
}

type addrVary struct {
	offset int    // of the three bytes that hold the number
	among  uint32 // how many there are
	first  byte   // added to the highest of the three bytes
}

// The source ports of new flows, above those of flows that go on.
const (
	firstPort = 1024
	manyPorts = 60_000
)

// portAt is the source port when the counter is n.
func portAt(n int) uint16 { return uint16(firstPort + n%manyPorts) }

// code returns the instructions that change the packet at r7, with the state at r8.
func (v vary) code() (code asm.Instructions) {
	if v == (vary{}) {
		return nil
	}
	code = append(code,
		asm.LoadMem(asm.R0, asm.R8, 0, asm.DWord),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R8, 0, asm.R0, asm.DWord),
	)
	if v.port > 0 {
		code = append(code,
			asm.Mov.Reg(asm.R1, asm.R0),
			asm.Mod.Imm(asm.R1, manyPorts),
			asm.Add.Imm(asm.R1, firstPort),
			asm.HostTo(asm.BE, asm.R1, asm.Half),
			asm.StoreMem(asm.R7, int16(v.port), asm.R1, asm.Half),
		)
	}
	if a := v.addr; a.offset > 0 {
		code = append(code,
			asm.Mod.Imm(asm.R0, int32(a.among)),
			asm.Mov.Reg(asm.R1, asm.R0),
			asm.RSh.Imm(asm.R1, 16),
			asm.Add.Imm(asm.R1, int32(a.first)),
			asm.StoreMem(asm.R7, int16(a.offset), asm.R1, asm.Byte),
			asm.HostTo(asm.BE, asm.R0, asm.Half),
			asm.StoreMem(asm.R7, int16(a.offset+1), asm.R0, asm.Half),
		)
	}
	return code
}

// noTailCall is what the harness returns when the call did not happen.
const noTailCall = 0x7a11

// newHarness makes one for a program and a packet.
func newHarness(prog *ebpf.Program, frame []byte, ctx skb, v vary) (h *harness, err error) {
	h = &harness{frame: frame, ctx: ctx, vary: v}
	defer func() {
		if err != nil {
			h.close()
			err = fmt.Errorf("make harness: %w", err)
		}
	}()
	if h.empty, err = emptyProgram(); err != nil {
		return h, err
	}
	if h.programs, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "bench_programs", Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 2,
	}); err != nil {
		return h, err
	}
	for i, p := range []*ebpf.Program{prog, h.empty} {
		if err := h.programs.Put(uint32(i), p); err != nil {
			return h, err
		}
	}
	if h.state, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "bench_state", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(8 + len(frame)), MaxEntries: 1,
	}); err != nil {
		return h, err
	}
	if err := h.rewind(0); err != nil {
		return h, err
	}
	if h.full, err = h.load(0); err != nil {
		return h, err
	}
	h.bare, err = h.load(1)
	return h, err
}

// emptyProgram does nothing.
func emptyProgram() (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "bench_empty", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
}

func (h *harness) load(index int32) (*ebpf.Program, error) {
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, skbData, asm.Word),
		asm.LoadMem(asm.R2, asm.R6, skbDataEnd, asm.Word),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.Add.Imm(asm.R3, int32(len(h.frame))),
		asm.JGT.Reg(asm.R3, asm.R2, "exit"),
		asm.LoadMapValue(asm.R8, h.state.FD(), 0),
	}
	for at := 0; at < len(h.frame); {
		size := asm.DWord
		for size.Sizeof() > len(h.frame)-at {
			size = map[asm.Size]asm.Size{asm.DWord: asm.Word, asm.Word: asm.Half, asm.Half: asm.Byte}[size]
		}
		code = append(code, asm.LoadMem(asm.R0, asm.R8, int16(8+at), size), asm.StoreMem(asm.R7, int16(at), asm.R0, size))
		at += size.Sizeof()
	}
	code = append(code, h.vary.code()...)
	code = append(code,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, h.programs.FD()),
		asm.Mov.Imm(asm.R3, index),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, noTailCall).WithSymbol("exit"),
		asm.Return(),
	)
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "bench_harness", Type: ebpf.SchedCLS, License: "GPL", Instructions: code,
	})
}

// Offsets in struct __sk_buff (linux/bpf.h).
const (
	skbData    = 76
	skbDataEnd = 80
)

// rewind sets the counter, which the next run raises before it uses it.
func (h *harness) rewind(counter int) error {
	return h.state.Put(uint32(0), append(binary.NativeEndian.AppendUint64(nil, uint64(counter)), h.frame...))
}

// at returns the packet that the program is given when the counter is n.
func (h *harness) at(n int) []byte {
	frame := slices.Clone(h.frame)
	if p := h.vary.port; p > 0 {
		binary.BigEndian.PutUint16(frame[p:], portAt(n))
	}
	if a := h.vary.addr; a.offset > 0 {
		n %= int(a.among)
		frame[a.offset] = a.first + byte(n>>16)
		binary.BigEndian.PutUint16(frame[a.offset+1:], uint16(n))
	}
	return frame
}

func (h *harness) close() {
	for _, p := range []*ebpf.Program{h.full, h.bare, h.empty} {
		p.Close()
	}
	h.programs.Close()
	h.state.Close()
}

// run repeats the program, or the empty one, and returns the ns that a run took, and what the last one
// returned.
func (h *harness) run(prog *ebpf.Program, times int) (float64, uint32, error) {
	t := testRun{repeat: uint32(times)}
	took, err := t.do(prog, h.frame, h.ctx)
	if err == nil && t.retval == noTailCall {
		err = errors.New("run program under test: it was not called")
	}
	return float64(took.Nanoseconds()) / float64(times), t.retval, err
}

// low is the figure of many short samples: one that few are below. Whatever interrupts a sample only ever
// adds to it.
func low(samples []float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	slices.Sort(samples)
	return samples[len(samples)/10]
}
