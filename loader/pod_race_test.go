package loader

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// slowPolicy makes each look-up in policy take some microseconds, so that what changes meanwhile is seen
// to change meanwhile. The look-up is replaced by a call of a function that dawdles first.
func slowPolicy(t *testing.T) func(*ebpf.CollectionSpec) {
	return func(spec *ebpf.CollectionSpec) {
		p := spec.Programs["from_pod"]
		function, ofPolicy, replaced := "", false, 0
		var line *btf.Line // any: the kernel wants one for each function
		for i, ins := range p.Instructions {
			if s := ins.Symbol(); s != "" {
				function = s
			}
			if l, ok := ins.Source().(*btf.Line); ok {
				line = l
			}
			if ins.IsLoadFromMap() {
				ofPolicy = ins.Reference() == "policy"
			}
			if function == "judge_side" && ofPolicy && ins.IsBuiltinCall() && ins.Constant == int64(asm.FnMapLookupElem) {
				p.Instructions[i] = asm.Instruction{
					OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoCall, Constant: -1,
				}.WithReference("slow_lookup").WithSource(ins.Source())
				replaced++
			}
		}
		if replaced == 0 {
			t.Fatal("judge_side does not look into policy")
		}
		slow := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1).WithSymbol("slow_lookup"), asm.Mov.Reg(asm.R7, asm.R2)}
		number := &btf.Int{Name: "long", Size: 8}
		slow[0] = btf.WithFuncMetadata(slow[0].WithSource(line), &btf.Func{
			Name: "slow_lookup", Linkage: btf.StaticFunc, Type: &btf.FuncProto{Return: number},
		})
		for range 100 {
			slow = append(slow, asm.FnKtimeGetNs.Call())
		}
		p.Instructions = append(p.Instructions, append(slow, asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Reg(asm.R2, asm.R7),
			asm.FnMapLookupElem.Call(), asm.Return())...)
	}
}

// slowSettle makes settle dawdle before it reads what the flow's ends are.
func slowSettle(t *testing.T) func(*ebpf.CollectionSpec) {
	return func(spec *ebpf.CollectionSpec) {
		p := spec.Programs["from_pod"]
		first := slices.IndexFunc(p.Instructions, func(i asm.Instruction) bool { return i.Symbol() == "settle" })
		if first < 0 {
			t.Fatal("there is no settle")
		}
		old := p.Instructions[first]
		slow := make(asm.Instructions, 100)
		for i := range slow {
			slow[i] = asm.FnKtimeGetNs.Call()
		}
		slow[0] = btf.WithFuncMetadata(slow[0], btf.FuncMetadata(&old)).WithSource(old.Source()).WithSymbol("settle")
		p.Instructions[first] = btf.WithFuncMetadata(old, nil).WithSymbol("")
		p.Instructions = slices.Insert(p.Instructions, first, slow...)
	}
}

// TestPolicyChangeRace changes a policy while another CPU sends. As soon as the change and the epoch are
// written, what it denies is denied: no packet that was judged before may leave an entry that holds.
func TestPolicyChangeRace(t *testing.T) {
	f := families()[0]
	r := newRig(t, f, rigOptions{edit: slowPolicy(t)})
	r.reset()
	p := packet(protoUDP, "A:1234", "B:7000").bytes(f)
	defer r.sendUntil(t, p, 1)()
	for i := range 3000 {
		r.rule("B", ingress, rulesetOf(allow))
		r.raise(2)
		r.rule("B", ingress, rulesetOf(deny))
		r.raise(2)
		if v, _ := r.run("A>", p); v != drop {
			t.Fatalf("change %d: %v after it was denied", i, v)
		}
	}
}

