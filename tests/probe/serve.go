package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// server answers each request with its name.
type server struct {
	answer []byte
	idle   atomic.Int32 // acceptors that wait for a connection
}

func serve(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ExitOnError)
	name := fs.String("name", "probe", "what to answer")
	tcp := fs.Int("tcp", 0, "port to serve over TCP; 0: none")
	udp := fs.Int("udp", 0, "port to serve over UDP; 0: none")
	cpu := fs.Int("cpu", -1, "CPU to run on; -1: any")
	stay := fs.Bool("stay", false, "do not end when standard input closes")
	fs.Parse(args)
	if err := pin(*cpu); err != nil {
		return err
	}
	s := &server{answer: []byte(*name + "\n")}
	if *tcp != 0 {
		fd, err := listen(unix.SOCK_STREAM, *tcp)
		if err != nil {
			return err
		}
		go s.accept(fd)
	}
	if *udp != 0 {
		fd, err := listen(unix.SOCK_DGRAM, *udp)
		if err != nil {
			return err
		}
		go s.datagrams(fd)
	}
	fmt.Println("ready")
	if *stay {
		select {}
	}
	io.Copy(io.Discard, os.Stdin)
	return nil
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
	buf := make([]byte, 1)
	for {
		n, err := read(fd, buf)
		if n != 1 || err != nil {
			return
		}
		if err := write(fd, s.answer); err != nil || buf[0] == askClose {
			return
		}
	}
}

func (s *server) datagrams(fd int) {
	buf := make([]byte, 2048)
	for {
		_, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			continue // an answer that was not wanted any more: ECONNREFUSED
		}
		retry(func() error { return unix.Sendto(fd, s.answer, 0, from) })
	}
}
