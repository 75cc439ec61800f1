package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestAllocatorSkipsWhatIsNoHost(t *testing.T) {
	for _, test := range []struct {
		prefix string
		keep   []netip.Addr
		want   string
	}{
		{"10.0.0.0/29", nil, "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"},
		{"10.0.0.0/29", addrs("10.0.0.4", "10.0.0.1", "10.9.9.9"), "10.0.0.2 10.0.0.3 10.0.0.5 10.0.0.6"},
		{"10.0.0.4/30", nil, "10.0.0.5 10.0.0.6"},
		{"10.0.0.4/31", nil, "10.0.0.4 10.0.0.5"},
		{"10.0.0.4/32", nil, "10.0.0.4"},
		{"fd00::/125", nil, "fd00::2 fd00::3 fd00::4 fd00::5 fd00::6 fd00::7"},
		{"fd00::/126", nil, "fd00::1 fd00::2 fd00::3"},
		{"fd00::8/127", nil, "fd00::8 fd00::9"},
	} {
		a, err := NewAllocator(prefixes(test.prefix), test.keep...)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			addrs, err := a.Allocate()
			if errors.Is(err, ErrFull) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, addrs[0].String())
		}
		if s := strings.Join(got, " "); s != test.want {
			t.Errorf("%s hands out %s, want %s", test.prefix, s, test.want)
		}
		if u := a.Usage()[0]; u.Limit != uint64(len(got)) || u.Used != u.Limit {
			t.Errorf("%s: usage %+v after %d addresses", test.prefix, u, len(got))
		}
		if !errors.Is(a.Free(), ErrFull) {
			t.Errorf("%s: not full", test.prefix)
		}
	}
}

func TestAllocatorRefusesRanges(t *testing.T) {
	for _, test := range []struct {
		prefixes []netip.Prefix
		want     string
	}{
		{prefixes("10.0.0.1/24"), "bits beyond the prefix length are set, 10.0.0.0/24 is the network"},
		{prefixes("127.0.0.0/24"), "unicast"},
		{prefixes("224.0.0.0/24"), "unicast"},
		{prefixes("fe80::/64"), "unicast"},
		{prefixes("0.0.0.0/0"), "unicast"},
		{prefixes("16.0.0.0/4"), "prefix length"},
		{prefixes("10.0.0.0/24", "fd00::/64", "10.0.0.128/25"), "range 10.0.0.128/25: overlaps 10.0.0.0/24"},
		{prefixes("::ffff:10.0.0.0/120"), "plain"},
		{[]netip.Prefix{{}}, "plain"},
	} {
		if _, err := NewAllocator(test.prefixes); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %q", test.prefixes, err, test.want)
		}
	}
}