// TestIdentityChangeRace is the same with a change of the receiver's identity, and of where it is.
func TestIdentityChangeRace(t *testing.T) {
	f := families()[0]
	for name, slow := range map[string]func(*ebpf.CollectionSpec){"policy": slowPolicy(t), "settle": slowSettle(t)} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{edit: slow})
			r.reset()
			r.rule("B", ingress, rulesetOf(allow))
			r.rule("C", ingress, rulesetOf(deny))
			p := packet(protoUDP, "A:1234", "B:7000").bytes(f)
			defer r.sendUntil(t, p, 1)()
			be := func(who string) {
				rewire("B", func(e *endpoint) { e.Identity = identities[who] }).do(r)
				r.raise(2)
			}
			for i := range 3000 {
				be("B")
				be("C")
				if v, _ := r.run("A>", p); v != drop {
					t.Fatalf("change %d: %v after it was denied", i, v)
				}
			}
		})
	}
}

// TestPolicyTornRead switches between two policies that both deny, in the loader's order, while another
// CPU sends. Half of the one and half of the other would allow.
func TestPolicyTornRead(t *testing.T) {
	f := families()[0]
	r := newRig(t, f, rigOptions{edit: slowPolicy(t)})
	r.reset()
	r.rule("B", ingress, rulesetOf(deny))
	p := packet(protoUDP, "A:1234", "B:7000").bytes(f)
	stop := r.sendUntil(t, p, 4096)
	for range 5000 {
		r.ruleFor("B", ingress, "A", rulesetOf(deny))
		r.rule("B", ingress, rulesetOf(allow)) // to all but A
		r.rule("B", ingress, rulesetOf(deny))
		r.remove("policy", cellKey("B", ingress, "A"))
	}
	stop()
	if c := r.counters().minus(r.before); c.FlowsCreated != 0 || c.DropIngress == 0 {
		t.Errorf("a packet passed that both policies deny: %s", show(c))
	}
}

// TestPolicyTornSides lets sender and receiver take turns in denying, in the loader's order, while another
// CPU sends: there is always one that denies. The turns come so fast that both may be over between two reads
// of one packet.
func TestPolicyTornSides(t *testing.T) {
	f := families()[0]
	r := newRig(t, f, rigOptions{edit: slowPolicy(t)})
	r.reset()
	r.rule("A", egress, rulesetOf(allow))
	r.rule("B", ingress, rulesetOf(deny))
	m := &isolationMemory{subjects: r.memory("subjects"), settings: r.memory("settings")}
	write := func(who string, direction, ruleset uint32) {
		m.raiseGeneration()
		m.setSubject(identities[who], direction, rulesetOf(ruleset))
	}
	p := packet(protoUDP, "A:1234", "B:7000").bytes(f)
	stop := r.sendUntil(t, p, 4096)
	for i := range 20000 {
		write("A", egress, deny)
		write("B", ingress, allow)
		rest := time.Now()
		for time.Since(rest) < time.Duration(i%40)*time.Microsecond {
			// Long enough for one side to be read, and short enough that the other one was read before.
		}
		write("B", ingress, deny)
		write("A", egress, allow)
		for rest = time.Now(); time.Since(rest) < time.Duration(i/40%40)*time.Microsecond; {
		}
	}
	stop()
	if c := r.counters().minus(r.before); c.FlowsCreated != 0 || c.DropIngress == 0 || c.DropEgress == 0 {
		t.Errorf("a packet passed that one side always denies: %s", show(c))
	}
}

// memory maps one of the rig's arrays.
func (r *rig) memory(name string) *memory {
	r.t.Helper()
	m, err := mapMemory(r.coll.Maps[name], unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(m.close)
	return m
}

// sendUntil has A send a packet, again and again, until the function that it returns is called.
func (r *rig) sendUntil(t *testing.T, p []byte, repeat uint32) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	prog, opts := r.hook("A>")
	opts.Data, opts.Repeat = p, repeat
	wg.Go(func() {
		r.enter()
		for ctx.Err() == nil {
			o := opts
			if _, err := prog.Run(&o); err != nil {
				t.Error(err)
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}
