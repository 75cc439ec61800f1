package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// udpAddr is an address of a fixture.
func (w *wires) udpAddr(endpoint string) *net.UDPAddr {
	return net.UDPAddrFromAddrPort(netip.MustParseAddrPort(w.at(endpoint)))
}

// echo answers each datagram with itself.
func (w *wires) echo(n *netspace, port uint16) {
	w.t.Helper()
	n.do(func() error {
		c, err := net.ListenUDP(w.network("udp"), &net.UDPAddr{Port: int(port)})
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, from, err := c.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				c.WriteToUDPAddrPort(b[:n], from)
			}
		}()
		return nil
	})
}

// dialUDP connects a socket in a container.
func (w *wires) dialUDP(from, to string) *net.UDPConn {
	w.t.Helper()
	var c *net.UDPConn
	w.pods[from].do(func() (err error) {
		c, err = net.DialUDP(w.network("udp"), nil, w.udpAddr(to))
		return err
	})
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

func ask(c *net.UDPConn, data []byte) error {
	if _, err := c.Write(data); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	b := make([]byte, 1<<16)
	n, err := c.Read(b)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if !bytes.Equal(b[:n], data) {
		return fmt.Errorf("%d bytes came back, and not those that were sent", n)
	}
	return nil
}

// TestDatagrams sends datagrams of many lengths, most of them in fragments, and has them echoed.
func TestDatagrams(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		for _, name := range []string{"A", "B", "R"} {
			w.echo(w.pods[name], 7000)
		}
		w.offload(w.node, "hostR", false)
		for _, on := range []bool{true, false} {
			for name := range w.pods {
				w.offload(w.pods[name], "pod"+name, on)
			}
			for _, to := range []string{"V:80", "B:7000", "V:110", "V:100"} {
				c := w.dialUDP("A", to)
				for _, size := range []int{0, 1, 2, 1000, 1452, 1453, 1472, 1473, 3000, 30001, 65000} {
					if err := ask(c, randomBytes(size)); err != nil {
						t.Errorf("%d bytes to %s, offload %v: %v", size, to, on, err)
						break
					}
				}
			}
		}
		w.noDrops()
	})
}

// TestSocketsService has a flow belong to the service that a socket program chose its backend for.
func TestSocketsService(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		w.echo(w.pods["B"], 7000)
		c := w.dialUDP("A", "B:7000")
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var cookie uint64
		if err := raw.Control(func(fd uintptr) {
			cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
		}); err != nil {
			t.Fatal(err)
		}
		w.put("sock_origin",
			sockSockKey{Cookie: cookie, Addr: toAddress(w.f.addr("B")), Port: 7000, Proto: protoUDP},
			sockSockOrigin{Addr: toAddress(w.f.addr("V")), Port: 80, Service: number(1, protoUDP)})
		if err := ask(c, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if got := w.stats(number(1, protoUDP)).Packets; got != 2 {
			t.Errorf("%d packets were counted for the service, want 2", got)
		}
	})
}

// TestRefusedUDP sends datagrams that nothing takes; the socket is told so.
func TestRefusedUDP(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		for _, to := range []string{"V:90", "V:7", "V:80", "V:110", "V:100", "B:7000"} {
			for _, size := range []int{0, 5, 4000} {
				c := w.dialUDP("A", to)
				if err := ask(c, randomBytes(size)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%d bytes to %s: %v, want %v", size, to, err, syscall.ECONNREFUSED)
				}
			}
		}
		if got := w.counters().minus(w.before).IcmpTranslated; got == 0 {
			t.Error("no error was translated")
		}
	})
}

// TestBackendLeft has an unchanged socket meet another backend once its own is out of service.
func TestBackendLeft(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		w.echo(w.pods["B"], 7000)
		w.echo(w.pods["C"], 7000)
		c := w.dialUDP("A", "V:80")
		for range 3 {
			if err := ask(c, []byte("before")); err != nil {
				t.Error(err)
			}
		}
		w.service("V:80", protoUDP, 1, 6)
		w.freeBackend(1, protoUDP)
		for range 3 {
			if err := ask(c, []byte("after")); err != nil {
				t.Error(err)
			}
		}
		if !slices.ContainsFunc(w.flows(), func(l string) bool { return bytes.Contains([]byte(l), []byte(">C:7000 A->C")) }) {
			t.Errorf("the socket's datagrams did not go to C: %q", w.flows())
		}
	})
}

