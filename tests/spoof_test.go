package tests

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/nstest"
)

// wire is a packet socket on a container's interface: raw frames, both ways.
type wire struct {
	fd    int
	index int
	mac   net.HardwareAddr
}

func openWire(t *testing.T, c *nstest.Container) *wire {
	t.Helper()
	w := &wire{}
	err := c.InNetns(func() error {
		link, err := net.InterfaceByName(nstest.Interface)
		if err != nil {
			return err
		}
		w.index, w.mac = link.Index, link.HardwareAddr
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func (w *wire) send(t *testing.T, frame []byte) {
	t.Helper()
	// Not write, whose frames lack the network header's place that VLAN tags need.
	if err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index}); err != nil {
		t.Fatalf("send frame: %v", err)
	}
}

// received empties the socket of what has come in, but for the multicast reports that the node's stack
// makes of its own (MLD, behind a hop-by-hop header).
func (w *wire) received(t *testing.T) [][]byte {
	t.Helper()
	var frames [][]byte
	buf := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(w.fd, buf, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return frames
		case err != nil:
			t.Fatalf("receive frame: %v", err)
		}
		report := n > 20 && binary.BigEndian.Uint16(buf[12:]) == unix.ETH_P_IPV6 && buf[20] == 0
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING && !report {
			frames = append(frames, append([]byte(nil), buf[:n]...))
		}
	}
}

// drops reads how many packets the agent says were dropped for a reason.
func drops(t *testing.T, n *nstest.Node, reason string) int {
	t.Helper()
	pattern := regexp.MustCompile(`(?m)^sluice_drops_total\{reason="` + reason + `"\} (\S+)$`)
	m := pattern.FindSubmatch(scrape(t, n))
	if m == nil {
		t.Fatalf("no metric sluice_drops_total with the reason %q", reason)
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(v)
}

// forger makes frames from a container to its neighbour.
type forger struct {
	mac, neighbourMAC net.HardwareAddr
	v4, v6            netip.Addr // its own
	to4, to6          netip.Addr // the neighbour's
}

var (
	gatewayMAC = net.HardwareAddr{0x02, 0x53, 0x6c, 0x75, 0x63, 0x65}
	other4     = netip.MustParseAddr("10.244.1.99") // nobody's
	other6     = netip.MustParseAddr("fd00:10:244:1::99")
	otherMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	allNodes   = netip.MustParseAddr("ff02::1")
)

// frame puts an Ethernet header before a payload.
func frame(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	f := append(append([]byte(nil), to...), from...)
	return append(binary.BigEndian.AppendUint16(f, kind), payload...)
}

// ip4 makes an IPv4 packet; options are a multiple of 4 bytes.
func ip4(src, dst netip.Addr, proto byte, options, payload []byte) []byte {
	p := []byte{0x45 + byte(len(options)/4), 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0}
	p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
	p = append(p, options...)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)+len(payload)))
	binary.BigEndian.PutUint16(p[10:], internetChecksum(p))
	return append(p, payload...)
}

// ip6 makes an IPv6 packet; next is the first header's number.
func ip6(src, dst netip.Addr, next byte, payload []byte) []byte {
	p := []byte{0x60, 0, 0, 0, 0, 0, next, 255}
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
	return append(p, payload...)
}

// udp makes a datagram; a checksum of 0 is none in IPv4, and who drops a datagram does not look.
func udp(sport, dport uint16) []byte {
	p := binary.BigEndian.AppendUint16(nil, sport)
	p = binary.BigEndian.AppendUint16(p, dport)
	return append(p, 0, 12, 0, 0, 'f', 'a', 'k', 'e')
}

// icmp4 makes a message about an address: a router advertisement or a redirect (RFC 1256, RFC 792).
func icmp4(kind byte, about netip.Addr) []byte {
	p := append([]byte{kind, 0, 0, 0, 1, 2, 7, 8}, about.AsSlice()...)
	p = append(p, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(p[2:], internetChecksum(p))
	return p
}

// icmp6 makes a message of neighbour discovery with a right checksum.
func icmp6(src, dst netip.Addr, body ...byte) []byte {
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, 0, 0, byte(len(body)), 0, 0, 0, 58)
	binary.BigEndian.PutUint16(body[2:], internetChecksum(append(pseudo, body...)))
	return ip6(src, dst, 58, body)
}

