package loader

import (
	"testing"

	"github.com/cilium/ebpf"
)

// BenchmarkFromPod measures a packet of an established flow through a VIP: lookup, rewrite, checksum,
// redirect. The kernel runs one packet again and again and a run rewrites it, so two entries are made
// that turn it back and forth.
func BenchmarkFromPod(b *testing.B) {
	for _, f := range families() {
		for _, proto := range []struct {
			name   string
			number uint8
		}{{"TCP", protoTCP}, {"UDP", protoUDP}} {
			b.Run(f.name+"/"+proto.name, func(b *testing.B) {
				r := newRig(b, f, rigOptions{})
				r.reset()
				packet := frame{src: "A:1234", dst: "V:80", proto: proto.number, flags: flagACK}
				if v, _ := r.run("A>", packet.bytes(f)); v != redirect {
					b.Fatalf("first packet: %s", v)
				}
				r.pingPong(f, proto.number)
				opts := ebpf.RunOptions{
					Data: packet.bytes(f), Context: skBuff{Ifindex: r.ifindex["A"]}, Repeat: uint32(b.N),
				}
				copy(opts.Data[6:], macSlice("G"))
				before := r.counters()
				b.ResetTimer()
				if _, err := r.coll.Programs["from_pod"].Run(&opts); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if c := show(r.counters().minus(before)); c != "{}" {
					b.Fatalf("not every packet was of an established flow: %s", c)
				}
			})
		}
	}
}

func macSlice(name string) []byte { m := mac(name); return m[:] }

// pingPong makes A's flow to V:80 one that accepts what it delivers, and enters the way back: what
// went to B:7000 becomes a packet to V:80.
func (r *rig) pingPong(f family, proto uint8) {
	r.t.Helper()
	there := sockFlowKey{
		Saddr: toAddress(f.addr("A")), Daddr: toAddress(f.addr("V")), Sport: 1234, Dport: 80, Proto: proto,
	}
	var flow sockFlow
	r.lookup("flows", there, &flow)
	flow.InMac = mac("G")
	r.put("flows", there, flow)
	back := there
	back.Daddr, back.Dport = flow.Daddr, flow.Dport
	flow.Daddr, flow.Dport = there.Daddr, there.Dport
	flow.Flags |= 1 << 2 // FLOW_REPLY: it has no other half to look for
	r.put("flows", back, flow)
}

// BenchmarkNewFlow measures the decision about a flow, made again for each packet: what a container
// asks a DHCP server that is a container never gets an entry that holds. It compares containers without
// policies with ones where policies of both name the other, down to the port.
func BenchmarkNewFlow(b *testing.B) {
	for _, f := range families() {
		server, client := ":67", ":68"
		if f.v6 {
			server, client = ":547", ":546"
		}
		for _, policies := range []string{"none", "defaults", "peers"} {
			b.Run(f.name+"/"+policies, func(b *testing.B) {
				r := newRig(b, f, rigOptions{})
				r.reset()
				// As it comes out is how it goes in again.
				rewire("A", func(e *endpoint) { e.Mac = mac("G") }).do(r)
				packet := frame{src: "A" + client, dst: "B" + server, proto: protoUDP, data: []byte("hello")}.by("G")
				r.openFor(policies, packet)
				prog, opts := r.hook("A>")
				opts.Data, opts.Repeat = packet.bytes(f), uint32(b.N)
				b.ResetTimer()
				if _, err := prog.Run(&opts); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				c := r.counters().minus(r.before)
				if c.FlowsCreated+c.FlowsRenewed != uint64(b.N) {
					b.Fatalf("not every packet was decided: %s", show(c))
				}
			})
		}
	}
}

// openFor lets a packet from A to B pass: for want of policies, by what they say of all, or of the peer's
// port.
func (r *rig) openFor(policies string, p frame) {
	r.t.Helper()
	if policies == "none" {
		return
	}
	all := rulesetOf(allow)
	if policies == "peers" {
		_, port := parseEndpoint(p.dst)
		var next uint32
		ref := r.tree([]portSpan{{port - 1, deny}, {port, allow}, {65535, deny}}, &next)
		r.ruleset(30, ref, ref, ref, leaf|deny)
		r.ruleFor("A", egress, "B", 30)
		r.ruleFor("B", ingress, "A", 30)
		all = rulesetOf(deny)
	}
	r.rule("A", egress, all)
	r.rule("B", ingress, all)
}