// TestReportedMTU has the backend report, by a raw socket, that a translated packet was too big.
func TestReportedMTU(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		w.echo(w.pods["B"], 7000)
		c := w.dialUDP("A", "V:80")
		if err := ask(c, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if got := w.mtu(c); got != 1500 {
			t.Fatalf("MTU is %d before, want 1500", got)
		}
		port := c.LocalAddr().(*net.UDPAddr).Port
		w.send("B", "A", report{typ: 3, code: 4, rest: 1300, n: 8}, port)
		await(t, "the MTU to be 1300", func() bool { return w.mtu(c) == 1300 })
		w.noDrops()
	})
}

// send has a container report an error about a datagram from A:port to itself.
func (w *wires) send(from, to string, e report, port int) {
	w.t.Helper()
	network := "ip4:icmp"
	if w.f.v6 {
		network, e.typ, e.code = "ip6:ipv6-icmp", 2, 0
	}
	p := packet(protoUDP, fmt.Sprintf("A:%d", port), "B:7000")
	p.data, p.noCheck = []byte("hello"), true
	q := e.about(w.f, from, to, p)
	w.pods[from].do(func() error {
		c, err := net.Dial(network, w.f.addr(to).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(q.transport(w.f, w.f.addr(from), w.f.addr(to), 0, 0))
		return err
	})
}

func (w *wires) mtu(c *net.UDPConn) (mtu int) {
	w.t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) {
			if w.f.v6 {
				mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
			} else {
				mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
			}
		}), err)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return mtu
}

// await waits until it is so.
func await(t testing.TB, what string, so func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !so() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestPing pings, from a raw socket, another container and a VIP.
func TestPing(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		network, reply := "ip4:icmp", byte(0)
		if w.f.v6 {
			network, reply = "ip6:ipv6-icmp", 129
		}
		for _, x := range []struct {
			to   string
			size int
			want error
		}{{"B", 20, nil}, {"B", 4000, nil}, {"N", 20, nil}, {"V", 20, nil}, {"V", 1440, nil}, {"W", 0, nil}} {
			w.pods["A"].do(func() error {
				c, err := net.Dial(network, w.f.addr(x.to).String())
				if err != nil {
					return err
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				p := ping(w.f, "A", x.to)
				p.icmp.body = randomBytes(x.size)
				if _, err := c.Write(p.transport(w.f, w.f.addr("A"), w.f.addr(x.to), 0, 0)); err != nil {
					return err
				}
				for b := make([]byte, 1<<16); ; {
					n, _, err := c.(*net.IPConn).ReadFrom(b)
					if errors.Is(err, x.want) && (err != nil || n > 0 && b[0] == reply) {
						return nil
					}
					if err != nil {
						return fmt.Errorf("ping %s: %w", x.to, err)
					}
				}
			})
		}
	})
}

// TestShortFrames sends frames that end within the IP header, which Program.Run does not take.
func TestShortFrames(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		whole, header := packet(protoTCP, "A:1", "V:80").bytes(w.f), 20
		if w.f.v6 {
			header = 40
		}
		var index int
		w.pods["A"].do(func() error {
			i, err := net.InterfaceByName("podA")
			if err == nil {
				index = i.Index
			}
			return err
		})
		w.pods["A"].do(func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			to := &unix.SockaddrLinklayer{Ifindex: index, Protocol: binary.NativeEndian.Uint16(whole[12:14])}
			for n := range header {
				if err := unix.Sendto(fd, whole[:14+n], 0, to); err != nil {
					return fmt.Errorf("send %d bytes: %w", 14+n, err)
				}
			}
			return nil
		})
		// The kernel itself may drop some of them before any program runs.
		await(t, "malformed packets to be counted", func() bool {
			return w.counters().minus(w.before).DropMalformed >= uint64(header-1)
		})
	})
}
