package kernel

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// registers is a set of them, a bit each.
type registers uint16

func set(list ...asm.Register) (s registers) {
	for _, r := range list {
		s |= 1 << r
	}
	return s
}

// Calls take their arguments in r1 to r5 and leave nothing in them; r0 is what they return.
const (
	arguments registers = 0b111110
	clobbered registers = 0b111111
	// general are those that a program may write to.
	general registers = 1<<asm.R10 - 1
)

// arity returns how many arguments a helper has; of those that are not here, 5 is not too few
// (man 7 bpf-helpers).
func arity(helper asm.BuiltinFunc) int {
	switch helper {
	case asm.FnKtimeGetNs, asm.FnKtimeGetCoarseNs, asm.FnGetPrandomU32:
		return 0
	case asm.FnGetSocketCookie, asm.FnGetNetnsCookie, asm.FnSetRetval:
		return 1
	case asm.FnMapLookupElem, asm.FnMapDeleteElem, asm.FnSkbPullData, asm.FnCsumUpdate, asm.FnRingbufSubmit,
		asm.FnRedirectPeer:
		return 2
	case asm.FnRingbufReserve, asm.FnSkbChangeTail:
		return 3
	case asm.FnMapUpdateElem, asm.FnSkbLoadBytes:
		return 4
	}
	return 5
}

// flow is the control flow of a program: of each instruction, the indices of those that may come next.
// Functions are apart: after a call comes the next instruction.
type flow struct {
	code asm.Instructions
	next [][]int
	// params is how many arguments each function has that the program's types tell of.
	params map[string]int
	// leads is set for instructions that others jump to or that functions begin with.
	leads []bool
}

// newFlow reads the jumps of a program, whose offsets must be numbers.
func newFlow(code asm.Instructions) (*flow, error) {
	f := &flow{code, make([][]int, len(code)), map[string]int{}, make([]bool, len(code))}
	index := map[asm.RawInstructionOffset]int{}
	for it := code.Iterate(); it.Next(); {
		index[it.Offset] = it.Index
	}
	for it := code.Iterate(); it.Next(); {
		i, ins := it.Index, it.Ins
		if ins.Symbol() != "" || i == 0 {
			f.leads[i] = true
		}
		if fn := btf.FuncMetadata(ins); fn != nil {
			if proto, ok := fn.Type.(*btf.FuncProto); ok {
				f.params[ins.Symbol()] = len(proto.Params)
			}
		}
		op := ins.OpCode.JumpOp()
		if op == asm.Exit {
			continue
		}
		if op != asm.Ja {
			f.next[i] = append(f.next[i], i+1)
		}
		if op == asm.InvalidJumpOp || op == asm.Call {
			continue
		}
		offset := int64(ins.Offset)
		if isLongJump(ins) {
			offset = ins.Constant
		}
		to, ok := index[it.Offset+asm.RawInstructionOffset(1+offset)]
		if !ok {
			return nil, fmt.Errorf("instruction %d, %v, jumps to none", i, ins)
		}
		f.next[i] = append(f.next[i], to)
		f.leads[to] = true
	}
	for i, next := range f.next {
		if len(next) > 0 && next[0] >= len(code) {
			return nil, fmt.Errorf("the last instruction, %d, goes on", i)
		}
	}
	return f, nil
}

// isLongJump tells whether the instruction jumps by its constant.
func isLongJump(ins *asm.Instruction) bool {
	return ins.OpCode.Class() == asm.Jump32Class && ins.OpCode.JumpOp() == asm.Ja
}

// live returns, of each instruction, the registers whose values before it are still read, by it or by any that
// may come after it.
func (f *flow) live() []registers {
	live := make([]registers, len(f.code))
	for changed := true; changed; {
		changed = false
		for i := len(f.code) - 1; i >= 0; i-- {
			after := registers(0)
			for _, next := range f.next[i] {
				after |= live[next]
			}
			reads, writes := f.effect(i)
			before := reads | after&^writes
			if before != live[i] {
				live[i], changed = before, true
			}
		}
	}
	return live
}

// effect returns the registers that an instruction reads, and those that it writes without keeping any of the
// value.
func (f *flow) effect(i int) (reads, writes registers) {
	ins := &f.code[i]
	if ins.OpCode.JumpOp() != asm.Call {
		return effect(ins)
	}
	n := 5
	if ins.IsBuiltinCall() {
		n = arity(asm.BuiltinFunc(ins.Constant))
	} else if params, ok := f.params[ins.Reference()]; ok {
		n = params
	}
	return arguments & (1<<(n+1) - 1), clobbered
}

// effect is that of all but calls.
func effect(ins *asm.Instruction) (reads, writes registers) {
	op, dst, src := ins.OpCode, set(ins.Dst), set(ins.Src)
	switch op.Class() {
	case asm.LdClass:
		if op.IsDWordLoad() {
			return 0, dst
		}
		return set(asm.R6) | src, clobbered // LD_ABS, LD_IND
	case asm.LdXClass:
		return src, dst
	case asm.StClass:
		return dst, 0
	case asm.StXClass:
		// What atomics return goes over what was read, so that it need not count as written.
		return dst | src | set(asm.R0)&atomics(op), 0
	case asm.ALUClass, asm.ALU64Class:
		if op.ALUOp() != asm.Swap && op.Source() == asm.RegSource {
			reads = src
		}
		switch op.ALUOp() {
		case asm.Mov, asm.MovSX8, asm.MovSX16, asm.MovSX32:
			return reads, dst
		}
		return reads | dst, 0
	}
	switch op.JumpOp() {
	case asm.Exit:
		return set(asm.R0), 0
	case asm.Ja:
		return 0, 0
	}
	if op.Source() == asm.RegSource {
		reads = src
	}
	return reads | dst, 0
}

// atomics is all registers for an atomic operation, else none.
func atomics(op asm.OpCode) registers {
	if op.Mode() == asm.AtomicMode {
		return general
	}
	return 0
}
