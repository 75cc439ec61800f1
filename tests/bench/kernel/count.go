package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// Counts are what programs executed: instructions as the compiler made them, and calls for maps. In JIT code, look-ups
// in arrays are a few instructions, those in other maps are calls.
type Counts struct {
	Instructions uint64
	Lookups      uint64 // in hashes, LRU hashes and tries
	ArrayLookups uint64
	Updates      uint64 // of and deletions from the same, and of arrays
}

func (c *Counts) add(d Counts, times uint64) {
	c.Instructions += d.Instructions * times
	c.Lookups += d.Lookups * times
	c.ArrayLookups += d.ArrayLookups * times
	c.Updates += d.Updates * times
}

func (c Counts) minus(d Counts) Counts {
	return Counts{
		c.Instructions - d.Instructions, c.Lookups - d.Lookups, c.ArrayLookups - d.ArrayLookups, c.Updates - d.Updates,
	}
}

// values are the counts as figures of so many operations.
func (c Counts) values(operations int) []sheet.Value {
	n := float64(operations)
	return []sheet.Value{
		{Unit: "insns/op", Value: float64(c.Instructions) / n}, {Unit: "lookups/op", Value: float64(c.Lookups) / n},
		{Unit: "array-lookups/op", Value: float64(c.ArrayLookups) / n}, {Unit: "updates/op", Value: float64(c.Updates) / n},
	}
}

// counted is a program each of whose basic blocks counts how often it was executed. That is exact, and nothing else
// changes but how long it takes: the counting uses registers whose values nobody reads any more.
type counted struct {
	code   asm.Instructions
	blocks []block
	slots  int // counters, of 8 bytes each
}

// block is a basic block, and where its counter is.
type block struct {
	does Counts
	slot int
	// pair: the block's count is the next counter less this one; see incrementPair.
	pair bool
}

// times reads from the counters how often the block was executed.
func (b block) times(counters []byte) uint64 {
	times := binary.NativeEndian.Uint64(counters[8*b.slot:])
	if b.pair {
		times = binary.NativeEndian.Uint64(counters[8*b.slot+8:]) - times
	}
	return times
}

// errNoRegisters is of a block in which too many registers are in use.
var errNoRegisters = errors.New("no registers are free")

// addCounters makes a counted program. Its counters are in the first value of the map with this file descriptor, an
// array. array tells whether a map, by the name that the program refers to it by, is one.
func addCounters(code asm.Instructions, fd int, array func(name string) bool) (*counted, error) {
	f, err := newFlow(code)
	if err != nil {
		return nil, err
	}
	c := &counted{}
	live := f.live()
	place := make([]int, len(code)) // where the instruction, or what was put before it, is now
	for first := 0; first < len(code); {
		last := first
		for f.falls(last) {
			last++
		}
		b := block{slot: c.slots}
		if b.does, err = f.counts(first, last, array); err != nil {
			return nil, err
		}
		at, add, err := f.increment(first, last, live, fd, &b)
		if err != nil {
			return nil, err
		}
		for i := first; i <= last; i++ {
			place[i] = len(c.code)
			ins := code[i]
			if i == at {
				c.code = append(c.code, instead(&ins, add)...)
			}
			c.code = append(c.code, ins)
		}
		c.blocks = append(c.blocks, b)
		c.slots++
		if b.pair {
			c.slots++
		}
		first = last + 1
	}
	return c, f.retarget(c.code, place)
}

// falls tells whether the instruction is followed by the next one, and by it alone, and that follows no other.
func (f *flow) falls(i int) bool {
	return i+1 < len(f.code) && len(f.next[i]) == 1 && f.next[i][0] == i+1 && !f.leads[i+1]
}

// increment returns what counts a block, and the instruction of the block to put it before.
func (f *flow) increment(first, last int, live []registers, fd int, b *block) (at int, add asm.Instructions, err error) {
	offset := uint32(8 * b.slot)
	for i := first; i <= last; i++ {
		free := general &^ live[i]
		if bits.OnesCount16(uint16(free)) < 2 {
			continue
		}
		x := free.first()
		y := (free &^ set(x)).first()
		return i, asm.Instructions{
			asm.LoadMapValue(x, fd, offset),
			asm.LoadMem(y, x, 0, asm.DWord),
			asm.Add.Imm(y, 1),
			asm.StoreMem(x, 0, y, asm.DWord),
		}, nil
	}
	for i := first; i <= last; i++ {
		free, numbers := general&^live[i], f.numbers(i, last)
		if free != 0 && numbers != 0 {
			b.pair = true
			return i, incrementPair(free.first(), numbers.first(), fd, offset), nil
		}
	}
	return 0, nil, fmt.Errorf("count instructions %d to %d: %w", first, last, errNoRegisters)
}

