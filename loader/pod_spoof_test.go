package loader

import (
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// TestSourceRoutes: no packet whose sender names the routers leaves a container, nor one of a flow that
// is there. What the node forwards is its own business.
func TestSourceRoutes(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range kinds(f) {
				plain := request(f, proto, "A:1234", "B:7000")
				with := func(edit func(*frame)) frame { p := plain; edit(&p); return p }
				bad, good := routed(f)
				var all []fixture
				for name, edit := range bad {
					p := with(edit)
					in := request(f, proto, "N:53", "A:1234").by("N")
					edit(&in)
					all = append(all, fixture{
						name: protoName(proto) + " " + name, counters: counters{DropSourceRoute: 2, FlowsCreated: 2},
						steps: []step{dropped(p), goes(plain), dropped(p), at("->A", in).passes()},
					})
				}
				for name, edit := range good {
					all = append(all, fixture{
						name: protoName(proto) + " " + name, counters: counters{FlowsCreated: 1},
						steps: []step{goes(with(edit))},
					})
				}
				r.runFixtures(t, all)
			}
		})
	}
}

// routed returns headers that name routers, and ones that do not.
func routed(f family) (bad, good map[string]func(*frame)) {
	ext := func(left uint8, e ...extension) func(*frame) { return func(p *frame) { p.ext, p.left = e, left } }
	option := func(b ...byte) func(*frame) { return func(p *frame) { p.options = b } }
	if f.v6 {
		routing, hop, dest := extension{43, 2, 24}, extension{0, 0, 8}, extension{60, 0, 8}
		return map[string]func(*frame){
				"one segment left":         ext(1, routing),
				"many segments left":       ext(255, routing),
				"behind hop-by-hop":        ext(1, hop, routing),
				"behind a routing header":  ext(1, routing, routing),
				"before another extension": ext(2, routing, dest),
			}, map[string]func(*frame){
				"no segment left":        ext(0, routing),
				"no segment left, twice": ext(0, routing, routing),
				"before other options":   ext(0, routing, dest),
				"without one":            ext(1, hop, dest, extension{51, 4, 24}),
			}
	}
	return map[string]func(*frame){
			"loose":                 option(131, 7, 4, 10, 0, 0, 1, 0),
			"strict":                option(137, 7, 4, 10, 0, 0, 1, 0),
			"behind NOPs":           option(1, 1, 1, 1, 131, 3, 4, 0),
			"behind another option": option(148, 4, 0, 0, 137, 3, 4, 0),
			"at the very end":       append2(option, 36, 148, 131, 4, 4, 0),
			"NOPs to the end":       append2(option, 37, 1, 131, 3, 4),
			"that has no length":    option(131, 0, 0, 0),
		}, map[string]func(*frame){
			"router alert":                   option(148, 4, 0, 0),
			"NOPs":                           option(1, 1, 1, 1),
			"behind the end of options":      option(0, 131, 3, 4),
			"inside of another option":       option(148, 8, 0, 0, 131, 3, 4, 0),
			"an option that has no length":   option(7, 0, 131, 3),
			"an option longer than the rest": option(7, 40, 131, 3),
		}
}

// append2 makes options of n bytes of one option (a NOP, or one of 4 bytes again and again) and others.
func append2(option func(...byte) func(*frame), n int, fill byte, rest ...byte) func(*frame) {
	var b []byte
	for len(b) < n {
		if fill == 1 {
			b = append(b, fill)
			continue
		}
		b = append(b, fill, 4, 0, 0)
	}
	return option(append(b, rest...)...)
}

// TestRouterMessages: a container is no router.
func TestRouterMessages(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			message := func(typ uint8, src, dst string) frame {
				p := ping(f, src, dst)
				p.icmp.typ, p.icmp.body, p.ttl = typ, make([]byte, 32), 255
				return p.by("A")
			}
			types, harmless := []uint8{5, 9}, []uint8{10, 13, 17}
			if f.v6 {
				types, harmless = []uint8{134, 137}, []uint8{139, 144}
			}
			var all []fixture
			for _, typ := range types {
				var steps []step
				for _, src := range []string{"A", "L", "G", "X", "0"} {
					for _, dst := range []string{"B", "N", "M", "A"} {
						steps = append(steps, at("A>", message(typ, src, dst)).drops())
					}
				}
				cut1 := message(typ, "A", "B")
				cut1.cut = &cut{id: 9, to: 16}
				steps = append(steps, at("A>", cut1).drops(), at(">A", message(typ, "N", "A")).passes())
				all = append(all, fixture{name: f.name, steps: steps, counters: counters{DropRouter: 21}})
			}
			for _, typ := range harmless {
				p := message(typ, "A", "B")
				all = append(all, fixture{name: "another type", steps: []step{goes(p), leaves(message(typ, "A", "N"))}})
			}
			r.runFixtures(t, all)
		})
	}
}

