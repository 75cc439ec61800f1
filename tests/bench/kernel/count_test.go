package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// numeric gives jumps numbers for the labels that they were written with, as an object file has them.
func numeric(t *testing.T, code asm.Instructions) asm.Instructions {
	t.Helper()
	refs := map[int]string{}
	for i, ins := range code {
		if ins.IsLoadFromMap() {
			refs[i] = ins.Reference()
		}
	}
	var b bytes.Buffer
	if err := code.Marshal(&b, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	code, err := asm.AppendInstructions(nil, &b, binary.LittleEndian, "linux")
	if err != nil {
		t.Fatal(err)
	}
	for i, ref := range refs {
		code[i] = code[i].WithReference(ref)
	}
	return code
}

func array(t *testing.T, size uint32) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// The kernel takes a counted program, which returns what it returned before and counts what it does: here a loop of
// ten rounds with a look-up in each, and a branch that is taken in the last five.
func TestCountInKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	things, counters := array(t, 8), array(t, 1024)
	code := numeric(t, asm.Instructions{
		asm.Mov.Imm(asm.R6, 10),
		asm.Mov.Imm(asm.R7, 0),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("loop"),
		asm.StoreMem(asm.RFP, -4, asm.R1, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, things.FD()).WithReference("things"),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.JGT.Imm(asm.R6, 5, "next"),
		asm.Add.Imm(asm.R7, 3),
		asm.Sub.Imm(asm.R6, 1).WithSymbol("next"),
		asm.JNE.Imm(asm.R6, 0, "loop"),
		asm.Mov.Reg(asm.R0, asm.R7).WithSymbol("out"),
		asm.Return(),
	})
	want := Counts{Instructions: 2 + 10*10 + 5 + 2, ArrayLookups: 10}
	c, err := addCounters(code, counters.FD(), func(name string) bool { return name == "things" })
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.code {
		// Labels would be functions.
		if ins := &c.code[i]; ins.Reference() != "" {
			*ins = ins.WithMetadata(asm.Metadata{})
		}
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: c.code})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer prog.Close()
	ret, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
	if err != nil || ret != 15 {
		t.Fatalf("returned %d, %v, want 15", ret, err)
	}
	if got, err := c.sum(counters); err != nil || got != want {
		t.Errorf("counted %+v, %v, want %+v", got, err, want)
	}
}

// machine runs programs of a few kinds of instructions. Memory is the counters alone, at address 0.
type machine struct {
	regs   [11]uint64
	memory []byte
}

// run returns how many instructions there were until the exit.
func (m *machine) run(t *testing.T, code asm.Instructions) (steps uint64) {
	t.Helper()
	at := map[asm.RawInstructionOffset]int{}
	var offsets []asm.RawInstructionOffset
	for it := code.Iterate(); it.Next(); {
		at[it.Offset] = it.Index
		offsets = append(offsets, it.Offset)
	}
	for i := 0; ; i++ {
		steps++
		if steps > 1e6 {
			t.Fatal("the program does not end")
		}
		ins := code[i]
		if ins.OpCode.JumpOp() == asm.Exit {
			return steps
		}
		if m.step(t, ins) {
			i = at[offsets[i]+asm.RawInstructionOffset(1+ins.Offset)] - 1
		}
	}
}

