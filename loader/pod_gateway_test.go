package loader

import (
	"encoding/binary"
	"testing"
)

// arpFrame builds an ARP packet from container A.
func arpFrame(f family, op uint16, dmac, sender, target string, pad int) []byte {
	dm, sm := mac(dmac), mac("A")
	b := append(append([]byte{}, dm[:]...), sm[:]...)
	return arpBody(b, f, op, "A", sender, "0", target, pad)
}

func arpBody(b []byte, f family, op uint16, smac, sender, tmac, target string, pad int) []byte {
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4)
	b = binary.BigEndian.AppendUint16(b, op)
	sm, tm := mac(smac), mac(tmac)
	if tmac == "0" {
		tm = [6]byte{}
	}
	b = append(append(b, sm[:]...), f.addr(sender).AsSlice()...)
	b = append(append(b, tm[:]...), f.addr(target).AsSlice()...)
	return append(b, make([]byte, pad)...)
}

func TestARP(t *testing.T) {
	f := families()[0]
	r := newRig(t, f, rigOptions{})
	answer := func(pad int) []byte {
		a, g := mac("A"), mac("G")
		return arpBody(append(a[:], g[:]...), f, 2, "G", "G", "A", "A", pad)
	}
	ignored := counters{DropLinkLocal: 1}
	r.runFixtures(t, []fixture{{
		name:     "who has the gateway",
		steps:    []step{at("A>", arpFrame(f, 1, "*", "A", "G", 0)).redirects(answer(0))},
		counters: counters{ArpReplies: 1},
	}, {
		name:     "who has the gateway, padded",
		steps:    []step{at("A>", arpFrame(f, 1, "*", "A", "G", 18)).redirects(answer(18))},
		counters: counters{ArpReplies: 1},
	}, {
		name:     "unicast, to check that it is still there",
		steps:    []step{at("A>", arpFrame(f, 1, "G", "A", "G", 0)).redirects(answer(0))},
		counters: counters{ArpReplies: 1},
	}, {
		name:     "who has another address",
		steps:    []step{at("A>", arpFrame(f, 1, "*", "A", "B", 0)).drops()},
		counters: ignored,
	}, {
		name:     "who has a VIP",
		steps:    []step{at("A>", arpFrame(f, 1, "*", "A", "V", 0)).drops()},
		counters: ignored,
	}, {
		name:     "probe of its own address",
		steps:    []step{at("A>", arpFrame(f, 1, "*", "0", "A", 0)).drops()},
		counters: ignored,
	}, {
		name:     "probe of the gateway's address",
		steps:    []step{at("A>", arpFrame(f, 1, "*", "0", "G", 0)).drops()},
		counters: ignored,
	}, {
		name:     "announcement",
		steps:    []step{at("A>", arpFrame(f, 1, "*", "A", "A", 0)).drops()},
		counters: ignored,
	}, {
		name:     "reply",
		steps:    []step{at("A>", arpFrame(f, 2, "G", "A", "G", 0)).drops()},
		counters: ignored,
	}, {
		name:     "truncated",
		steps:    []step{at("A>", arpFrame(f, 1, "*", "A", "G", 0)[:41]).drops()},
		counters: counters{DropMalformed: 1},
	}, {
		name:  "from the stack",
		steps: []step{at(">A", arpFrame(f, 1, "*", "N", "A", 0)).passes()},
	}, {
		name:  "neither ARP nor IP",
		steps: []step{at("A>", append(arpFrame(f, 1, "*", "A", "G", 0)[:12], 0x88, 0xcc, 1, 2)).passes()},
	}, {
		name:  "neither ARP nor IP, from the stack",
		steps: []step{at(">A", append(arpFrame(f, 1, "*", "A", "G", 0)[:12], 0x88, 0xcc, 1, 2)).passes()},
	}})
}

// solicitation asks for the target's MAC, with the source's MAC as an option.
func solicitation(f family, src, target string) frame {
	body := f.addr(target).AsSlice()
	if src != "0" {
		m := mac("A")
		body = append(append(body, 1, 1), m[:]...)
	}
	return frame{
		src: src, dst: "ff02::1:ff00:1", smac: "A", dmac: "*", ttl: 255, proto: protoICMPv6,
		icmp: &icmp{typ: 135, body: body},
	}
}

