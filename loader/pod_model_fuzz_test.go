package loader

import (
	"encoding/binary"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// modelPackets and modelSeed are how many packets TestModel makes and the seed of its first episode: the
// environment says it, for more than in passing. The next episodes have the next seeds.
const (
	modelPackets = "SLUICE_MODEL_PACKETS"
	modelSeed    = "SLUICE_MODEL_SEED"
)

func fromEnvironment(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 48)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestModel compares the programs with the model: every verdict, every byte that comes out, every entry in
// flows and affinity, every counter. What fails names the seed that does it again.
func TestModel(t *testing.T) {
	packets, first := int(fromEnvironment(t, modelPackets, 100000)), fromEnvironment(t, modelSeed, 1)
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			m := newModelRig(t, f)
			want, done, late, seed := (packets+1)/2, 0, 0, first
			began, size, slow := time.Now(), episodePackets, 0
			for ; done < want && !t.Failed(); seed++ {
				n := m.episode(seed, min(size, want-done))
				done, slow = done+n, slow+1
				switch {
				case n > 0:
					slow, size = 0, min(size+size/8, episodePackets)
				case slow > 30:
					t.Skipf("too slow a machine: %d packets in a second are too many", size)
				default:
					late++
					size = max(size/2, episodePackets/30)
				}
			}
			t.Logf("%d packets and %d changes between them, in %v; seeds %d to %d, of which %d were left out for their time",
				done, m.changes, time.Since(began).Round(time.Millisecond), first, seed-1, late)
			if m.nodeMade {
				t.Log("to_pod saw only what the node made: the kernel does not let tests say by which interface a packet came")
			}
			t.Logf("the programs counted %s", show(m.total))
			for _, class := range slices.Sorted(maps.Keys(m.seen)) {
				t.Logf("%9d %s", m.seen[class], class)
			}
			if len(m.seen) < 40 && packets >= 50000 && !t.Failed() {
				t.Errorf("these packets are of %d kinds only", len(m.seen))
			}
		})
	}
}

// FuzzModel compares the programs with the model on two packets behind ones that begin flows.
func FuzzModel(f *testing.F) {
	rigs := map[bool]*modelRig{}
	for _, fam := range families() {
		rigs[fam.v6] = newModelRig(f, fam)
		for _, seed := range rigs[fam.v6].gen.seeds {
			f.Add(seed, seed, uint8(0))
		}
	}
	f.Fuzz(func(t *testing.T, one, two []byte, hooks uint8) {
		for _, r := range rigs {
			r.rig.t = t
			r.enter()
			for !r.tryTwo(t, one, two, hooks) {
			}
		}
	})
}

// tryTwo runs two packets in an episode of their own. It returns false when time has passed.
func (m *modelRig) tryTwo(t *testing.T, one, two []byte, hooks uint8) bool {
	m.begin(0)
	var failed error
	all := m.gen.seeds[:20:20]
	typ, least := uint16(etherIPv4), 34
	if m.f.v6 {
		typ, least = etherIPv6, 54
	}
	for _, in := range [][]byte{one, two} {
		if len(in) >= least && len(in) < 3000 && binary.BigEndian.Uint16(in[12:]) == typ {
			all = append(all, in)
		}
	}
	for i, in := range all {
		h := m.gen.hooks[int(hooks>>(i&1*4)&15)%len(m.gen.hooks)]
		if i < 20 {
			h = m.gen.hooks[0]
		}
		if _, _, err := m.packet(h, in); err != nil && failed == nil {
			failed = err
		}
	}
	if err := m.compareMaps(); failed == nil {
		failed = err
	}
	if m.late() {
		return false
	}
	if failed != nil {
		t.Errorf("%s: %v", m.f.name, failed)
	}
	return true
}
