package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setOption sets one of a socket's options, which has another name in each family.
func (w *wires) setOption(c *net.UDPConn, v4, v6, value int) {
	w.t.Helper()
	w.control(c, func(fd int) error {
		if w.f.v6 {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, v6, value)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, v4, value)
	})
}

func (w *wires) control(c *net.UDPConn, f func(fd int) error) {
	w.t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) { err = f(int(fd)) }), err)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// heard is an ICMP error that a socket was told of.
type heard struct {
	errno     syscall.Errno
	typ, code uint8
	by        string // whose, as the fixtures name it
}

// hear waits for an error in the socket's queue (RECVERR).
func (w *wires) hear(c *net.UDPConn) (got heard) {
	w.t.Helper()
	oob := make([]byte, 512)
	n := 0
	await(w.t, "an ICMP error", func() bool {
		w.control(c, func(fd int) (err error) {
			_, n, _, _, err = unix.Recvmsg(fd, make([]byte, 2048), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) {
				return nil
			}
			return err
		})
		return n > 0
	})
	all, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range all {
		// struct sock_extended_err, and behind it the offender's address.
		if int(m.Header.Type) != unix.IP_RECVERR && int(m.Header.Type) != unix.IPV6_RECVERR || len(m.Data) < 32 {
			continue
		}
		offender := netip.AddrFrom4([4]byte(m.Data[20:24]))
		if w.f.v6 {
			offender = netip.AddrFrom16([16]byte(m.Data[24:40]))
		}
		got = heard{syscall.Errno(binary.NativeEndian.Uint32(m.Data)), m.Data[5], m.Data[6], offender.String()}
		for _, name := range []string{"A", "B", "N", "R", "V", "W"} {
			if offender == w.f.addr(name) {
				got.by = name
			}
		}
	}
	return got
}

// TestTraceroute sends datagrams through VIPs that do not get far: who says so is known by its own name if
// it is a router, and as the VIP if it is the backend.
func TestTraceroute(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		expired, closed := heard{syscall.EHOSTUNREACH, 11, 0, "N"}, heard{syscall.ECONNREFUSED, 3, 3, "V"}
		if w.f.v6 {
			expired.typ, closed.typ, closed.code = 3, 1, 4
		}
		for _, x := range []struct {
			to   string
			hops int
			want heard
		}{
			{"V:110", 1, expired}, {"V:110", 2, closed}, {"V:110", 30, closed},
			{"V:80", 1, closed}, {"V:80", 30, closed}, {"V:100", 1, closed}, {"V:90", 1, closed}, {"V:7", 1, closed},
		} {
			c := w.dialUDP("A", x.to)
			w.setOption(c, unix.IP_RECVERR, unix.IPV6_RECVERR, 1)
			w.setOption(c, unix.IP_TTL, unix.IPV6_UNICAST_HOPS, x.hops)
			if _, err := c.Write([]byte("where are you?")); err != nil {
				t.Errorf("%s: %v", x.to, err)
			}
			if got := w.hear(c); got != x.want {
				t.Errorf("%s with %d hops: %+v, want %+v", x.to, x.hops, got, x.want)
			}
		}
	})
}

// TestDatagramPathMTU has a connected socket, which may not fragment, learn how narrow the way is behind a
// VIP; its datagrams that fit go through.
func TestDatagramPathMTU(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		w.echo(w.pods["R"], 7000)
		w.mtuOf(w.node, "hostR", 1300)
		c := w.dialUDP("A", "V:110")
		w.setOption(c, unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		w.setOption(c, unix.IP_RECVERR, unix.IPV6_RECVERR, 1)
		if _, err := c.Write(randomBytes(1400)); err != nil {
			t.Fatal(err)
		}
		if got := w.hear(c); got.errno != syscall.EMSGSIZE || got.by != "N" {
			t.Errorf("the socket was told %+v", got)
		}
		if got := w.mtu(c); got != 1300 {
			t.Errorf("MTU is %d, want 1300", got)
		}
		if _, err := c.Write(randomBytes(1400)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("a datagram too big: %v, want %v", err, syscall.EMSGSIZE)
		}
		if err := ask(c, randomBytes(1200)); err != nil {
			t.Error(err)
		}
		w.noDrops()
	})
}

func (w *wires) mtuOf(n *netspace, device string, mtu int) {
	w.t.Helper()
	n.do(func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, mtu)
	})
}

// TestJumbo carries frames of 9000 bytes through VIPs, whole and in segments.
func TestJumbo(t *testing.T) {
	const size = 1 << 20
	eachFamily(t, func(t *testing.T, w *wires) {
		for _, name := range []string{"A", "B", "C", "R"} {
			w.mtuOf(w.node, "host"+name, 9000)
			w.mtuOf(w.pods[name], "pod"+name, 9000)
		}
		for _, name := range []string{"A", "B", "R"} {
			w.listen(w.pods[name], 7000, size)
			w.echo(w.pods[name], 7000)
		}
		for _, on := range []bool{true, false} {
			for _, name := range []string{"A", "B", "R"} {
				w.offload(w.pods[name], "pod"+name, on)
			}
			w.offload(w.node, "hostR", on)
			for _, to := range []string{"V:80", "V:110", "V:100", "B:7000"} {
				if err := w.transfer(w.pods["A"], to, nil, size); err != nil {
					t.Errorf("A to %s, offload %v: %v", to, on, err)
				}
				c := w.dialUDP("A", to)
				w.setOption(c, unix.IP_MTU_DISCOVER, unix.IPV6_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
				for _, n := range []int{1473, 8000, 8952} {
					if err := ask(c, randomBytes(n)); err != nil {
						t.Errorf("%d bytes to %s, offload %v: %v", n, to, on, err)
					}
				}
			}
		}
		w.pingVIP(8940)
		w.noDrops()
	})
}

// pingVIP sends an echo request with n bytes of data to a VIP and takes the answer.
func (w *wires) pingVIP(n int) {
	w.t.Helper()
	network, reply := "ip4:icmp", byte(0)
	if w.f.v6 {
		network, reply = "ip6:ipv6-icmp", 129
	}
	w.pods["A"].do(func() error {
		c, err := net.Dial(network, w.f.addr("V").String())
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		p := ping(w.f, "A", "V")
		p.icmp.body = randomBytes(n)
		if _, err := c.Write(p.transport(w.f, w.f.addr("A"), w.f.addr("V"), 0, 0)); err != nil {
			return err
		}
		b := make([]byte, 1<<16)
		for {
			got, _, err := c.(*net.IPConn).ReadFrom(b)
			if err != nil {
				return fmt.Errorf("ping with %d bytes: %w", n, err)
			}
			if got == n+8 && b[0] == reply {
				return nil
			}
		}
	})
}
