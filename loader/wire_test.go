package loader

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// patience bounds what should happen at once, so that a failure does not hang the tests.
const patience = 20 * time.Second

// eachFamily runs a test on fresh wires of both families.
func eachFamily(t *testing.T, test func(t *testing.T, w *wires)) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) { test(t, newWires(t, f)) })
	}
}

// listen serves TCP in a namespace: each connection's bytes are read to the end and their hash is
// answered, followed by size bytes and their hash.
func (w *wires) listen(n *netspace, port uint16, size int) {
	w.t.Helper()
	n.do(func() error {
		l, err := net.ListenTCP(w.network("tcp"), &net.TCPAddr{Port: int(port)})
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go exchange(c, size)
			}
		}()
		return nil
	})
}

func exchange(c net.Conn, size int) {
	defer c.Close()
	h := sha256.New()
	if _, err := io.Copy(h, c); err != nil {
		return
	}
	data := randomBytes(size)
	sum := sha256.Sum256(data)
	c.Write(append(append(h.Sum(nil), data...), sum[:]...))
}

func randomBytes(size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size)}).Read(b)
	return b
}

// transfer sends size bytes to a listener and takes what it answers.
func (w *wires) transfer(from *netspace, to string, local *net.TCPAddr, size int) error {
	return from.try(func() error {
		d := net.Dialer{Timeout: patience}
		if local != nil {
			d.LocalAddr = local
		}
		c, err := d.Dial(w.network("tcp"), w.at(to))
		if err != nil {
			return err
		}
		defer c.Close()
		if got := c.RemoteAddr().String(); got != w.at(to) {
			return fmt.Errorf("peer is %s, want %s", got, w.at(to))
		}
		c.SetDeadline(time.Now().Add(patience))
		data := randomBytes(size)
		if _, err := c.Write(data); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		c.(*net.TCPConn).CloseWrite()
		answer, err := io.ReadAll(c)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		sum := sha256.Sum256(data)
		if !bytes.HasPrefix(answer, sum[:]) || len(answer) < 64 {
			return errors.New("the data did not arrive as it was sent")
		}
		body := answer[32 : len(answer)-32]
		if sum := sha256.Sum256(body); !bytes.HasSuffix(answer, sum[:]) {
			return errors.New("the answer did not arrive as it was sent")
		}
		return nil
	})
}

// TestTransfers moves 10 MB each way, so that packets are of the largest size that GSO makes, with
// and without the devices' checksums.
func TestTransfers(t *testing.T) {
	const size = 10 << 20
	eachFamily(t, func(t *testing.T, w *wires) {
		for _, name := range []string{"A", "B", "R"} {
			w.listen(w.pods[name], 7000, size)
		}
		w.listen(w.node, 7001, size)
		for _, on := range []bool{true, false} {
			for _, name := range []string{"A", "B", "R"} {
				w.offload(w.pods[name], "pod"+name, on)
			}
			// From here on what is still unsummed is summed, and R verifies it.
			w.offload(w.node, "hostR", false)
			for _, to := range []string{"V:80", "B:7000", "V:110", "R:7000", "V:100", "N:7001"} {
				if err := w.transfer(w.pods["A"], to, nil, size); err != nil {
					t.Errorf("A to %s, offload %v: %v", to, on, err)
				}
			}
			if err := w.transfer(w.node, "A:7000", nil, size); err != nil {
				t.Errorf("node to A, offload %v: %v", on, err)
			}
		}
		w.noDrops()
	})
}

// TestBigTransfers does so with packets of more than 64 KiB, whose IP headers say no length. (The
// stack itself forwards them to R too slowly over IPv6, with or without our programs.)
func TestBigTransfers(t *testing.T) {
	const size = 10 << 20
	eachFamily(t, func(t *testing.T, w *wires) {
		w.listen(w.pods["B"], 7000, size)
		for _, name := range []string{"A", "B"} {
			w.pods[name].do(func() error {
				l, err := netlink.LinkByName("pod" + name)
				if err != nil {
					return err
				}
				if err := netlink.LinkSetGSOMaxSize(l, 180000); err != nil {
					t.Skipf("the kernel has no BIG TCP: %v", err)
				}
				return netlink.LinkSetGSOIPv4MaxSize(l, 180000)
			})
		}
		for _, to := range []string{"V:80", "B:7000"} {
			if err := w.transfer(w.pods["A"], to, nil, size); err != nil {
				t.Errorf("A to %s: %v", to, err)
			}
		}
		w.noDrops()
	})
}

// noDrops fails the test when a program has dropped a packet of a flow.
func (w *wires) noDrops() {
	w.t.Helper()
	c := w.counters().minus(w.before)
	c.DropLinkLocal = 0 // chatter of the containers' own addresses
	if c.DropMalformed+c.DropSpoofed+c.DropFragment+c.DropPortsSpent+c.DropFlowsFull+
		c.DropExtensions+c.DropRewrite+c.DropRefused != 0 {
		w.t.Errorf("packets were dropped: %s", show(c))
	}
}

// TestOneSourcePort has connections from one port to two VIPs of one backend and to the backend, all
// at once: three connections whose tuples would be one.
func TestOneSourcePort(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		w.listen(w.pods["B"], 7000, 100)
		var conns []net.Conn
		for _, to := range []string{"V:80", "W:81", "B:7000"} {
			w.pods["A"].do(func() error {
				d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{
					IP: w.f.addr("A").AsSlice(), Port: 4444}, Control: reusePort}
				c, err := d.Dial(w.network("tcp"), w.at(to))
				if err == nil {
					conns = append(conns, c)
					t.Cleanup(func() { c.Close() })
				}
				return err
			})
		}
		for _, c := range conns {
			c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Error(err)
			}
			c.(*net.TCPConn).CloseWrite()
			if b, err := io.ReadAll(c); err != nil || len(b) != 164 {
				t.Errorf("%s: %d bytes, %v", c.RemoteAddr(), len(b), err)
			}
		}
		if got := w.counters().minus(w.before).PortsRewritten; got != 2 {
			t.Errorf("%d ports were rewritten, want 2", got)
		}
		w.noDrops()
	})
}

func reusePort(_, _ string, c syscall.RawConn) (err error) {
	c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	})
	return err
}

// TestPathMTU makes the way to R narrow: the node's stack says so of a translated packet, and the
// client must understand.
func TestPathMTU(t *testing.T) {
	const size = 1 << 20
	eachFamily(t, func(t *testing.T, w *wires) {
		// R's answer is short: hostR drops what is longer than its MTU, and tells no one.
		w.listen(w.pods["R"], 7000, 100)
		w.node.do(func() error {
			l, err := netlink.LinkByName("hostR")
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, 1300)
		})
		if err := w.transfer(w.pods["A"], "V:110", nil, size); err != nil {
			t.Error(err)
		}
		c := w.counters().minus(w.before)
		if c.IcmpTranslated == 0 {
			t.Errorf("no error was translated: %s", show(c))
		}
		w.noDrops()
	})
}

// TestRefusedTCP dials what nothing serves.
func TestRefusedTCP(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		for _, to := range []string{"V:90", "V:7", "V:80", "V:100", "B:7000", "V:110"} {
			err := w.transfer(w.pods["A"], to, nil, 1)
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s: %v, want %v", to, err, syscall.ECONNREFUSED)
			}
		}
		if got := w.counters().minus(w.before).Refused; got != 2 {
			t.Errorf("%d packets were refused, want 2", got)
		}
	})
}