// incrementPair counts with one free register: to one counter it adds what another register holds, to the next
// one more than that.
func incrementPair(free, other asm.Register, fd int, offset uint32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapValue(free, fd, offset),
		asm.AddAtomic.Mem(free, other, asm.DWord, 0),
		asm.Add.Imm(other, 1),
		asm.AddAtomic.Mem(free, other, asm.DWord, 8),
		asm.Add.Imm(other, -1),
	}
}

// numbers returns registers that may be added to before an instruction, because it or what follows it up to the last
// calculates with them or compares them as numbers: some pointers may not be changed.
func (f *flow) numbers(i, last int) (numbers registers) {
	written := set(asm.R10)
	for ; i <= last; i++ {
		reads, writes := f.effect(i)
		ins := &f.code[i]
		op := ins.OpCode
		switch {
		case op.Class().IsALU() && writes == 0, op.Class() == asm.Jump32Class && op.JumpOp() != asm.Ja,
			op.Class() == asm.JumpClass && op.Source() == asm.ImmSource && ins.Constant != 0 && op.JumpOp() != asm.Call:
			numbers |= reads &^ written
			written |= set(ins.Dst)
		}
		written |= writes
	}
	return numbers
}

// first is the lowest register of the set.
func (s registers) first() asm.Register { return asm.Register(bits.TrailingZeros16(uint16(s))) }

// instead returns what is to stand before an instruction; if that is a function's first, this is so instead.
func instead(ins *asm.Instruction, add asm.Instructions) asm.Instructions {
	name := ins.Symbol()
	if name == "" {
		return add
	}
	add[0] = add[0].WithSymbol(name).WithSource(ins.Source())
	if fn := btf.FuncMetadata(ins); fn != nil {
		add[0] = btf.WithFuncMetadata(add[0], fn)
	}
	ref := ins.Reference()
	*ins = ins.WithMetadata(asm.Metadata{})
	if ref != "" {
		*ins = ins.WithReference(ref)
	}
	return add
}

// retarget gives jumps the offsets that they have now.
func (f *flow) retarget(code asm.Instructions, place []int) error {
	raw := make([]int64, len(code)+1)
	for i, ins := range code {
		raw[i+1] = raw[i] + int64(ins.Width())
	}
	for i, next := range f.next {
		op := f.code[i].OpCode.JumpOp()
		if op == asm.InvalidJumpOp || op == asm.Call || op == asm.Exit {
			continue
		}
		// What was put before an instruction is before it in its own block.
		at := len(code) - 1
		if i+1 < len(place) {
			at = place[i+1] - 1
		}
		offset := raw[place[next[len(next)-1]]] - raw[at] - 1
		if isLongJump(&code[at]) {
			code[at].Constant = offset
			continue
		}
		if offset != int64(int16(offset)) {
			return fmt.Errorf("jump of %d instructions", offset)
		}
		code[at].Offset = int16(offset)
	}
	return nil
}

// counts returns what a block does.
func (f *flow) counts(first, last int, array func(string) bool) (c Counts, err error) {
	c.Instructions = uint64(last - first + 1)
	for i := first; i <= last; i++ {
		ins := &f.code[i]
		if !ins.IsBuiltinCall() {
			continue
		}
		switch asm.BuiltinFunc(ins.Constant) {
		case asm.FnMapLookupElem:
			name, err := f.mapOf(first, i)
			if err != nil {
				return c, err
			}
			if array(name) {
				c.ArrayLookups++
			} else {
				c.Lookups++
			}
		case asm.FnMapUpdateElem, asm.FnMapDeleteElem:
			c.Updates++
		}
	}
	return c, nil
}

// mapOf returns the map that a call gets as its first argument, which must be loaded in the block that begins at
// first.
func (f *flow) mapOf(first, call int) (string, error) {
	reg := asm.R1
	for i := call - 1; i >= first; i-- {
		ins := &f.code[i]
		_, writes := f.effect(i)
		switch {
		case writes&set(reg) == 0:
		case ins.IsLoadFromMap() && ins.Reference() != "":
			return ins.Reference(), nil
		case ins.OpCode.ALUOp() == asm.Mov && ins.OpCode.Source() == asm.RegSource:
			reg = ins.Src
		default:
			return "", fmt.Errorf("find map of call %d: r%d comes from %v", call, reg, ins)
		}
	}
	return "", fmt.Errorf("find map of call %d: nothing loads it", call)
}

// sum reads a counter map: what was executed since it was made.
func (c *counted) sum(m *ebpf.Map) (sum Counts, err error) {
	buf := make([]byte, m.ValueSize())
	if err := m.Lookup(uint32(0), buf); err != nil {
		return sum, fmt.Errorf("read counters: %w", err)
	}
	for _, b := range c.blocks {
		sum.add(b.does, b.times(buf))
	}
	return sum, nil
}