func TestAllocatorWanted(t *testing.T) {
	a, err := NewAllocator(prefixes("10.0.0.0/24", "fd00::/64"), netip.MustParseAddr("10.0.0.9"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.Allocate(addrs("fd00::99")...)
	if err != nil || !slices.Equal(got, addrs("10.0.0.2", "fd00::99")) {
		t.Fatalf("got %v, %v", got, err)
	}
	before := fmt.Sprint(a.Usage())
	for _, test := range []struct {
		want []netip.Addr
		err  error
	}{
		{addrs("10.0.0.50", "fd00::99"), ErrUsed},
		{addrs("10.0.1.1"), ErrOutside},
		{addrs("10.0.0.0"), ErrOutside},
		{addrs("10.0.0.255"), ErrOutside},
		{addrs("10.0.0.9"), ErrOutside},
		{addrs("fd01::1"), ErrOutside},
		{[]netip.Addr{{}}, ErrOutside},
	} {
		if got, err := a.Allocate(test.want...); !errors.Is(err, test.err) || got != nil {
			t.Errorf("%v: got %v, %v", test.want, got, err)
		}
		if after := fmt.Sprint(a.Usage()); after != before {
			t.Errorf("%v: usage %s, before %s", test.want, after, before)
		}
	}
}

// TestAllocatorKeeps: what is kept from some moment on is handed out no more, whoever has it keeps it, and it can be
// handed out again when it is kept no more.
func TestAllocatorKeeps(t *testing.T) {
	a, err := NewAllocator(prefixes("10.0.0.0/29", "fd00::/125"), addrs("10.0.0.3")...)
	if err != nil {
		t.Fatal(err)
	}
	usage := func(want string) {
		t.Helper()
		if u := a.Usage(); fmt.Sprint(u[0].Used, "/", u[0].Limit, " ", u[1].Used, "/", u[1].Limit) != want {
			t.Errorf("usage %+v, want %s", u, want)
		}
	}
	allocate := func(want ...string) {
		t.Helper()
		if got, err := a.Allocate(); !slices.Equal(got, addrs(want...)) {
			t.Errorf("handed out %v, %v, want %v", got, err, want)
		}
	}
	allocate("10.0.0.2", "fd00::2")
	usage("1/4 1/6")
	a.Keep(addrs("10.0.0.2", "::ffff:10.0.0.4", "10.0.0.4", "fd00::3", "192.0.2.1", "10.0.0.0")...)
	usage("1/4 1/5")
	allocate("10.0.0.3", "fd00::4")
	allocate("10.0.0.5", "fd00::5")
	if err := a.Take(netip.MustParseAddr("10.0.0.4")); !errors.Is(err, ErrOutside) {
		t.Errorf("one that is kept is taken: %v", err)
	}
	a.Release(addrs("10.0.0.2")...)
	usage("2/3 3/5")
	allocate("10.0.0.6", "fd00::6")
	if err := a.Free(); !errors.Is(err, ErrFull) {
		t.Errorf("full but for what is kept: %v", err)
	}
	if got, err := a.Allocate(); !errors.Is(err, ErrFull) {
		t.Errorf("handed out %v, %v", got, err)
	}
	// A container of before, at an agent that starts.
	if err := a.Retake(netip.MustParseAddr("10.0.0.2")); err != nil || !a.Used(netip.MustParseAddr("10.0.0.2")) {
		t.Error(err)
	}
	usage("4/4 4/5")
	a.Keep()
	usage("4/5 4/6")
	allocate("10.0.0.4", "fd00::7")
	if err := a.Retake(netip.MustParseAddr("10.0.0.2")); !errors.Is(err, ErrUsed) {
		t.Errorf("one that somebody has: %v", err)
	}
}

// model is the allocator as one would write it without thought of speed: all addresses that can be
// handed out in a list, and a mark on those that are.
type model struct {
	all  [2][]netip.Addr
	used map[netip.Addr]bool
	last [2]int
}

func (m *model) allocate() (got []netip.Addr, ok bool) {
	last := m.last
	for f, all := range m.all {
		found := false
		for i := 1; i <= len(all) && !found; i++ {
			if at := (last[f] + i) % len(all); !m.used[all[at]] {
				got, last[f], found = append(got, all[at]), at, true
			}
		}
		if !found && f == 1 {
			m.last[0] = last[0] // IPv4's place has moved on all the same
		}
		if !found {
			return nil, false
		}
	}
	for _, a := range got {
		m.used[a] = true
	}
	m.last = last
	return got, true
}

func TestAllocatorAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ranges := prefixes("10.0.0.0/28", "10.0.1.0/29", "fd00::/124", "10.0.9.8/31")
	a, err := NewAllocator(ranges)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{used: map[netip.Addr]bool{}}
	for _, r := range []struct{ first, last string }{
		{"10.0.0.2", "10.0.0.14"}, {"10.0.1.2", "10.0.1.6"}, {"10.0.9.8", "10.0.9.9"}, {"fd00::2", "fd00::f"},
	} {
		first, last := netip.MustParseAddr(r.first), netip.MustParseAddr(r.last)
		f := first.BitLen() / 128
		for addr := first; addr.Compare(last) <= 0; addr = addr.Next() {
			m.all[f] = append(m.all[f], addr)
		}
	}
	m.last = [2]int{len(m.all[0]) - 1, len(m.all[1]) - 1}
	pool := slices.Concat(m.all[0], m.all[1], addrs("10.0.0.15", "10.0.2.1", "fd01::"))
	for step := range 20000 {
		addr := pool[random.IntN(len(pool))]
		switch op := random.IntN(10); {
		case op < 4:
			got, err := a.Allocate()
			want, ok := m.allocate()
			if !slices.Equal(got, want) || ok != (err == nil) {
				t.Fatalf("step %d: allocated %v, %v, want %v", step, got, err, want)
			}
		case op < 5:
			err := a.Take(addr)
			known := slices.Contains(m.all[0], addr) || slices.Contains(m.all[1], addr)
			if want := known && !m.used[addr]; want != (err == nil) {
				t.Fatalf("step %d: take %s: %v", step, addr, err)
			}
			if err == nil {
				m.used[addr] = true
			}
		case op < 9:
			a.Release(addr)
			delete(m.used, addr)
		default: // an agent that is started anew
			b, err := NewAllocator(ranges)
			if err != nil {
				t.Fatal(err)
			}
			b.Resume(a.Last())
			for used := range m.used {
				if err := b.Take(used); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			a = b
		}
		used := uint64(0)
		for _, u := range a.Usage() {
			used += u.Used
		}
		if used != uint64(len(m.used)) {
			t.Fatalf("step %d: %d used, want %d", step, used, len(m.used))
		}
	}
}
