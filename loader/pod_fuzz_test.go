package loader

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

// FuzzPackets gives arbitrary packets to both programs. Whatever comes in, the verdict is one of
// three, and no packet with right checksums comes out with a wrong one.
func FuzzPackets(f *testing.F) {
	rigs := map[bool]*rig{}
	for _, fam := range families() {
		rigs[fam.v6] = newRig(f, fam, rigOptions{})
		rigs[fam.v6].reset()
		for _, p := range seeds(fam) {
			f.Add(p.bytes(fam), uint8(0))
			f.Add(p.bytes(fam), uint8(3))
		}
		for hook := range uint8(4) {
			f.Add(arpFrame(families()[0], 1, "*", "A", "G", 0), hook)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, hook uint8) {
		if len(in) < 14 || len(in) > 3000 {
			return
		}
		// What the kernel runs no program on, see malformed.
		least := map[uint16]int{etherIPv4: 34, etherIPv6: 54}[binary.BigEndian.Uint16(in[12:])]
		if len(in) < least {
			return
		}
		for _, r := range rigs {
			r.t = t
			r.enter()
			r.harmless([]string{"A>", "B>", ">A", ">B"}[hook%4], in)
		}
	})
}

// seeds are packets of each kind. One of them begins a flow that others belong to.
func seeds(f family) (all []frame) {
	for _, proto := range protocols() {
		there, answer := packet(proto, "A:1234", "V:80"), packet(proto, "B:7000", "A:1234")
		a, b, c := pieces(there, 7)
		all = append(all, there, answer, a, b, c, there.as("A:1234", "V:90"), there.as("A:1234", "V:7"),
			there.as("A:1234", "B:7000"), there.as("A:1234", "N:53"), answer.as("N:53", "A:1234"),
			there.as("A:1234", "V:100"), answer.as("A:7000", "H:1234"), there.with(flagFIN|flagACK),
			there.with(flagRST), there.as("0:68", "A:67"))
		for _, e := range reports(f) {
			all = append(all, e.about(f, "B", "A", there.as("A:1234", "B:7000")),
				e.about(f, "A", "V", answer.as("V:80", "A:1234")))
		}
		if f.v6 {
			there.ext = []extension{{0, 0, 8}, {60, 1, 16}, {43, 2, 24}, {44, 0, 8}, {51, 4, 24}, {60, 0, 8}}
		} else {
			there.options = make([]byte, 40)
		}
		all = append(all, there)
	}
	all = append(all, ping(f, "A", "B"), ping(f, "A", "V"), frame{src: "A", dst: "B", proto: 47},
		response(f, ping(f, "A", "B")), ping(f, "A", "N"), frame{src: "N", dst: "A", proto: 47})
	if f.v6 {
		all = append(all, solicitation(f, "A", "G"), solicitation(f, "0", "A"))
	}
	return all
}

func (r *rig) harmless(hook string, in []byte) {
	r.t.Helper()
	v, out := r.run(hook, in)
	if v != pass && v != drop && v != redirect {
		r.t.Errorf("%s: verdict is %v\n%s", hook, v, hex.Dump(in))
	}
	if v == drop || verifyChecksums(in) != nil {
		return
	}
	if err := verifyChecksums(out); err != nil && !errors.Is(err, errNotChecked) {
		r.t.Errorf("%s: %v\nin:\n%sout:\n%s", hook, err, hex.Dump(in), hex.Dump(out))
	}
}

// TestMutatedPacketsDenied gives packets to a container's hooks while its policies deny everything. What
// comes out is for the node, or is a message of the link that policies are not about.
func TestMutatedPacketsDenied(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			r.reset()
			for _, name := range []string{"A", "B", "C"} {
				r.rule(name, egress, rulesetOf(deny))
				r.rule(name, ingress, rulesetOf(quiet))
			}
			r.prefix("N", 128, identityNode)
			all := seeds(f)
			random := rand.New(rand.NewPCG(5, 6))
			for range 30000 {
				hook := []string{"A>", "B>", "->A", "A>B"}[random.IntN(4)]
				in := mutate(random, all[random.IntN(len(all))].bytes(f))
				if v, out := r.run(hook, in); v != drop && !r.excepted(hook, in, out, v) {
					t.Fatalf("%s: verdict is %v\nin:\n%sout:\n%s", hook, v, hex.Dump(in), hex.Dump(out))
				}
			}
			if c := r.counters().minus(r.before); c.DropEgress == 0 || c.DropIngress == 0 || c.FlowsCreated == 0 {
				t.Errorf("these packets reach too little: %s", show(c))
			}
		})
	}
}

