package loader

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMapsTellCaches: what programs fill is counted, once a minute, also the map that is not pinned.
func TestMapsTellCaches(t *testing.T) {
	n := newNode(t)
	o, now := n.options(), time.Now()
	o.now = func() time.Time { return now }
	l := n.open(o)
	fill := func(name string) (m MapInfo) {
		t.Helper()
		list, err := l.Maps()
		if err != nil {
			t.Fatal(err)
		}
		byName := func(a, b MapInfo) int { return strings.Compare(a.Name, b.Name) }
		i, found := slices.BinarySearchFunc(list, MapInfo{Name: name}, byName)
		if !found || !slices.IsSortedFunc(list, byName) {
			t.Fatalf("no map %s, or not by name: %v", name, list)
		}
		return list[i]
	}
	size := l.programs.asked.MaxEntries()
	if m := fill("asked"); m.Entries != 0 || m.Limit != uint64(size)*askedWays || m.Bytes < m.Limit*48 {
		t.Errorf("empty: %+v", m)
	}
	bucket := make([]byte, l.programs.asked.ValueSize())
	bucket[len(bucket)/askedWays-1], bucket[len(bucket)-1] = 1, 1 // the seconds of two ways
	if err := l.programs.asked.Put(size-1, bucket); err != nil {
		t.Fatal(err)
	}
	if err := l.maps.get("flows").Put(sockFlowKey{Proto: protoTCP}, sockFlow{}); err != nil {
		t.Fatal(err)
	}
	counted := func(when string, asked, flows uint64) {
		t.Helper()
		if a, f := fill("asked").Entries, fill("flows").Entries; a != asked || f != flows {
			t.Errorf("%s: %d of asked and %d of flows are in use, want %d and %d", when, a, f, asked, flows)
		}
	}
	counted("within a minute", 0, 0)
	now = now.Add(cacheAge)
	counted("after a minute", 2, 1)
}
