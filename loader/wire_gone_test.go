package loader

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// serveEcho answers what comes in over TCP with itself.
func (w *wires) serveEcho(n *netspace, port uint16) {
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
				w.t.Cleanup(func() { c.Close() })
				go io.Copy(c, c)
			}
		}()
		return nil
	})
}

// dialTCP connects a container.
func (w *wires) dialTCP(from, to string) *net.TCPConn {
	w.t.Helper()
	var conn net.Conn
	w.pods[from].do(func() (err error) {
		conn, err = net.DialTimeout(w.network("tcp"), w.at(to), patience)
		return err
	})
	w.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// say sends a word and wants it back.
func say(c net.Conn, word string) error {
	if _, err := c.Write([]byte(word)); err != nil {
		return err
	}
	b := make([]byte, len(word))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != word {
		return fmt.Errorf("%q came back for %q", b, word)
	}
	return nil
}

// TestGoneTCP: a connection to a backend that drains goes on, and is reset when its container is no more.
func TestGoneTCP(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		w.serveEcho(w.pods["B"], 7000)
		w.serveEcho(w.pods["C"], 7000)
		old := w.dialTCP("A", "V:80")
		if err := say(old, "before"); err != nil {
			t.Fatal(err)
		}
		w.service("V:80", protoTCP, 1, 6)
		w.drainBackend(1, protoTCP)
		w.raise(2)
		if err := say(old, "while it drains"); err != nil {
			t.Error(err)
		}
		next := w.dialTCP("A", "V:80")
		if err := say(next, "elsewhere"); err != nil {
			t.Error(err)
		}
		w.freeBackend(1, protoTCP)
		if err := say(old, "when it left"); err != nil {
			t.Error(err)
		}
		containerGone().do(w.rig)
		if err := say(old, "when it is gone"); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want %v", err, syscall.ECONNRESET)
		}
		if err := say(next, "elsewhere, still"); err != nil {
			t.Error(err)
		}
	})
}

// TestGoneUDP: a connected socket whose datagrams are translated as packets goes on with another backend.
func TestGoneUDP(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		w.echo(w.pods["B"], 7000)
		w.echo(w.pods["C"], 7000)
		c := w.dialUDP("A", "V:80")
		if err := ask(c, []byte("before")); err != nil {
			t.Fatal(err)
		}
		w.service("V:80", protoUDP, 1, 6)
		w.freeBackend(1, protoUDP)
		containerGone().do(w.rig)
		if err := ask(c, []byte("after")); err != nil {
			t.Error(err)
		}
	})
}

// TestReusedPort connects again and again from one port, each connection reset by the client or refused by
// the backend before: the next is a new one at once.
func TestReusedPort(t *testing.T) {
	eachFamily(t, func(t *testing.T, w *wires) {
		w.serveEcho(w.pods["B"], 7000)
		for i := range 6 {
			w.pods["A"].do(func() error {
				d := net.Dialer{Timeout: patience, Control: reusePort, LocalAddr: &net.TCPAddr{
					IP: w.f.addr("A").AsSlice(), Port: 4445}}
				c, err := d.Dial(w.network("tcp"), w.at("V:80"))
				if err != nil {
					return fmt.Errorf("round %d: %w", i, err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				if err := say(c, "hello"); err != nil {
					return fmt.Errorf("round %d: %w", i, err)
				}
				return c.(*net.TCPConn).SetLinger(0) // RST
			})
		}
		w.noDrops()
	})
}
