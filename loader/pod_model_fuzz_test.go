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

// modelPackets is how many packets TestModel makes: the environment says it, for more than in passing.
func modelPackets(t *testing.T) int {
	s := os.Getenv("SLUICE_MODEL_PACKETS")
	if s == "" {
		return 60000
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("SLUICE_MODEL_PACKETS: %v", err)
	}
	return n
}

// TestModel compares the programs with the model: every verdict, every byte that comes out, every entry in
// flows, every counter. SLUICE_MODEL_PACKETS says on how many packets, SLUICE_MODEL_SEED on which.
func TestModel(t *testing.T) {
	seed, _ := strconv.ParseUint(os.Getenv("SLUICE_MODEL_SEED"), 10, 64)
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			m := newModelRig(t, f, seed+7)
			want, done, late := (modelPackets(t)+1)/2, 0, 0
			began := time.Now()
			for done < want && !t.Failed() {
				n := m.episode(min(episodePackets, want-done))
				if done += n; n == 0 {
					late++
				}
			}
			t.Logf("%d packets in %v, %d episodes left out for their time", done, time.Since(began).Round(time.Millisecond), late)
			for _, class := range slices.Sorted(maps.Keys(m.seen)) {
				t.Logf("%9d %s", m.seen[class], class)
			}
			if len(m.seen) < 40 && !t.Failed() {
				t.Errorf("these packets are of %d kinds only", len(m.seen))
			}
		})
	}
}

// FuzzModel compares the programs with the model on two packets behind ones that begin flows.
func FuzzModel(f *testing.F) {
	rigs := map[bool]*modelRig{}
	for _, fam := range families() {
		rigs[fam.v6] = newModelRig(f, fam, 1)
		for _, seed := range rigs[fam.v6].gen.seeds {
			f.Add(seed, seed, uint8(0))
		}
	}
	f.Fuzz(func(t *testing.T, one, two []byte, hooks uint8) {
		for _, r := range rigs {
			r.rig.t = t
			r.enter()
			for time.Since(r.tryTwo(t, one, two, hooks)) > episodeTime {
			}
		}
	})
}

// tryTwo runs two packets in an episode of their own, and returns when that began.
func (m *modelRig) tryTwo(t *testing.T, one, two []byte, hooks uint8) time.Time {
	m.begin()
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
	if failed != nil && time.Since(m.began) < episodeTime {
		t.Errorf("%s: %v", m.f.name, failed)
	}
	return m.began
}
