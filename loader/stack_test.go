package loader

import (
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
)

// TestStack adds up the stack along each chain of calls, as Linux 5.10 does: there it must not exceed 512
// bytes, and each function counts in steps of 32. Newer kernels let more pass.
func TestStack(t *testing.T) {
	spec, err := loadPod()
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range spec.Programs {
		depth, calls := stackUse(p.Instructions)
		var deepest func(function string) (int, []string)
		deepest = func(function string) (int, []string) {
			most, chain := 0, []string(nil)
			for _, callee := range calls[function] {
				if n, below := deepest(callee); n > most {
					most, chain = n, below
				}
			}
			return (max(depth[function], 1)+31)/32*32 + most, append([]string{function}, chain...)
		}
		n, chain := deepest(name)
		t.Logf("%-10s %d bytes: %s", name, n, strings.Join(chain, " > "))
		if n > 512 {
			t.Errorf("%s: a chain of calls needs %d bytes of stack, more than 512: %s", name, n, strings.Join(chain, " > "))
		}
		if len(chain) < 4 {
			t.Errorf("%s: the deepest chain is %v: calls are not followed", name, chain)
		}
	}
}

// stackUse finds how deep each function of a program reaches into the stack, and whom it calls.
func stackUse(all asm.Instructions) (depth map[string]int, calls map[string][]string) {
	depth, calls = map[string]int{}, map[string][]string{}
	function := ""
	for i, ins := range all {
		if s := ins.Symbol(); s != "" {
			function = s
		}
		offset := int64(0)
		switch class := ins.OpCode.Class(); {
		case ins.IsFunctionCall():
			if !slices.Contains(calls[function], ins.Reference()) {
				calls[function] = append(calls[function], ins.Reference())
			}
		case class.IsLoad() && ins.Src == asm.RFP, class.IsStore() && ins.Dst == asm.RFP:
			offset = int64(ins.Offset)
		case i > 0 && ins.OpCode.ALUOp() == asm.Add && ins.OpCode.Source() == asm.ImmSource &&
			all[i-1].OpCode.ALUOp() == asm.Mov && all[i-1].Src == asm.RFP && all[i-1].Dst == ins.Dst:
			offset = ins.Constant
		}
		depth[function] = max(depth[function], int(-offset))
	}
	return depth, calls
}