// TestDHCPServers: a container is no DHCP server, neither of its own accord nor when it is asked.
func TestDHCPServers(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			server, client := ":67", ":68"
			if f.v6 {
				server, client = ":547", ":546"
			}
			udp := func(src, dst string) frame { return packet(protoUDP, src, dst) }
			offer := udp("B"+server, "A"+client)
			ask := udp("A"+client, "B"+server)
			askNode, fromNode := udp("A"+client, "N"+server), udp("N"+server, "A"+client).by("N")
			vip := udp("A:1234", "V:80")
			first, later := offer, offer
			first.data = make([]byte, 100)
			later.data = first.data
			first.cut, later.cut = &cut{id: 4, to: 48}, &cut{id: 4, from: 48, to: 1000, last: true}
			r.runFixtures(t, []fixture{{
				name: "of its own accord", counters: counters{DropDhcp: 4},
				steps: []step{dropped(offer), at("B>", udp("B"+server, "M"+client)).drops(),
					at("B>", udp("0"+server, "A"+client).by("B")).drops(), at("B>", udp("X"+server, "A"+client).by("B")).drops()},
			}, {
				name: "in fragments", counters: counters{DropDhcp: 2},
				steps: []step{dropped(first), dropped(later)},
			}, {
				name: "asked", counters: counters{DropDhcp: 2, FlowsCreated: 1, FlowsRenewed: 1},
				steps: []step{goes(ask), dropped(offer), goes(ask), dropped(offer)},
			}, {
				name: "asked by the node", counters: counters{DropDhcp: 1, FlowsCreated: 1},
				steps: []step{at(">B", udp("N"+client, "B"+server).by("N")).passes(),
					at("B>", udp("B"+server, "N"+client)).drops()},
			}, {
				name: "asked before it was there", counters: counters{DropDhcp: 1, FlowsCreated: 1},
				steps: []step{do(func(r *rig) { r.remove("endpoints", toAddress(r.f.addr("B"))) }), leaves(ask),
					do(func(r *rig) { r.endpoint("B", 2) }), dropped(offer)},
			}, {
				name: "a client of the node", counters: counters{FlowsCreated: 1},
				steps: []step{leaves(askNode), at("->A", fromNode).passes(), leaves(askNode)},
			}, {
				name: "the same ports of other protocols", counters: counters{FlowsCreated: 2},
				steps: []step{goes(packet(protoTCP, "B"+server, "A"+client)), goes(packet(protoSCTP, "B"+server, "A"+client))},
			}, {
				name: "other ports", counters: counters{FlowsCreated: 3},
				steps: []step{goes(udp("B"+server, "A:69")), goes(udp("B:66", "A"+client)),
					at("A>", vip).redirects(vip.as("A:1234", "B:7000").to("B"))},
			}})
		})
	}
}