// excepted says whether a packet may come out of a hook while everything is denied: a packet for or from
// the node, the node's answer to the container itself, a true neighbour advertisement, or what is not
// for the container.
func (r *rig) excepted(hook string, in, out []byte, v verdict) bool {
	address := func(b []byte, at int) netip.Addr {
		if r.f.v6 {
			return netip.AddrFrom16([16]byte(b[14+8+at*16:]))
		}
		return netip.AddrFrom4([4]byte(b[14+12+at*4:]))
	}
	from, to, node := address(in, 0), address(in, 1), r.f.addr("N")
	switch {
	case binary.BigEndian.Uint16(in[12:]) == etherARP:
		return v == redirect
	case from == node || to == node:
		return true
	case !strings.HasSuffix(hook, ">"):
		return v == pass && to != r.f.addr(hook[strings.Index(hook, ">")+1:])
	case v == redirect:
		// Back to who sent it: refused, answered, or to itself.
		return bytes.Equal(out[:6], in[6:12]) && address(out, 1) == from || to == from
	}
	return r.f.v6 && in[20] == protoICMPv6 && in[54] == 136
}

// TestMutatedPackets is FuzzPackets with packets that are close to right ones, and often have checksums
// made right again.
func TestMutatedPackets(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			r.reset()
			all := seeds(f)
			random := rand.New(rand.NewPCG(1, 2))
			for _, p := range all[:1] {
				r.harmless("A>", p.bytes(f))
			}
			for range 20000 {
				b := mutate(random, all[random.IntN(len(all))].bytes(f))
				r.harmless([]string{"A>", "B>", ">A", ">B"}[random.IntN(4)], b)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// mutate changes some bytes, or the length, and more often than not repairs the checksums.
func mutate(random *rand.Rand, b []byte) []byte {
	header := 34
	if binary.BigEndian.Uint16(b[12:]) == etherIPv6 {
		header = 54
	}
	for range random.IntN(4) {
		b[14+random.IntN(len(b)-14)] ^= 1 << random.IntN(8)
	}
	switch random.IntN(4) {
	case 0:
		b = append(b, make([]byte, random.IntN(64))...)
	case 1:
		b = b[:header+random.IntN(len(b)-header+1)]
	}
	if random.IntN(3) > 0 {
		repair(b)
	}
	return b
}

// repair makes the checksums right: each attempt adds what is missing to a field that can take it.
func repair(b []byte) {
	if binary.BigEndian.Uint16(b[12:]) == etherIPv4 {
		n := 14 + int(b[14]&15)*4
		if n < 34 || n > len(b) {
			return
		}
		clear(b[24:26])
		binary.BigEndian.PutUint16(b[24:], ^onesSum(0, b[14:n]))
	}
	for _, field := range []int{2, 6, 16} {
		for _, l4 := range []int{34, 54, 62, 74} {
			at := l4 + field
			if at+2 > len(b) || verifyChecksums(b) == nil {
				continue
			}
			old := [2]byte(b[at:])
			if sum, ok := missing(b, at); ok {
				binary.BigEndian.PutUint16(b[at:], sum)
			}
			if err := verifyChecksums(b); err != nil {
				copy(b[at:], old[:])
			}
		}
	}
}

// missing is the value of the two bytes at which the packet's transport checksum would be right, were
// they its place.
func missing(b []byte, at int) (uint16, bool) {
	clear(b[at : at+2])
	var wrong *wrongSum
	if !errors.As(verifyChecksums(b), &wrong) {
		return 0, false
	}
	return ^wrong.sum, true
}