// step does an instruction and tells whether it jumps.
func (m *machine) step(t *testing.T, ins asm.Instruction) bool {
	dst, operand := &m.regs[ins.Dst], uint64(ins.Constant)
	if ins.OpCode.Source() == asm.RegSource {
		operand = m.regs[ins.Src]
	}
	switch op := ins.OpCode; {
	case op.IsDWordLoad():
		*dst = uint64(ins.Constant) >> 32 // the offset in the map
	case op.ALUOp() == asm.Mov:
		*dst = operand
	case op.ALUOp() == asm.Add:
		*dst += operand
	case op.ALUOp() == asm.Xor:
		*dst ^= operand
	case op == asm.LoadMemOp(asm.DWord):
		*dst = binary.NativeEndian.Uint64(m.memory[m.regs[ins.Src]+uint64(ins.Offset):])
	case op == asm.StoreMemOp(asm.DWord):
		binary.NativeEndian.PutUint64(m.memory[*dst+uint64(ins.Offset):], m.regs[ins.Src])
	case op.AtomicOp() == asm.AddAtomic:
		word := m.memory[*dst+uint64(ins.Offset):]
		binary.NativeEndian.PutUint64(word, binary.NativeEndian.Uint64(word)+m.regs[ins.Src])
	case op.JumpOp() == asm.Call:
		for r := asm.R0; r <= asm.R5; r++ {
			m.regs[r] = 1000 + uint64(r)
		}
	case op.JumpOp() == asm.Ja:
		return true
	case op.JumpOp() == asm.JSGT:
		return int64(*dst) > int64(operand)
	case op.JumpOp() == asm.JNE:
		return *dst != operand
	default:
		t.Fatalf("the machine does not know %v", ins)
	}
	return false
}

// randomCode is a program that jumps back and forth; r9 counts how often it may still jump back.
func randomCode(random *rand.Rand) (code asm.Instructions) {
	reg := func() asm.Register { return asm.Register(random.IntN(9)) }
	code = append(code, asm.Mov.Imm(asm.R9, 20))
	n := 10 + random.IntN(60)
	for len(code) < n {
		switch random.IntN(9) {
		case 0, 1:
			code = append(code, asm.Mov.Imm(reg(), int32(random.IntN(4))))
		case 2, 3:
			code = append(code, asm.Add.Reg(reg(), reg()))
		case 4:
			code = append(code, asm.Xor.Imm(reg(), int32(random.IntN(4))))
		case 5:
			code = append(code, asm.FnGetPrandomU32.Call())
		case 6:
			code = append(code, asm.JNE.Reg(reg(), reg(), ""))
		case 7:
			code = append(code, asm.JNE.Imm(reg(), int32(1+random.IntN(3)), ""))
		case 8:
			code = append(code, asm.Add.Imm(asm.R9, -1), asm.JSGT.Imm(asm.R9, 0, ""))
		}
	}
	code = append(code, asm.Return())
	for i := range code {
		ins := code[i].WithReference("")
		switch ins.OpCode.JumpOp() {
		case asm.JSGT:
			ins.Offset = -int16(random.IntN(i-1)) - 2 // to what counts it down, at most
		case asm.JNE:
			ins.Offset = int16(random.IntN(len(code) - i - 1))
			if code[i+1+int(ins.Offset)].OpCode.JumpOp() == asm.JSGT {
				ins.Offset-- // not past what counts it down
			}
		}
		code[i] = ins
	}
	return code
}

// A counted program comes to the same end, and its counts are what a machine does that executes it step by step.
func TestCountModel(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 2))
	counted, pairs := 0, 0
	for range 3000 {
		code := randomCode(random)
		c, err := addCounters(code, 7, nil)
		if errors.Is(err, errNoRegisters) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		counted++
		want, got := machine{}, machine{memory: make([]byte, 8*c.slots)}
		for r := range want.regs {
			want.regs[r] = random.Uint64N(4)
		}
		got.regs = want.regs
		steps := want.run(t, code)
		got.run(t, c.code)
		if got.regs[asm.R0] != want.regs[asm.R0] {
			t.Fatalf("a counted program returns %d, want %d:\n%v\nwas\n%v", got.regs[0], want.regs[0], c.code, code)
		}
		var sum uint64
		for _, b := range c.blocks {
			sum += b.does.Instructions * b.times(got.memory)
			if b.pair {
				pairs++
			}
		}
		if sum != steps {
			t.Fatalf("counted %d instructions, want %d:\n%v\nwas\n%v", sum, steps, c.code, code)
		}
	}
	if counted < 1000 || pairs < 100 {
		t.Errorf("only %d programs were counted, with %d blocks of one free register", counted, pairs)
	}
}
