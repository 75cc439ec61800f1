package kernel

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// class is one kind of packet, and what the program must do with it.
type class struct {
	name  string
	proto uint8
	// at is the container at whose veth the packet is seen: from_pod sees what it sends.
	at string
	// before are packets that make what the class needs to be there.
	before []sent
	packet packet
	// fresh: each run's packet is another flow's.
	fresh bool

	verdict uint32
	counts  []string // counters that each packet adds 1 to; no other counter may change
}

// sent is a packet that a container sends.
type sent struct {
	from   string
	packet packet
}

// What tc programs return (linux/pkt_cls.h).
const (
	verdictPass     = 0xffffffff // TC_ACT_UNSPEC: the next program, or the stack
	verdictDrop     = 2          // TC_ACT_SHOT
	verdictRedirect = 7          // TC_ACT_REDIRECT
)

// clientPort is the source port of flows that go on.
const clientPort = 900

// stage makes the packets of a world and a family.
type stage struct {
	w      *world
	family int // 0: IPv4, 1: IPv6
}

func (s stage) addr(place string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(places[place][s.family], port)
}

// between is a packet from a container.
func (s stage) between(from string, sport uint16, to string, dport uint16, proto, flags uint8) packet {
	return packet{smac: s.w.probes[from].MAC, src: s.addr(from, sport), dst: s.addr(to, dport), proto: proto, flags: flags}
}

// classes are those of from_pod.
func (s stage) classes() []class {
	var list []class
	add := func(c class) {
		c.at = "client"
		c.proto = c.packet.proto
		list = append(list, c)
	}
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP} {
		add(class{
			name:    "established_vip",
			before:  []sent{{"client", s.between("client", clientPort, "vip", servicePort, proto, flagSYN)}},
			packet:  s.between("client", clientPort, "vip", servicePort, proto, flagACK),
			verdict: verdictRedirect,
		})
	}
	return list
}

func protocol(number uint8) string {
	switch number {
	case unix.IPPROTO_TCP:
		return "TCP"
	case unix.IPPROTO_UDP:
		return "UDP"
	case unix.IPPROTO_SCTP:
		return "SCTP"
	}
	return fmt.Sprint(number)
}
