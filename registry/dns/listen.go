package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	listenPause   = 5 * time.Second // before it is tried again
	maxQuery      = 4096            // bytes, by UDP
	maxUDP        = 4096            // bytes of an answer, whatever a client takes: a source can be forged
	readBuffer    = 1 << 20         // bytes; of the UDP socket, as far as the kernel lets
	patience      = 2 * time.Second // with a client that is slow to send or to take
	shutdownLimit = time.Second
)

// listen answers at an address until ctx ends. An address that is taken is tried again.
func (s *Server) listen(ctx context.Context, l Listener) {
	for ctx.Err() == nil {
		err := s.listenOnce(ctx, l)
		if ctx.Err() != nil {
			return
		}
		s.hear(l.Addr, fmt.Errorf("answer DNS at %s: %w", l.Addr, err))
		select {
		case <-ctx.Done():
		case <-time.After(listenPause):
		}
	}
}

// hear notes whether it listens at an address, and tells of a change.
func (s *Server) hear(at netip.AddrPort, err error) {
	s.mu.Lock()
	last := s.deaf[at]
	s.deaf[at] = err
	s.mu.Unlock()
	if err != nil && (last == nil || last.Error() != err.Error()) {
		s.log.Error("DNS is not answered", "error", err)
	}
}

func (s *Server) listenOnce(ctx context.Context, l Listener) error {
	lc := net.ListenConfig{Control: freebind}
	packets, err := lc.ListenPacket(ctx, "udp", l.Addr.String())
	if err != nil {
		return err
	}
	defer packets.Close()
	at := netip.AddrPortFrom(l.Addr.Addr(), uint16(packets.LocalAddr().(*net.UDPAddr).Port))
	conns, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	defer conns.Close()
	_ = packets.(*net.UDPConn).SetReadBuffer(readBuffer)
	udp := &dns.Server{
		PacketConn: packets, Handler: s, UDPSize: maxQuery, ReadTimeout: patience, WriteTimeout: patience,
		DecorateReader: func(r dns.Reader) dns.Reader {
			return &doorman{Reader: r, allow: l.Allow, refused: s.metrics.strangers.Inc}
		},
	}
	tcp := &dns.Server{
		Listener: &door{Listener: conns, allow: l.Allow, conns: &s.gate.conns, refused: s.metrics.strangers.Inc},
		Handler:  s, ReadTimeout: patience, WriteTimeout: patience,
	}
	started := make(chan struct{}, 2)
	udp.NotifyStartedFunc = func() { started <- struct{}{} }
	tcp.NotifyStartedFunc = udp.NotifyStartedFunc
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ended(udp.ActivateAndServe()) })
	group.Go(func() error { return ended(tcp.ActivateAndServe()) })
	group.Go(func() error {
		for range 2 { // a server that has not started cannot be shut down
			select {
			case <-started:
			case <-ctx.Done():
				packets.Close()
				conns.Close()
			}
		}
		s.mu.Lock()
		s.bound[l.Addr] = at
		s.mu.Unlock()
		s.hear(l.Addr, nil)
		<-ctx.Done()
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
		defer cancel()
		_ = udp.ShutdownContext(limit)
		_ = tcp.ShutdownContext(limit)
		return nil
	})
	return group.Wait()
}

var errEnded = errors.New("the socket was closed")

// ended makes an error of every end, so that the other protocol ends, too.
func ended(err error) error {
	if err == nil {
		err = errEnded
	}
	return err
}

// Bound returns where it listens for what stands in Options.Listen: a port 0 there is another one here. False: it does
// not listen there.
func (s *Server) Bound(at netip.AddrPort) (netip.AddrPort, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bound, ok := s.bound[at]
	return bound, ok && s.deaf[at] == nil
}

// freebind lets a socket listen at an address that the node does not have for the moment.
func freebind(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}
