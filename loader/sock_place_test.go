package loader

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
	"golang.org/x/sys/unix"
)

// place returns what a socket's place in sock_peers is and holds.
func (s *sockets) place(fd int) (cookie uint64, i uint32, p sockPeer) {
	s.t.Helper()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		s.t.Fatal(err)
	}
	i = uint32(cookie) & (s.coll.Maps["sock_peers"].MaxEntries() - 1)
	s.lookup("sock_peers", i, &p)
	return cookie, i, p
}

// forgetPeers empties the maps that say what sockets know their peers by.
func (s *sockets) forgetPeers() {
	s.t.Helper()
	s.empty("sock_origin")
	for i := range s.coll.Maps["sock_peers"].MaxEntries() {
		s.put("sock_peers", i, sockPeer{})
	}
}

// connect connects and checks whom the socket then has as its peer.
func (s *sockets) connect(fd int, to string) {
	s.t.Helper()
	if err := unix.Connect(fd, s.sockaddr(to)); err != nil {
		s.t.Fatalf("connect to %s: %v", to, err)
	}
	if got := s.peer(fd); got != to {
		s.t.Errorf("peer is %s, want %s", got, to)
	}
}

// TestSocketPlaces: where it stands what a socket knows its peers by, and for how long.
func TestSocketPlaces(t *testing.T) {
	dir := inCgroup(t)
	if dir == "" {
		return
	}
	if !havePlaces(t) {
		t.Skip("the kernel does not tell of a socket whether it would give a place back")
	}
	tests := map[string]func(*testing.T, *sockets, int){
		"connected":          placeConnected,
		"taken":              placeTaken,
		"two peers":          placeTwoPeers,
		"direct":             placeDirect,
		"by another VIP":     placeOtherVIP,
		"never by its VIP":   placeNever,
		"of two descriptors": placeShared,
		"wanted by two":      placeWanted,
		"left by another":    placeLeft,
		"kernel's own":       placeKernel,
	}
	for _, d := range domains() {
		for name, run := range tests {
			t.Run(d.name+"/"+name, func(t *testing.T) {
				s := newSockets(t, dir, d, false)
				fd, err := unix.Socket(d.number(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				run(t, s, fd)
			})
		}
	}
}

// havePlaces says whether programs give sockets places in sock_peers on this kernel.
func havePlaces(t *testing.T) bool {
	t.Helper()
	return podConfig(t, false).KernelCtx != 0
}

// freed closes the socket, and fails the test unless nothing has its place any more.
func (s *sockets) freed(fd int) {
	s.t.Helper()
	_, i, p := s.place(fd)
	if err := unix.Close(fd); err != nil {
		s.t.Fatal(err)
	}
	if s.lookup("sock_peers", i, &p); p.Owner != 0 || p.Claims != 0 {
		s.t.Errorf("a closed socket's place has owner %d and claims %d", p.Owner, p.Claims)
	}
}

func (s *sockets) origins(want int) {
	s.t.Helper()
	if got := s.count("sock_origin"); got != want {
		s.t.Errorf("%d entries of sock_origin, want %d", got, want)
	}
}

func placeConnected(t *testing.T, s *sockets, fd int) {
	for range 2 {
		s.connect(fd, "V:80")
		cookie, _, p := s.place(fd)
		want := sockPeer{Owner: cookie, Claims: cookie, Addr: toAddress(s.f.addr("B")), Port: 7000, Proto: protoUDP}
		want.Origin = sockOrigin{Addr: toAddress(s.f.addr("V")), Port: 80, Service: number(1, protoUDP)}
		if p != want {
			t.Errorf("place holds %+v, want %+v", p, want)
		}
	}
	s.origins(0)
	s.freed(fd)
}

// placeTaken has another socket in the place, so many cookies older.
func placeTaken(t *testing.T, s *sockets, fd int) {
	cookie, i, _ := s.place(fd)
	other := sockPeer{Owner: cookie + 1<<40, Claims: cookie + 1<<40, Addr: toAddress(s.f.addr("B")), Port: 7000, Proto: protoUDP}
	other.Origin.Port = 9
	s.put("sock_peers", i, other)
	for range 2 {
		s.connect(fd, "V:80")
	}
	s.origins(1)
	s.connect(fd, "B:7000")
	s.origins(0)
	unix.Close(fd)
	var p sockPeer
	if s.lookup("sock_peers", i, &p); p != other {
		t.Errorf("another's place holds %+v, want %+v", p, other)
	}
}

// placeTwoPeers: what does not fit into the place is still known.
func placeTwoPeers(t *testing.T, s *sockets, fd int) {
	s.backend(2, "C:7000", protoUDP, 2)
	s.serveUDP("B:7000")
	s.serveUDP("C:7000")
	for range 2 {
		s.ask(fd, "V:80", "B:7000")
		s.ask(fd, "W:81", "C:7000")
	}
	s.origins(1)
	s.connect(fd, "V:80")
	s.connect(fd, "W:81")
	s.origins(1)
	s.freed(fd)
}

func placeDirect(t *testing.T, s *sockets, fd int) {
	s.connect(fd, "V:80")
	s.connect(fd, "B:7000")
	if cookie, _, p := s.place(fd); p.Owner != cookie || p.Port != 0 {
		t.Errorf("place holds %+v, want nothing of the socket's", p)
	}
	s.connect(fd, "V:80")
	s.origins(0)
	s.freed(fd)
}

func placeOtherVIP(t *testing.T, s *sockets, fd int) {
	for _, to := range []string{"V:80", "W:81", "V:80"} { // both are B's
		s.connect(fd, to)
	}
	s.origins(0)
	s.freed(fd)
}

// placeNever: a socket that asked no VIP takes no place, and whoever has the one it would have keeps it.
func placeNever(t *testing.T, s *sockets, fd int) {
	s.connect(fd, "B:7000")
	if _, _, p := s.place(fd); p.Owner != 0 {
		t.Errorf("place holds %+v", p)
	}
	s.freed(fd)
}

// placeShared: it is the last descriptor that closes a socket.
func placeShared(t *testing.T, s *sockets, fd int) {
	s.connect(fd, "V:80")
	again, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if got := s.peer(again); got != "V:80" {
		t.Errorf("peer is %s, want V:80", got)
	}
	s.freed(again)
}

// placeWanted has another socket, so many cookies older, on its way into the place, or out of it.
func placeWanted(t *testing.T, s *sockets, fd int) {
	cookie, i, _ := s.place(fd)
	s.put("sock_peers", i, sockPeer{Claims: cookie + 1<<40})
	s.connect(fd, "V:80")
	s.origins(1)
	if _, _, p := s.place(fd); p.Owner != 0 || p.Claims != cookie+1<<40 {
		t.Errorf("place holds %+v", p)
	}
	// The same once this socket has it.
	s.forgetPeers()
	s.connect(fd, "V:80")
	_, _, p := s.place(fd)
	p.Claims += cookie + 1<<40
	s.put("sock_peers", i, p)
	if got := s.peer(fd); got != "V:80" {
		t.Errorf("peer is %s while another wants the place, want V:80", got)
	}
	unix.Close(fd)
	if s.lookup("sock_peers", i, &p); p.Owner != 0 || p.Claims != cookie+1<<40 {
		t.Errorf("a closed socket's place holds %+v", p)
	}
}

// placeLeft: what a place held before says nothing of who has it now.
func placeLeft(t *testing.T, s *sockets, fd int) {
	_, i, _ := s.place(fd)
	left := sockPeer{Addr: toAddress(s.f.addr("B")), Port: 7000, Proto: protoUDP}
	left.Origin = sockOrigin{Addr: toAddress(s.f.addr("W")), Port: 81, Service: number(2, protoUDP)}
	s.put("sock_peers", i, left)
	s.connect(fd, "B:7000")
	s.connect(fd, "V:80")
	s.connect(fd, "B:7000")
	s.origins(0)
	s.freed(fd)
}

// placeKernel: of a socket that the kernel opens for itself no program is told when it is closed. Here it is the one
// by which it speaks TCP for a socket of MPTCP.
func placeKernel(t *testing.T, s *sockets, fd int) {
	unix.Close(fd)
	defer s.serveTCP("B:7000")()
	fd, err := unix.Socket(s.d.number(), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		t.Skip("the kernel has no MPTCP: ", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, s.sockaddr("V:80")); err != nil {
		t.Fatal(err)
	}
	if text, _ := s.receive(fd); text != "B:7000" {
		t.Errorf("%s answered, want B:7000", text)
	}
	s.origins(1)
	if n := takenPlaces(t, s.coll.Maps["sock_peers"]); n != 0 {
		t.Errorf("%d places are taken", n)
	}
}

func takenPlaces(t *testing.T, m *ebpf.Map) int {
	t.Helper()
	n := 0
	for i := range m.MaxEntries() {
		var p sockPeer
		if err := m.Lookup(i, &p); err != nil {
			t.Fatal(err)
		}
		if p.Owner != 0 || p.Claims != 0 {
			n++
		}
	}
	return n
}

// TestSocketClosed: closing a socket that never asked a VIP gives it no cookie. Cookies are handed out in turn on each
// CPU (include/linux/cookie.h), to other processes as well: so the next one is looked at until nobody came between.
func TestSocketClosed(t *testing.T) {
	dir := inCgroup(t)
	if dir == "" {
		return
	}
	for _, plain := range []bool{false, true} {
		s := newSockets(t, dir, domains()[0], plain)
		var cpus unix.CPUSet
		if err := unix.SchedGetaffinity(0, &cpus); err != nil {
			t.Fatal(err)
		}
		first := 0
		for !cpus.IsSet(first) {
			first++
		}
		cpus.Zero()
		cpus.Set(first)
		if err := unix.SchedSetaffinity(0, &cpus); err != nil { // of this thread, which ends with the test
			t.Fatal(err)
		}
		cookie := func() uint64 {
			cookie, err := unix.GetsockoptUint64(s.datagram(), unix.SOL_SOCKET, unix.SO_COOKIE)
			if err != nil {
				t.Fatal(err)
			}
			return cookie
		}
		took := uint64(0)
		for range 100 {
			before := cookie()
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
			if took = cookie() - before - 1; took == 0 {
				break
			}
		}
		if took != 0 {
			t.Errorf("plain=%v: a socket has taken a cookie when it was closed", plain)
		}
	}
}

// TestSocketPlacesUnwatched: while translation is off sockets are closed unseen.
func TestSocketPlacesUnwatched(t *testing.T) {
	eachSweep(t, func(t *testing.T, r *sweepRig) {
		r.sync(r.service("V:80", registry.UDP, "B:7000"))
		stays := r.connected(unix.SOCK_DGRAM, "V:80")
		goes, err := unix.Socket(r.d.number(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		r.connect(goes, "V:80")
		for _, on := range []bool{false, true, true} {
			r.in(r.home)
			r.l.Close()
			o := r.options()
			o.SocketTranslation = on
			r.l = r.node.open(o)
			if !on {
				unix.Close(goes)
			}
		}
		r.in(r.client)
		if got := r.peer(stays); got != "V:80" {
			t.Errorf("peer is %s, want V:80", got)
		}
		if n := takenPlaces(t, r.l.maps.get(sockMapSockPeers)); n != 0 {
			t.Errorf("%d places are taken, which nobody would free", n)
		}
		// What a socket has from now on stays over the next agent's start.
		r.connect(stays, "V:80")
		r.in(r.home)
		r.l.Close()
		r.l = r.node.open(r.options())
		if n := takenPlaces(t, r.l.maps.get(sockMapSockPeers)); n != 1 && havePlaces(t) {
			t.Errorf("%d places are taken, want one", n)
		}
		r.sync(r.service("V:80", registry.UDP, "C:7000"))
		r.ended(stays)
	})
}

// TestSocketPlacesResized: an agent that gives the map another size keeps what open sockets know, and finds
// the sockets of a backend that goes.
func TestSocketPlacesResized(t *testing.T) {
	eachSweep(t, func(t *testing.T, r *sweepRig) {
		r.sync(r.service("V:80", registry.UDP, "B:7000"))
		fd := r.connected(unix.SOCK_DGRAM, "V:80")
		for _, size := range []uint32{1024, 8192} {
			r.in(r.home)
			r.l.Close()
			o := r.options()
			o.Sizes.SockOrigin = size
			r.l = r.node.open(o)
			if got := r.peer(fd); got != "V:80" {
				t.Errorf("with maps for %d peer is %s, want V:80", size, got)
			}
		}
		r.sync(r.service("V:80", registry.UDP, "C:7000"))
		r.ended(fd)
	})
}