func internetChecksum(p []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// arp makes an ARP packet: 1 a request, 2 a reply.
func arp(op byte, mac net.HardwareAddr, sender netip.Addr, target net.HardwareAddr, who netip.Addr) []byte {
	p := append([]byte{0, 1, 8, 0, 6, 4, 0, op}, mac...)
	p = append(append(p, sender.AsSlice()...), target...)
	return append(p, who.AsSlice()...)
}

// forgery is a frame that must not get anywhere.
type forgery struct {
	name   string
	reason string // of the drop; "": left to the node's stack, which has no use for it
	frame  []byte
}

// right is what the container may send: it goes to a port of its own.
func (f forger) right() []byte { return ip4(f.v4, f.to4, unix.IPPROTO_UDP, nil, udp(1000, 9)) }

func (f forger) forgeries() []forgery {
	v4 := func(packet []byte) []byte { return frame(gatewayMAC, f.mac, unix.ETH_P_IP, packet) }
	v6 := func(packet []byte) []byte { return frame(gatewayMAC, f.mac, unix.ETH_P_IPV6, packet) }
	good := ip4(f.v4, f.to4, unix.IPPROTO_UDP, nil, udp(1000, 80))
	tagged := func(tag uint16, rest []byte) []byte {
		return append(binary.BigEndian.AppendUint16(nil, tag), rest...)
	}
	inner := tagged(7, append([]byte{8, 0}, good...))
	linkLocal := netip.MustParseAddr("fe80::1")
	target := f.to6.AsSlice()
	advertisement := append(append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, target...), append([]byte{2, 1}, f.mac...)...)
	solicitation := append(append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target...), append([]byte{1, 1}, f.mac...)...)
	router := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	redirect := append(append([]byte{137, 0, 0, 0, 0, 0, 0, 0}, f.v6.AsSlice()...), other6.AsSlice()...)
	looseRoute := append([]byte{131, 7, 4}, append(f.to4.AsSlice(), 0)...) // RFC 791, 3.1
	strictRoute := append([]byte{137, 7, 4}, append(f.to4.AsSlice(), 0)...)
	// RFC 2460, 4.4: type 0, one segment left.
	routing := append([]byte{unix.IPPROTO_UDP, 2, 0, 1, 0, 0, 0, 0}, append(target, udp(1000, 80)...)...)
	return []forgery{
		{"another's IPv4 address", "spoofed", v4(ip4(other4, f.to4, unix.IPPROTO_UDP, nil, udp(1000, 80)))},
		{"another's IPv6 address", "spoofed", v6(ip6(other6, f.to6, unix.IPPROTO_UDP, udp(1000, 80)))},
		{"the receiver's own IPv4 address", "spoofed", v4(ip4(f.to4, f.to4, unix.IPPROTO_UDP, nil, udp(1000, 80)))},
		{"the receiver's own IPv6 address", "spoofed", v6(ip6(f.to6, f.to6, unix.IPPROTO_UDP, udp(1000, 80)))},
		{"the node's address", "spoofed", v4(ip4(netip.MustParseAddr("192.0.2.1"), f.to4, unix.IPPROTO_UDP, nil, udp(1000, 80)))},
		{"another's MAC", "spoofed", frame(gatewayMAC, otherMAC, unix.ETH_P_IP, good)},
		{"another's MAC to the neighbour's", "spoofed", frame(f.neighbourMAC, otherMAC, unix.ETH_P_IP, good)},
		{"another's MAC in a flow that is there", "spoofed", frame(gatewayMAC, otherMAC, unix.ETH_P_IP, f.right())},
		{"another's address, tagged", "", frame(gatewayMAC, f.mac, unix.ETH_P_8021Q,
			tagged(5, append([]byte{8, 0}, ip4(other4, f.to4, unix.IPPROTO_UDP, nil, udp(1000, 80))...)))},
		{"ARP reply for the neighbour", "arp", frame(gatewayMAC, f.mac, unix.ETH_P_ARP, arp(2, f.mac, f.to4, gatewayMAC, f.v4))},
		{"ARP reply for another MAC", "arp", frame(gatewayMAC, f.mac, unix.ETH_P_ARP, arp(2, otherMAC, f.v4, gatewayMAC, f.to4))},
		{"gratuitous ARP for the neighbour", "arp", frame(net.HardwareAddr{255, 255, 255, 255, 255, 255}, f.mac,
			unix.ETH_P_ARP, arp(1, f.mac, f.to4, make(net.HardwareAddr, 6), f.to4))},
		{"ARP request from the neighbour's address", "arp", frame(gatewayMAC, f.mac, unix.ETH_P_ARP,
			arp(1, f.mac, f.to4, make(net.HardwareAddr, 6), netip.MustParseAddr("169.254.1.1")))},
		{"neighbour advertisement for the neighbour", "arp", v6(icmp6(f.v6, f.to6, advertisement...))},
		{"neighbour advertisement to all", "arp", v6(icmp6(f.v6, allNodes, advertisement...))},
		{"neighbour solicitation from the neighbour's address", "arp", v6(icmp6(f.to6, linkLocal, solicitation...))},
		{"DHCP offer", "dhcp", v4(ip4(f.v4, netip.MustParseAddr("255.255.255.255"), unix.IPPROTO_UDP, nil, udp(67, 68)))},
		{"DHCP answer", "dhcp", v4(ip4(f.v4, f.to4, unix.IPPROTO_UDP, nil, udp(67, 68)))},
		{"DHCPv6 answer", "dhcp", v6(ip6(f.v6, f.to6, unix.IPPROTO_UDP, udp(547, 546)))},
		{"router advertisement to all", "router", v6(icmp6(f.v6, allNodes, router...))},
		{"router advertisement to the neighbour", "router", v6(icmp6(f.v6, f.to6, router...))},
		{"router advertisement from the gateway", "router", v6(icmp6(linkLocal, f.to6, router...))},
		{"IPv4 router advertisement", "router", v4(ip4(f.v4, f.to4, unix.IPPROTO_ICMP, nil, icmp4(9, f.v4)))},
		{"IPv4 redirect", "router", v4(ip4(f.v4, f.to4, unix.IPPROTO_ICMP, nil, icmp4(5, f.v4)))},
		{"redirect", "router", v6(icmp6(f.v6, f.to6, redirect...))},
		{"VLAN in VLAN", "vlan", frame(gatewayMAC, f.mac, unix.ETH_P_8021Q, tagged(5, append([]byte{0x81, 0}, inner...)))},
		{"VLAN in provider's VLAN", "vlan", frame(gatewayMAC, f.mac, unix.ETH_P_8021AD, tagged(5, append([]byte{0x81, 0}, inner...)))},
		{"loose source route", "source_route", v4(ip4(f.v4, f.to4, unix.IPPROTO_UDP, looseRoute, udp(1000, 80)))},
		{"strict source route", "source_route", v4(ip4(f.v4, f.to4, unix.IPPROTO_UDP, strictRoute, udp(1000, 80)))},
		{"IPv6 routing header", "source_route", v6(ip6(f.v6, f.to6, unix.IPPROTO_ROUTING, routing))},
	}
}

