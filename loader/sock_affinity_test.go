package loader

import (
	"encoding/binary"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"golang.org/x/sys/unix"
)

// netnsOf is the entry of a network namespace for a service.
func netnsOf(cookie uint64, svc uint32) affinityKey {
	k := affinityKey{Service: svc, Kind: affinityNetns}
	binary.NativeEndian.PutUint64(k.Client.Bytes[:], cookie)
	return k
}

// TestSocketAffinity: all sockets of a network namespace go where its last one went, connected or not,
// until the timeout, or until the backend takes no new ones.
func TestSocketAffinity(t *testing.T) {
	dir := inCgroup(t)
	if dir == "" {
		return
	}
	for _, d := range domains() {
		for _, proto := range []uint8{protoTCP, protoUDP} {
			t.Run(d.name+"/"+protoName(proto), func(t *testing.T) { testSocketAffinity(t, dir, d, proto) })
		}
	}
}

func testSocketAffinity(t *testing.T, dir string, d domain, proto uint8) {
	s := newSockets(t, dir, d, false)
	for _, name := range []string{"B", "C"} {
		if proto == protoTCP {
			t.Cleanup(s.serveTCP(name + ":7000"))
		} else {
			s.serveUDP(name + ":7000")
		}
	}
	s.service("V:80", proto, 1, 1, 6)
	s.changeService("V:80", proto, func(v *service) { v.AffinityTimeout = 60 })

	first := s.reach(proto)
	stays := func(by string) {
		t.Helper()
		for range 16 { // by chance: 1 in 65536
			if got := s.reach(proto); got != by {
				t.Fatalf("%s answered, want %s", got, by)
			}
		}
	}
	stays(first)

	key := netnsOf((&netspace{t: t, fd: s.netns}).cookie(), number(1, proto))
	var a affinity
	s.lookup("affinity", key, &a)
	if n := s.count("affinity"); n != 1 {
		t.Errorf("%d entries, want one", n)
	}
	// Each new socket renews it; after the timeout chance decides.
	before := a.Seen
	s.reach(proto)
	if s.lookup("affinity", key, &a); a.Seen == before {
		t.Error("a new socket did not renew the entry")
	}
	if a.Seen < 61e9 {
		t.Skip("the machine has not been up for 61 s")
	}
	seen := map[string]int{}
	for range 64 {
		s.lookup("affinity", key, &a)
		a.Seen -= 61e9
		s.put("affinity", key, a)
		seen[s.reach(proto)]++
	}
	if len(seen) != 2 {
		t.Errorf("after the timeout: %v, want both", seen)
	}

	// A backend that drains takes no new ones.
	first = s.reach(proto)
	other := map[string]string{"B:7000": "C:7000", "C:7000": "B:7000"}[first]
	ids := map[string]uint32{"B:7000": 1, "C:7000": 6}
	s.drainBackend(ids[first], proto)
	s.service("V:80", proto, 1, ids[other])
	s.changeService("V:80", proto, func(v *service) { v.AffinityTimeout = 60 })
	stays(other)
}

// reach asks V:80 by a new socket, and says who answered.
func (s *sockets) reach(proto uint8) string {
	s.t.Helper()
	if proto == protoUDP {
		return s.ask(s.datagram(), "V:80")
	}
	c := s.stream()
	if err := unix.Connect(c, s.sockaddr("V:80")); err != nil {
		s.t.Fatal(err)
	}
	text, _ := s.receive(c)
	return text
}

// TestSocketAffinityAfterRestart: the next agent knows who had which backend.
func TestSocketAffinityAfterRestart(t *testing.T) {
	eachSweep(t, func(t *testing.T, r *sweepRig) {
		sticky := r.service("V:80", registry.UDP, "B:7000", "C:7000")
		sticky.AffinityTimeout = 3600
		r.sync(sticky)
		answers := func() string {
			fd := r.connected(unix.SOCK_DGRAM, "V:80")
			if _, err := unix.Write(fd, []byte("?")); err != nil {
				t.Fatal(err)
			}
			text, _ := r.receive(fd)
			return text
		}
		first := answers()
		for range 4 { // by chance: 1 in 2^20
			r.in(r.home)
			r.l.Close()
			r.l = r.node.open(r.options())
			for range 5 {
				if by := answers(); by != first {
					t.Fatalf("%s answered, want %s", by, first)
				}
			}
			r.sync(sticky)
		}
	})
}
