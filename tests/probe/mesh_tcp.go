package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// serveTCP answers each connection's first byte with the member's name and a newline.
func (m *member) serveTCP(at netip.AddrPort) error {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				continue // the client has given up already
			}
			go func() {
				defer conn.Close()
				if _, err := conn.Read(make([]byte, 1)); err == nil {
					conn.Write([]byte(m.name + "\n"))
				}
				conn.Read(make([]byte, 1)) // the client closes first
			}()
		}
	}()
	return nil
}

// tcpSender makes a connection for each target.
type tcpSender struct {
	member *member
	ctx    context.Context
	round  int
}

func (s *tcpSender) begin(ctx context.Context, round int) error {
	s.ctx, s.round = ctx, round
	return nil
}

func (s *tcpSender) send(i int, t report.Target) error {
	ctx, round := s.ctx, s.round
	go func() {
		name, err := ask(ctx, t.To)
		switch {
		case err == nil:
			s.member.answer(round, i, name)
		case ctx.Err() == nil && !errors.Is(err, syscall.ETIMEDOUT):
			s.member.note("tcp to %s: %v", t.To, err)
		}
	}()
	return nil
}

func ask(ctx context.Context, to netip.AddrPort) (name string, err error) {
	d := net.Dialer{KeepAlive: -1}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	// Leaves no TIME_WAIT behind.
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		return "", err
	}
	if got := conn.RemoteAddr().String(); got != to.String() {
		return "", fmt.Errorf("the peer is %s", got)
	}
	if _, err := conn.Write([]byte{askKeep}); err != nil {
		return "", err
	}
	name, err = bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSuffix(name, "\n"), err
}