// TestSpoof: what a container says in another's name, or as a router, a DHCP server or a switch, does not
// reach its neighbour and is counted by its reason.
func TestSpoof(t *testing.T) {
	const times = 5
	n := newNode(t, nstest.Settings{})
	a, b := addContainer(t, n, "a", nil), addContainer(t, n, "b", nil)
	out, in := openWire(t, a), openWire(t, b)
	f := forger{mac: out.mac, neighbourMAC: in.mac, v4: a.V4, v6: a.V6, to4: b.V4, to6: b.V6}
	good := frame(gatewayMAC, f.mac, unix.ETH_P_IP, f.right())
	arrive := func() { // what was sent before has been dealt with then
		t.Helper()
		out.send(t, good)
		arrived := 0
		err := nstest.Await(t.Context(), "the frame that is right", func() (bool, error) {
			for _, frame := range in.received(t) {
				if arrived++; len(frame) < 38 || binary.BigEndian.Uint16(frame[36:]) != 9 || arrived > 1 {
					return false, fmt.Errorf("a forged frame has arrived: %x", frame)
				}
			}
			return arrived > 0, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	arrive()
	for _, forged := range f.forgeries() {
		t.Run(forged.name, func(t *testing.T) {
			before := 0
			if forged.reason != "" {
				before = drops(t, n, forged.reason)
			}
			for range times {
				out.send(t, forged.frame)
			}
			arrive()
			if forged.reason == "" {
				return
			}
			if got := drops(t, n, forged.reason) - before; got != times {
				t.Errorf("%d were sent, %d are counted as %s", times, got, forged.reason)
			}
		})
	}
	time.Sleep(settle)
	if got := in.received(t); len(got) > 0 {
		t.Errorf("forged frames have arrived: %x", got)
	}
}
