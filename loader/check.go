package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// Difference is one thing in which the kernel is not as it should be.
type Difference struct {
	// Object is what it is about, in the user's words: a frontend, a VIP, an interface, a map entry.
	Object string `json:"object"`
	// Problem says what is wrong with it.
	Problem string `json:"problem"`
}

func (d Difference) String() string { return d.Object + ": " + d.Problem }

// differences collects what a check finds.
type differences []Difference

func (d *differences) add(object, format string, args ...any) {
	*d = append(*d, Difference{object, fmt.Sprintf(format, args...)})
}

// Check compares what is in the kernel with what should be there: services with their slots and
// backends, endpoints, attachments and pins, and that nothing is held that nobody owns. It sees no
// change half-way. It fails before the first sync of a snapshot: what should be is not known yet.
//
// Services are looked at a few at a time, so that Sync does not wait for all of them. What comes or goes
// meanwhile is as right as the rest, but may have been looked at or not.
func (l *Loader) Check() ([]Difference, error) {
	var d differences
	for _, check := range []func(*differences) error{
		l.checkServices, l.checkStrays, l.checkBackends, l.checkRest,
	} {
		err := check(&d)
		if errors.Is(err, errClosed) {
			return nil, err
		}
		if err != nil {
			return nil, fmt.Errorf("check: %w", err)
		}
	}
	slices.SortStableFunc(d, func(a, b Difference) int { return strings.Compare(a.Object, b.Object) })
	return d, nil
}

// checkRest looks at what there is little of, and at the sums.
func (l *Loader) checkRest(d *differences) error {
	return l.locked(func() error {
		l.wireMu.Lock()
		defer l.wireMu.Unlock()
		l.checkLeaks(d)
		for _, check := range []func(*differences) error{
			l.checkEndpoints, l.checkNamespaces, l.checkIsolation,
			l.checkInterfaces, l.checkCgroup, l.checkPins,
		} {
			if err := check(d); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkEndpoints compares map endpoints with what is attached.
func (l *Loader) checkEndpoints(d *differences) error {
	t := l.endpoints
	seen := map[netip.Addr]bool{}
	err := eachOf(t.entries, func(k address, e endpoint) error {
		a := fromAddress(k)
		seen[a] = true
		w := t.byName[t.owner[a]]
		if w == nil {
			d.add("endpoint "+a.String(), "is in map endpoints, but no interface has it")
			return nil
		}
		if err := w.compare(e, t.tagOf(a)); err != nil {
			d.add("endpoint "+a.String(), "%s", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read map endpoints: %w", err)
	}
	for a, name := range t.owner {
		if !seen[a] {
			d.add("endpoint "+a.String(), "address of interface %s is not in map endpoints", name)
		}
	}
	return nil
}

// checkInterfaces looks at the interfaces' programs.
func (l *Loader) checkInterfaces(d *differences) error {
	names, err := interfaceNames()
	if err != nil {
		return err
	}
	for _, w := range l.endpoints.byName {
		if names[w.Index] != w.Name {
			d.add("interface "+w.Name, "is gone, but its container was not removed")
			continue
		}
		if err := l.hooks.verify(w.Name, w.Index, l.programs); err != nil {
			d.add("interface "+w.Name, "%s", err)
		}
	}
	links, filters, err := l.strays()
	if err != nil {
		return err
	}
	for name := range links {
		d.add("interface "+name, "has links of programs, but is not attached")
	}
	for _, name := range filters {
		d.add("interface "+name, "has filters of ours, but is not attached")
	}
	return nil
}

// checkCgroup looks at the socket programs.
func (l *Loader) checkCgroup(d *differences) error {
	for _, name := range sockOrder() {
		info, err := linkInfo(filepath.Join(l.linksDir(), name))
		if errors.Is(err, errNoLink) {
			if l.o.SocketTranslation {
				d.add("program "+name, "is not attached")
			}
			continue
		}
		if err != nil {
			return err
		}
		if !l.o.SocketTranslation {
			d.add("program "+name, "is attached, but socket translation is off")
			continue
		}
		id, err := programID(l.programs.sock[name])
		if err != nil {
			return err
		}
		if info.Program != id {
			d.add("program "+name, "its link runs program %d, not %d", info.Program, id)
		}
		same, err := linkedTo(filepath.Join(l.linksDir(), name), l.o.Cgroup)
		if err != nil {
			return err
		}
		if !same {
			d.add("program "+name, "is not attached to cgroup %s", l.o.Cgroup)
		}
	}
	return nil
}

// checkPins compares the pinned maps with those that are in use.
func (l *Loader) checkPins(d *differences) error {
	stale, err := staleLinks(l.linksDir())
	if err != nil {
		return err
	}
	for _, pin := range stale {
		d.add("pin "+filepath.Base(pin), "was left behind")
	}
	for _, name := range l.maps.names() {
		for _, pin := range []string{name + newSuffix, name + tmpSuffix} {
			if _, err := os.Stat(l.maps.path(pin)); err == nil {
				d.add("pin "+pin, "was left behind")
			}
		}
		want, err := mapID(l.maps.get(name))
		if err != nil {
			return err
		}
		m, err := ebpf.LoadPinnedMap(l.maps.path(name), nil)
		if err != nil {
			d.add("map "+name, "cannot be opened at its pin: %s", err)
			continue
		}
		have, err := mapID(m)
		m.Close()
		if err != nil {
			return err
		}
		if have != want {
			d.add("map "+name, "its pin is map %d, but programs use %d", have, want)
		}
	}
	return nil
}

func mapID(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, fmt.Errorf("read map: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("read map: the kernel tells no id")
	}
	return id, nil
}
