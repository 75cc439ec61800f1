package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// bigAnswer is how many bytes a big answer over TCP has; over UDP it has as many as the request.
const bigAnswer = 256 << 10

// server answers each request to one port with its name.
type server struct {
	answer []byte
	idle   atomic.Int32 // acceptors that wait for a connection
}

func serve(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ExitOnError)
	name := fs.String("name", "probe", "what to answer")
	ports := map[string][]int{}
	for _, network := range []string{"tcp", "udp", "sctp"} {
		fs.Func(network, "port to serve over "+network+"; may be repeated", func(text string) error {
			port, err := strconv.Atoi(text)
			ports[network] = append(ports[network], port)
			return err
		})
	}
	cpu := fs.Int("cpu", -1, "CPU to run on; -1: any")
	stay := fs.Bool("stay", false, "do not end when standard input closes")
	fs.Parse(args)
	if err := pin(*cpu); err != nil {
		return err
	}
	for i, port := range ports["tcp"] {
		fd, err := listen(unix.SOCK_STREAM, port)
		if err != nil {
			return err
		}
		go newServer(*name, i, port).accept(fd)
	}
	for i, port := range ports["udp"] {
		fd, err := listen(unix.SOCK_DGRAM, port)
		if err != nil {
			return err
		}
		go newServer(*name, i, port).datagrams(fd)
	}
	for i, port := range ports["sctp"] {
		if err := newServer(*name, i, port).associations(port); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	if *stay {
		select {}
	}
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// newServer answers with the name, and at all but the first of a protocol's ports also with the port.
func newServer(name string, i, port int) *server {
	if i > 0 {
		name = fmt.Sprintf("%s:%d", name, port)
	}
	return &server{answer: []byte(name + "\n")}
}

// accept serves a connection in the thread that accepted it, which saves a wake-up, and leaves
// another one to accept the next.
func (s *server) accept(fd int) {
	for {
		s.idle.Add(1)
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if s.idle.Add(-1) == 0 {
			go s.accept(fd)
		}
		if err == nil {
			s.connection(conn)
		}
		if s.idle.Load() >= 4 {
			return
		}
	}
}

func (s *server) connection(fd int) {
	defer unix.Close(fd)
	buf := make([]byte, 64<<10)
	for {
		n, err := read(fd, buf)
		if n == 0 || err != nil {
			return
		}
		for _, ask := range buf[:n] {
			if ask == askNothing {
				continue
			}
			if err := write(fd, s.reply(ask, bigAnswer)); err != nil || ask == askClose {
				return
			}
		}
	}
}

func (s *server) datagrams(fd int) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil || n == 0 {
			continue // an answer that was not wanted any more: ECONNREFUSED
		}
		retry(func() error { return unix.Sendto(fd, s.reply(buf[0], n), 0, from) })
	}
}

// reply is the answer to a request; if that asks for it, of so many bytes.
func (s *server) reply(ask byte, size int) []byte {
	if ask != askBig {
		return s.answer
	}
	return append(bytes.Repeat([]byte{' '}, max(0, size-len(s.answer))), s.answer...)
}

// associations answers over SCTP: an INIT with a cookie that is the name, and a user message with one.
func (s *server) associations(port int) error {
	for _, network := range []string{"ip4:132", "ip6:132"} {
		conn, err := net.ListenIP(network, nil)
		if err != nil {
			return err
		}
		go func() {
			buf := make([]byte, 64<<10)
			for {
				n, from, err := conn.ReadFromIP(buf)
				if err != nil {
					continue
				}
				c, right, ok := parseSCTP(buf[:n])
				if !right || !ok || int(c.dport) != port {
					continue
				}
				if kind, body := s.associate(c); body != nil {
					answer := sctpMessage{sport: c.dport, dport: c.sport, vtag: peerTag(c), kind: kind, body: body}
					conn.WriteToIP(answer.packet(), from)
				}
			}
		}()
	}
	return nil
}

// peerTag is the tag to address the sender by. The server keeps no associations: its own tag is the same.
func peerTag(c sctpMessage) uint32 {
	if c.kind == sctpInit {
		return c.initiate()
	}
	return c.vtag
}

func (s *server) associate(c sctpMessage) (kind byte, body []byte) {
	switch c.kind {
	case sctpInit:
		return sctpInitAck, sctpInitBody(c.initiate(), string(s.answer))
	case sctpCookieEcho:
		return sctpCookieAck, []byte{}
	case sctpData:
		return sctpData, sctpDataBody(1, string(s.answer))
	}
	return 0, nil
}