// TestClaimedAddresses: ARP and neighbour messages that claim what is not the container's.
func TestClaimedAddresses(t *testing.T) {
	v4, v6 := families()[0], families()[1]
	lies := counters{DropArp: 1}
	arp := func(op uint16, smac, sha, sender, target string) []byte {
		dm, sm := mac("*"), mac(smac)
		return arpBody(append(dm[:], sm[:]...), v4, op, sha, sender, "0", target, 0)
	}
	bent := func(at int, to byte) []byte {
		b := arp(1, "A", "A", "A", "G")
		b[14+at] = to
		return b
	}
	one := func(name string, in any, c counters) fixture {
		return fixture{name: name, steps: []step{at("A>", in).drops()}, counters: c}
	}
	newRig(t, v4, rigOptions{}).runFixtures(t, []fixture{
		one("another container's address", arp(1, "A", "A", "B", "G"), lies),
		one("no one's address", arp(1, "A", "A", "X", "G"), lies),
		one("the gateway's address", arp(1, "A", "A", "G", "A"), lies),
		one("a VIP", arp(1, "A", "A", "V", "V"), lies),
		one("announcement of another's", arp(1, "A", "A", "B", "B"), lies),
		one("reply for another's", arp(2, "A", "A", "B", "A"), lies),
		one("reply for the gateway", arp(2, "A", "A", "G", "N"), lies),
		one("another MAC inside", arp(1, "A", "B", "A", "G"), lies),
		one("another MAC outside", arp(1, "B", "A", "A", "G"), lies),
		one("another MAC", arp(1, "B", "B", "A", "G"), lies),
		one("probe with another MAC inside", arp(1, "A", "B", "0", "A"), lies),
		one("reply with another MAC", arp(2, "A", "X", "A", "G"), lies),
		one("another container's address and MAC", arp(1, "B", "B", "B", "G"), lies),
		one("its own reply", arp(2, "A", "A", "A", "N"), counters{DropLinkLocal: 1}),
		one("longer hardware addresses", bent(4, 8), counters{DropMalformed: 1}),
		one("longer protocol addresses", bent(5, 16), counters{DropMalformed: 1}),
	})
	newRig(t, v6, rigOptions{}).runFixtures(t, neighbourLies(v6, one))
}

func neighbourLies(f family, one func(string, any, counters) fixture) []fixture {
	lies, chatter := counters{DropArp: 1}, counters{DropLinkLocal: 1}
	// message claims target, with link-layer address options.
	message := func(typ uint8, src, dst, target string, options ...any) frame {
		body := f.addr(target).AsSlice()
		for i := 0; i < len(options); i += 2 {
			m := mac(options[i+1].(string))
			body = append(append(body, byte(options[i].(int)), 1), m[:]...)
		}
		return frame{src: src, dst: dst, smac: "A", dmac: "*", ttl: 255, proto: protoICMPv6, icmp: &icmp{typ: typ, body: body}}
	}
	many := make([]any, 0, 20)
	for range 9 {
		many = append(many, 14, "A")
	}
	pieces := message(136, "A", "N", "A", 2, "A")
	pieces.cut = &cut{id: 2, to: 24}
	zero := message(136, "A", "N", "A", 2, "A")
	zero.icmp.body[17] = 0
	long := message(136, "A", "N", "A", 14, "A", 14, "A", 2, "B")
	long.icmp.body[17] = 2 // the second option lies within the first
	hidden := message(136, "A", "N", "A", 14, "A", 2, "B", 14, "A")
	hidden.icmp.body[17] = 2
	all := []fixture{
		one("advertisement of another's address", message(136, "A", "N", "B"), lies),
		one("advertisement of the gateway", message(136, "A", "N", "G", 2, "A"), lies),
		one("of the gateway, to another container", message(136, "A", "B", "G", 2, "A"), lies),
		one("of the gateway, from its address", message(136, "G", "B", "A", 2, "B"), lies),
		one("advertisement with another MAC", message(136, "A", "N", "A", 2, "B"), lies),
		one("from the link-local address, with another MAC", message(136, "L", "M", "L", 2, "B"), lies),
		one("from the link-local address, of another", message(136, "L", "M", "B", 2, "A"), lies),
		one("second option lies", message(136, "A", "N", "A", 2, "A", 2, "B"), lies),
		one("option behind others lies", long, lies),
		one("more options than are read", message(136, "A", "N", "A", many...), lies),
		one("in fragments", pieces, lies),
		one("from another's address", message(136, "B", "N", "B", 2, "A"), lies),
		one("from another MAC", message(136, "A", "N", "A").by("B"), lies),
		one("solicitation from another's address", message(135, "B", "M", "G", 1, "A"), lies),
		one("solicitation with another MAC", message(135, "A", "M", "G", 1, "B"), lies),
		one("from the link-local address, with another MAC inside", message(135, "L", "M", "G", 1, "B"), lies),
		one("true, of its link-local address", message(136, "L", "M", "L", 2, "A"), chatter),
		one("true, to another container", message(136, "A", "B", "A", 2, "A"), chatter),
		one("true, to a VIP", message(136, "A", "V", "A", 2, "A"), chatter),
		one("address detection", message(135, "0", "M", "A"), chatter),
		{
			name:     "true, to elsewhere, where policies allow nothing",
			steps:    []step{rule("A", egress, rulesetOf(deny)), at("A>", message(136, "A", "N", "A", 2, "A")).drops()},
			counters: counters{DropEgress: 1},
		},
	}
	for name, p := range map[string]frame{
		"true, to the stack": message(136, "A", "N", "A", 2, "A"), "with an option of no length": zero,
		"that only looks like an option": hidden,
	} {
		all = append(all, fixture{name: name, steps: []step{at("A>", p).passes()}})
	}
	return all
}

