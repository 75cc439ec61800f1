package main

import (
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
)

// fake takes its time, and fails at its last operation.
type fake struct {
	took time.Duration
	left int
}

func (f *fake) open(batch.Order) error { return nil }
func (f *fake) close()                 {}

func (f *fake) once() unix.Errno {
	for start := now(); now()-start < f.took; {
	}
	if f.left--; f.left == 0 {
		return unix.ECONNRESET
	}
	return 0
}

// Operations end with the count, the time or a failure, whichever comes first, and each that was done is timed.
func TestRepeat(t *testing.T) {
	for _, c := range []struct {
		says  string
		op    fake
		time  time.Duration
		count int
		done  [2]int // at least, at most
		errno unix.Errno
	}{
		{"count", fake{0, -1}, time.Hour, 1000, [2]int{1000, 1000}, 0},
		{"time", fake{time.Millisecond, -1}, 20 * time.Millisecond, 1000, [2]int{1, 20}, 0},
		{"failure", fake{0, 17}, time.Hour, 1000, [2]int{16, 16}, unix.ECONNRESET},
		{"no count", fake{0, -1}, time.Hour, 0, [2]int{0, 0}, 0},
	} {
		var h batch.Histogram
		start := now()
		n, elapsed, errno := repeat(&c.op, c.time, c.count, &h)
		passed := now() - start
		if n < c.done[0] || n > c.done[1] || errno != c.errno || h.N() != n {
			t.Errorf("%s: %d done, %d timed, error %v", c.says, n, h.N(), errno)
		}
		if elapsed < time.Duration(n)*c.op.took || elapsed > passed || n > 0 && h.Quantile(0) < 0.998*float64(c.op.took) {
			t.Errorf("%s: %d took %s of %s, the shortest %.0f ns", c.says, n, elapsed, passed, h.Quantile(0))
		}
	}
}

func TestRepeatAllocatesNothing(t *testing.T) {
	var h batch.Histogram
	op := &fake{0, -1}
	if n := testing.AllocsPerRun(100, func() { repeat(op, time.Hour, 10, &h) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// An address leads where it says: connecting a UDP socket sends nothing.
func TestAddress(t *testing.T) {
	for _, text := range []string{"127.1.2.3:258", "[::1]:7000"} {
		to := netip.MustParseAddrPort(text)
		fd, err := dial(batch.Order{To: to}, unix.SOCK_DGRAM)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		peer, err := unix.Getpeername(fd)
		if err != nil {
			t.Fatal(err)
		}
		var got netip.AddrPort
		switch sa := peer.(type) {
		case *unix.SockaddrInet4:
			got = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
		case *unix.SockaddrInet6:
			got = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
		}
		if got != to {
			t.Errorf("%s leads to %s", to, got)
		}
	}
}

// Neither end holds back the end of a stream, or what is told of it, until the other has acknowledged what came before.
func TestUndelayed(t *testing.T) {
	listener, err := listen(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	bound, err := unix.Getsockname(listener)
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(bound.(*unix.SockaddrInet4).Port)
	client, err := dial(batch.Order{To: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}, unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(client)
	server, errno := accept(listener)
	if errno != 0 {
		t.Fatal(errno)
	}
	defer unix.Close(server)
	for end, fd := range map[string]int{"client": client, "server": server} {
		if on, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY); err != nil || on == 0 {
			t.Errorf("the %s delays: TCP_NODELAY %d, %v", end, on, err)
		}
	}
}

// A stream's operations are what has arrived, in the chunks that the sink tells of.
func TestStreamsCountWhatArrived(t *testing.T) {
	// As in the driver: nobody may wait for its thread, to collect garbage, while that waits for the sink.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	arrived := make(chan int, 3)
	for range 3 {
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			got, told, buf := 0, 0, make([]byte, 300_000)
			for {
				n, err := conn.Read(buf)
				got += n
				if err != nil {
					arrived <- got
					return
				}
				for ; got/chunk > told; told++ {
					conn.Write(buf[:1])
				}
			}
		}()
	}
	s := &streams{}
	o := batch.Order{
		Kind: batch.TCPStreams, Streams: 3, Bytes: 100_000, To: netip.MustParseAddrPort(l.Addr().String()),
	}
	if err := s.open(o); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for range 2 { // a socket is as good as new after the first
		r, errno := s.run(5*time.Millisecond, 0, nil)
		if errno != 0 || r.N == 0 || r.Elapsed < 5*time.Millisecond {
			t.Errorf("%d KiB in %s: %v", r.N, r.Elapsed, errno)
		}
		sum += r.N
	}
	s.close()
	for range 3 {
		sum -= <-arrived / 1024
	}
	if sum != 0 {
		t.Errorf("counted %d KiB more than arrived", sum)
	}
}

// What is timed has no check of its stack, at which Go's scheduler could take its thread away.
func TestSchedulerStaysOut(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "load")
	if said, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, said)
	}
	out, err := exec.CommandContext(t.Context(), "go", "tool", "objdump", "-s", `^main\.`, binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	timed := regexp.MustCompile(`^main\.(repeat|echo|datagrams|accepts|sink|read|write|accept|connect|socket|poll|exchange|` +
		`\(\*connections\)\.converse|\(\*streams\)\.(fill|settle)|\(\*\w+\)\.once)$`)
	seen := 0
	for _, function := range strings.Split(string(out), "TEXT ") {
		name, _, _ := strings.Cut(function, "(SB)")
		if !timed.MatchString(name) {
			continue
		}
		seen++
		if strings.Contains(function, "runtime.morestack") {
			t.Errorf("%s checks its stack", name)
		}
	}
	if seen < 12 {
		t.Errorf("only %d of the functions are there", seen)
	}
}
