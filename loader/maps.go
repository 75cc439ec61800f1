package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
)

// A map's pin is its name in the agent's bpffs directory. While a map is being replaced by one of
// another size or layout, the new one is pinned beside it under the name with newSuffix; tmpSuffix
// is for a pin that no program uses yet. (bpffs refuses names with a dot.)
const (
	newSuffix = "_new"
	tmpSuffix = "_tmp"
)

// mapSet is all maps, by name.
type mapSet struct {
	dir  string
	maps map[string]*pinnedMap
}

// pinnedMap is one map and where it comes from.
type pinnedMap struct {
	spec    *ebpf.MapSpec
	m       *ebpf.Map   // the one that programs are to use
	fresh   bool        // m was made by this process and is not pinned yet
	sources []*ebpf.Map // what m replaces, newest first; empty: m is new or stays
	names   []string    // pins of the sources
}

func (s *mapSet) get(name string) *ebpf.Map { return s.maps[name].m }

func (s *mapSet) close() {
	if s == nil {
		return
	}
	for _, p := range s.maps {
		for _, m := range append(p.sources, p.m) {
			if m != nil {
				m.Close()
			}
		}
	}
}

func (s *mapSet) path(name string) string { return filepath.Join(s.dir, name) }

func (s *mapSet) names() []string {
	names := make([]string, 0, len(s.maps))
	for name := range s.maps {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// openMaps opens the pinned maps and makes those that are missing or do not fit their spec any more.
// Those in renew are made anew as if they did not. It changes nothing that a program or a later start could see.
func openMaps(dir string, specs map[string]*ebpf.MapSpec, renew map[string]bool) (_ *mapSet, err error) {
	s := &mapSet{dir: dir, maps: map[string]*pinnedMap{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	for name, spec := range specs {
		p := &pinnedMap{spec: spec}
		s.maps[name] = p
		if err := s.find(name, p, renew[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range s.names() {
		if err := s.fits(name); err != nil {
			return nil, err
		}
	}
	for _, name := range s.names() {
		p := s.maps[name]
		if p.m != nil {
			continue
		}
		if p.m, err = ebpf.NewMap(p.spec); err != nil {
			return nil, fmt.Errorf("create map %s with %d entries: %w", name, p.spec.MaxEntries, err)
		}
		p.fresh = true
	}
	return s, nil
}

// find opens what is pinned for a map and decides what is used and what is to be copied.
func (s *mapSet) find(name string, p *pinnedMap, renew bool) error {
	// Newest first: programs may have run on a _new map, never on a _tmp.
	for _, pin := range []string{name + newSuffix, name} {
		m, err := ebpf.LoadPinnedMap(s.path(pin), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open pinned map %s: %w", s.path(pin), err)
		}
		if !renew && p.m == nil && len(p.sources) == 0 && p.spec.Compatible(m) == nil {
			p.m = m
			if pin == name {
				return nil
			}
			continue
		}
		p.sources, p.names = append(p.sources, m), append(p.names, pin)
	}
	return nil
}

// replacing says whether some map takes the place of another.
func (s *mapSet) replacing() bool {
	for _, p := range s.maps {
		if len(p.sources) > 0 {
			return true
		}
	}
	return false
}

// pin gives maps that are not pinned yet their pins: new ones their name, those that replace another
// the name with newSuffix. From then on a later start finds them, whatever happens.
func (s *mapSet) pin(step stepFunc) error {
	for _, name := range s.names() {
		p := s.maps[name]
		tmp, final := s.path(name+tmpSuffix), s.path(name)
		if err := removePin(tmp); err != nil {
			return err
		}
		if !p.fresh {
			continue
		}
		if err := step("pin map " + name); err != nil {
			return err
		}
		if len(p.sources) > 0 {
			final = s.path(name + newSuffix)
		}
		if err := p.m.Pin(tmp); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
		if err := os.Rename(tmp, final); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
		p.fresh = false
	}
	return nil
}

// commit renames the pins of maps that replaced others into place. No program uses the old ones any
// more; they go with their last pin.
func (s *mapSet) commit(step stepFunc) error {
	for _, name := range s.names() {
		p := s.maps[name]
		if len(p.sources) == 0 {
			continue
		}
		if err := step("replace map " + name); err != nil {
			return err
		}
		if err := os.Rename(s.path(name+newSuffix), s.path(name)); err != nil {
			return fmt.Errorf("replace pin of map %s: %w", name, err)
		}
		for _, m := range p.sources {
			m.Close()
		}
		p.sources, p.names = nil, nil
	}
	return nil
}

// removePin removes a pin; one that is not there is no error.
func removePin(pin string) error {
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}