// TestTags: frames with a VLAN tag are the stack's, unless the tag hides another or means none.
func TestTags(t *testing.T) {
	f := families()[0]
	r := newRig(t, f, rigOptions{})
	plain := packet(protoTCP, "A:1", "B:2").bytes(f)
	withType := func(typ uint16) []byte {
		b := append([]byte{}, plain[:12]...)
		b = binary.BigEndian.AppendUint16(b, typ)
		b = append(b, 0, 5)
		return append(b, plain[12:]...)
	}
	lies := counters{DropVlan: 1}
	tagged := func(tci ...uint16) step {
		return do(func(r *rig) {
			want := pass
			if len(tci) > 1 || tci[0]&0xfff == 0 {
				want = drop
			}
			if got := r.runTagged("A>", plain, tci); got != want {
				r.t.Errorf("verdict is %v, want %v", got, want)
			}
		})
	}
	// Were it looked at behind its tag, it would be dropped.
	short := packet(protoTCP, "N:1", "A:2").bytes(f)
	short[14] = 0x44
	to := func(want verdict, tci ...uint16) step {
		return do(func(r *rig) {
			if got := r.runTagged(">A", short, tci); got != want {
				r.t.Errorf("%v: verdict is %v, want %v", tci, got, want)
			}
		})
	}
	r.runFixtures(t, []fixture{
		{name: "a tag", steps: []step{tagged(5), tagged(0xe001), tagged(0xfff)}},
		{name: "a priority tag", steps: []step{tagged(0)}, counters: lies},
		{name: "a priority tag with a priority", steps: []step{tagged(0xe000)}, counters: lies},
		{name: "a tag within a tag", steps: []step{tagged(7, 5)}, counters: lies},
		{name: "a tag that the kernel left", steps: []step{at("A>", withType(0x8100)).drops()}, counters: lies},
		{name: "a provider's", steps: []step{at("A>", withType(0x88a8)).drops()}, counters: lies},
		{name: "to a container", steps: []step{to(pass, 5), to(pass, 0xe001), to(pass, 7, 5)}, flows: []string{}},
		{name: "to a container, with a priority tag", steps: []step{to(drop, 0)}, counters: counters{DropMalformed: 1}},
		{name: "from the stack", steps: []step{at(">A", withType(0x8100)).passes()}},
	})
}

// runTagged gives a frame to a hook after tags were put in front, the last one outermost.
func (r *rig) runTagged(hook string, in []byte, tci []uint16) verdict {
	r.t.Helper()
	program, opts := r.hook(hook)
	opts.Data, opts.DataOut = in, make([]byte, len(in)+256)
	got, err := r.tagging(program, tci).Run(&opts)
	if err != nil {
		r.t.Fatal(err)
	}
	return verdict(got)
}

// tagging returns a program that puts tags in front, the last one outermost, and goes on with another.
func (r *rig) tagging(program *ebpf.Program, tci []uint16) *ebpf.Program {
	r.t.Helper()
	next, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { next.Close() })
	if err := next.Put(uint32(0), program); err != nil {
		r.t.Fatal(err)
	}
	ins := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for _, tag := range tci {
		ins = append(ins, asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 0x0081), // htons(ETH_P_8021Q)
			asm.Mov.Imm(asm.R3, int32(tag)), asm.FnSkbVlanPush.Call())
	}
	ins = append(ins, asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMapPtr(asm.R2, next.FD()), asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(), asm.Mov.Imm(asm.R0, 99), asm.Return())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: ins})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { prog.Close() })
	return prog
}
