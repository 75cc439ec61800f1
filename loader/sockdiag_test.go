package loader

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// withDiag calls f with the sockets of a namespace of their own.
func withDiag(t *testing.T, f func(*sockDiag) error) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	newNetspace(t).do(func() error {
		d, err := openDiag()
		if err != nil {
			return err
		}
		defer d.close()
		return f(d)
	})
}

// TestPeerFilter asks the kernel for sockets with some of many peers.
func TestPeerFilter(t *testing.T) {
	withDiag(t, func(d *sockDiag) error {
		all := map[sockKey]bool{}
		var peers []netip.AddrPort
		for i := range maxPeers {
			addr := netip.MustParseAddr("127.0.0.1")
			if i%2 == 1 {
				addr = netip.IPv6Loopback()
			}
			peer := netip.AddrPortFrom(addr, uint16(10000+i))
			if i%3 != 0 {
				peers = append(peers, peer)
			}
			c, err := net.Dial("udp", peer.String())
			if err != nil {
				return err
			}
			defer c.Close()
			raw, err := c.(*net.UDPConn).SyscallConn()
			if err != nil {
				return err
			}
			k := sockKey{Addr: toAddress(addr), Port: peer.Port(), Proto: protoUDP}
			raw.Control(func(fd uintptr) { k.Cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE) })
			if err != nil {
				return err
			}
			all[k] = true
		}
		n := 0
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			ids, err := d.list(family, protoUDP, peers, all)
			if err != nil {
				return err
			}
			n += len(ids)
		}
		if n != len(peers) {
			t.Errorf("%d sockets were found, want %d", n, len(peers))
		}
		return nil
	})
}

// TestNoDiag asks the kernel for what none has a module of: RFC 3692 reserves the protocol for experiments.
func TestNoDiag(t *testing.T) {
	withDiag(t, func(d *sockDiag) error {
		peer := netip.MustParseAddrPort("127.0.0.1:7000")
		if err := d.destroy(t.Context(), 253, []netip.AddrPort{peer}, nil); !errors.Is(err, errNoDiag) {
			t.Errorf("destroy: %v, want %v", err, errNoDiag)
		}
		return nil
	})
}
