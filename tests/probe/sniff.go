package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// sniffer counts what arrives at an interface before any socket sees it.
type sniffer struct {
	fd    int
	ports []int // of TCP, UDP and SCTP; nil: all

	mu      sync.Mutex
	arrived map[string]int
}

// sniffed is a classic BPF program on the IP header: what was not sent from here, of TCP only SYN
// without ACK.
var sniffed = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0xfffff004}, // SKF_AD_PKTTYPE
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.PACKET_OUTGOING, Jt: 16},
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0xfffff000}, // SKF_AD_PROTOCOL
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IP, Jt: 1},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IPV6, Jt: 6, Jf: 13},
	// IPv4
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_TCP, Jf: 10},
	{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: 13},
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 2, Jt: 6, Jf: 7},
	// IPv6
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 6},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_TCP, Jf: 4},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 40 + 13},
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 2, Jt: 1, Jf: 2},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 128},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// newSniffer counts on one interface, or on any.
func newSniffer(device string, ports []int) (*sniffer, error) {
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)) // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)          // deaf until it is bound
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	to := &unix.SockaddrLinklayer{Protocol: all}
	if device != "any" {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", device, err)
		}
		to.Ifindex = link.Index
	}
	// Room for what comes while the reader waits for a CPU.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	prog := &unix.SockFprog{Len: uint16(len(sniffed)), Filter: &sniffed[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, prog); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, to); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	s := &sniffer{fd: fd, ports: ports, arrived: map[string]int{}}
	go func() {
		for range time.Tick(20 * time.Millisecond) {
			s.mu.Lock()
			s.drain()
			s.mu.Unlock()
		}
	}()
	return s, nil
}

// reset begins to count anew. A nil sniffer counts nothing.
func (s *sniffer) reset() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	clear(s.arrived)
}

// read returns what has arrived since reset.
func (s *sniffer) read() (map[string]int, error) {
	if s == nil {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	stats, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	if stats.Drops > 0 {
		return nil, fmt.Errorf("%d arrivals were not counted: no room", stats.Drops)
	}
	return s.arrived, nil
}

// drain takes all that the socket holds.
func (s *sniffer) drain() {
	buf := make([]byte, 256)
	for {
		n, _, err := unix.Recvfrom(s.fd, buf, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		if key := s.key(buf[:n]); key != "" {
			s.arrived[key]++
		}
	}
}

// key returns how report names the packet, nothing when it is not counted.
func (s *sniffer) key(p []byte) string {
	if len(p) < 1 {
		return ""
	}
	var src, dst netip.Addr
	var proto byte
	switch {
	case p[0]>>4 == 4 && len(p) >= 20:
		src, dst, proto = netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:])), p[9]
		p = p[min(len(p), int(p[0]&15)*4):]
	case p[0]>>4 == 6 && len(p) >= 40:
		src, dst, proto = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:])), p[6]
		p = p[40:]
	}
	if len(p) < 8 {
		return ""
	}
	dport := binary.BigEndian.Uint16(p[2:])
	network := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_SCTP: "sctp"}[proto]
	switch {
	case proto == unix.IPPROTO_ICMP && p[0] == 8, proto == unix.IPPROTO_ICMPV6 && p[0] == 128:
		network, dport = "icmp", 0
	case network == "" || s.ports != nil && !slices.Contains(s.ports, int(dport)):
		return ""
	}
	return report.Arrival(network, src, netip.AddrPortFrom(dst, dport))
}