// advertisement answers it for the gateway.
func advertisement(f family, dst string) frame {
	m := mac("G")
	return frame{
		src: "G", dst: dst, dmac: "A", ttl: 255, proto: protoICMPv6,
		icmp: &icmp{typ: 136, rest: 0xe0000000,
			body: append(append(f.addr("G").AsSlice(), 2, 1), m[:]...)},
	}
}

func TestNeighbourDiscovery(t *testing.T) {
	f := families()[1]
	r := newRig(t, f, rigOptions{})
	change := func(p frame, edit func(*frame)) frame {
		m := *p.icmp
		p.icmp = &m
		edit(&p)
		return p
	}
	ask := solicitation(f, "A", "G")
	answered, ignored := counters{ArpReplies: 1}, counters{DropLinkLocal: 1}
	chatter := func(typ uint8, src, dst string, ext ...extension) frame {
		return frame{src: src, dst: dst, smac: "A", dmac: "*", ttl: 255, proto: protoICMPv6, ext: ext,
			icmp: &icmp{typ: typ, body: make([]byte, 20)}}
	}
	r.runFixtures(t, []fixture{{
		name:     "gateway",
		steps:    []step{at("A>", ask).redirects(advertisement(f, "A"))},
		counters: answered,
	}, {
		name:     "gateway, from the link-local address",
		steps:    []step{at("A>", solicitation(f, "L", "G")).redirects(advertisement(f, "L"))},
		counters: answered,
	}, {
		name: "gateway, unicast and without options",
		steps: []step{at("A>", change(ask, func(p *frame) { p.dst, p.icmp.body = "G", p.icmp.body[:16] })).
			redirects(advertisement(f, "A"))},
		counters: answered,
	}, {
		name: "gateway, with a nonce option and padding",
		steps: []step{at("A>", change(ask, func(p *frame) {
			p.pad, p.icmp.body = 9, append(append([]byte{}, p.icmp.body...), 14, 1, 1, 2, 3, 4, 5, 6)
		})).redirects(advertisement(f, "A"))},
		counters: answered,
	}, {
		name:     "another target",
		steps:    []step{at("A>", solicitation(f, "A", "B")).drops()},
		counters: ignored,
	}, {
		name:     "duplicate address detection",
		steps:    []step{at("A>", solicitation(f, "0", "A")).drops()},
		counters: ignored,
	}, {
		name:     "duplicate address detection of the gateway",
		steps:    []step{at("A>", solicitation(f, "0", "G")).drops()},
		counters: ignored,
	}, {
		name:     "wrong hop limit",
		steps:    []step{at("A>", change(ask, func(p *frame) { p.ttl = 254 })).drops()},
		counters: ignored,
	}, {
		name: "behind an extension header",
		steps: []step{at("A>", change(ask, func(p *frame) { p.ext = []extension{{60, 0, 8}} })).
			drops()},
		counters: ignored,
	}, {
		name:     "truncated",
		steps:    []step{at("A>", change(ask, func(p *frame) { p.icmp.body = p.icmp.body[:15] })).drops()},
		counters: ignored,
	}, {
		name: "its own advertisements go to the stack",
		steps: []step{
			at("A>", frame{src: "A", dst: "N", ttl: 255, proto: protoICMPv6,
				icmp: &icmp{typ: 136, rest: 0x60000000, body: f.addr("A").AsSlice()}}).passes(),
		},
	}, {
		name: "advertisement from the link-local address",
		steps: []step{at("A>", change(chatter(136, "L", "ff02::1"), func(p *frame) {
			p.icmp.body = f.addr("L").AsSlice()
		})).drops()},
		counters: ignored,
	}, {
		name:     "router solicitation",
		steps:    []step{at("A>", chatter(133, "L", "ff02::2")).drops()},
		counters: ignored,
	}, {
		name:     "multicast report of no one yet",
		steps:    []step{at("A>", chatter(143, "0", "ff02::16", extension{0, 0, 8})).drops()},
		counters: ignored,
	}, {
		name:  "from the stack",
		steps: []step{at(">A", solicitation(f, "N", "A")).passes()},
	}})
}
