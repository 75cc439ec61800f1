package loader

import (
	"testing"

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
	tests := map[string]func(*testing.T, *sockets, int){
		"connected":          placeConnected,
		"taken":              placeTaken,
		"two peers":          placeTwoPeers,
		"direct":             placeDirect,
		"by another VIP":     placeOtherVIP,
		"never by its VIP":   placeNever,
		"of two descriptors": placeShared,
	}
	for _, d := range domains() {
		for name, run := range tests {
			t.Run(d.name+"/"+name, func(t *testing.T) {
				s := newSockets(t, dir, d, false) // every kernel can do that
				fd, err := unix.Socket(d.number(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				run(t, s, fd)
			})
		}
	}
}

// freed closes the socket, and fails the test unless nothing has its place any more.
func (s *sockets) freed(fd int) {
	s.t.Helper()
	_, i, p := s.place(fd)
	if err := unix.Close(fd); err != nil {
		s.t.Fatal(err)
	}
	if s.lookup("sock_peers", i, &p); p.Owner != 0 || p.Port != 0 {
		s.t.Errorf("a closed socket's place has owner %d and port %d", p.Owner, p.Port)
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
		want := sockPeer{Owner: cookie, Addr: toAddress(s.f.addr("B")), Port: 7000, Proto: protoUDP}
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
	other := sockPeer{Owner: cookie + 1<<40, Addr: toAddress(s.f.addr("B")), Port: 7000, Proto: protoUDP}
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
