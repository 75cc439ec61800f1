package loader

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
	"golang.org/x/sys/unix"
)

// Interface is the host side of a container's veth.
type Interface struct {
	Name  string           // of the host side
	Index int              // of the host side
	MAC   net.HardwareAddr // of the container's side
	Addrs []netip.Addr     // of the container
	// NetnsCookie is the kernel's number of the container's network namespace (SO_NETNS_COOKIE); 0:
	// unknown. All that its sockets send to a VIP must leave it by this interface: the programs there
	// tell apart what the socket programs cannot.
	NetnsCookie uint64
	// Endpoint is the container as the registry knows it or will: its policies hold from the first
	// packet on. The zero value: a container that nothing is known of.
	Endpoint registry.Endpoint
}

// equal compares canonical interfaces.
func (i Interface) equal(j Interface) bool {
	return i.Name == j.Name && i.Index == j.Index && slices.Equal(i.MAC, j.MAC) &&
		slices.Equal(i.Addrs, j.Addrs)
}

// canonical checks an interface and gives equal ones equal form.
func (i Interface) canonical() (Interface, error) {
	if i.Name == "" || len(i.Name) >= unix.IFNAMSIZ {
		return i, fmt.Errorf("interface name %q: want 1 to %d characters", i.Name, unix.IFNAMSIZ-1)
	}
	if i.Index <= 0 {
		return i, fmt.Errorf("interface %s: index %d is none", i.Name, i.Index)
	}
	if len(i.MAC) != 6 {
		return i, fmt.Errorf("interface %s: MAC %q is not 6 bytes", i.Name, i.MAC)
	}
	if len(i.Addrs) == 0 {
		return i, fmt.Errorf("interface %s: no address", i.Name)
	}
	i.MAC = slices.Clone(i.MAC)
	addrs := make([]netip.Addr, 0, len(i.Addrs))
	for _, a := range i.Addrs {
		if !a.IsValid() || a.IsUnspecified() {
			return i, fmt.Errorf("interface %s: address %s is none", i.Name, a)
		}
		addrs = append(addrs, a.Unmap().WithZone(""))
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	i.Addrs = slices.Compact(addrs)
	return i, nil
}

// toEndpoint returns the entry of one of the interface's addresses.
func (w *wired) toEndpoint(t tag) endpoint {
	e := endpoint{Ifindex: uint32(w.Index), Id: w.id, Identity: t.identity, Network: t.network}
	copy(e.Mac[:], w.MAC)
	if w.watched {
		e.Flags |= endpointWatched
	}
	return e
}

// toRegistry returns the container as the compiler is to know it. One that nothing is known of is told
// apart by its interface.
func (i Interface) toRegistry(node string) registry.Endpoint {
	e := i.Endpoint
	if e.EndpointID == (registry.EndpointID{}) {
		e.EndpointID = registry.EndpointID{Node: node, Interface: i.Name}
	}
	e.Addresses = i.Addrs
	return e
}

// endpointTable keeps the maps endpoints and epochs. It is not safe for concurrent use.
//
// An entry is written or deleted first, and the epoch raised after that. The other way round, on
// another CPU:
//
//	a packet sees the new epoch, decides its flow anew from the old entry, and keeps that for good
//	the entry changes, and nothing tells the flow
type endpointTable struct {
	entries *ebpf.Map
	erase   func(*address) error // an entry; tests let it fail
	epochs  *memory
	ids     *idAllocator
	byName  map[string]*wired
	owner   map[netip.Addr]string // name of the interface that has the address
	byID    map[uint32]*wired
	gone    map[netip.Addr]bool // whose entries restore deleted
	// tagOf tells what an address's entry is to say about isolation.
	tagOf func(netip.Addr) tag
}

// wired is an interface with its endpoint id.
type wired struct {
	Interface
	id      uint32
	watched bool // ENDPOINT_WATCHED
}

func newEndpointTable(entries *ebpf.Map, epochs *memory, grace time.Duration, now func() time.Time) *endpointTable {
	return &endpointTable{
		entries: entries, epochs: epochs,
		erase:  func(key *address) error { return entries.Delete(key) },
		ids:    newIDAllocator("epochs", epochs.entries, grace, now),
		byName: map[string]*wired{}, owner: map[netip.Addr]string{}, byID: map[uint32]*wired{},
		gone:  map[netip.Addr]bool{},
		tagOf: func(netip.Addr) tag { return tag{} },
	}
}

// conflict says which of a canonical interface's addresses another one has.
func (t *endpointTable) conflict(i Interface) error {
	for _, a := range i.Addrs {
		if name, taken := t.owner[a]; taken && name != i.Name {
			return fmt.Errorf("address %s belongs to interface %s", a, name)
		}
	}
	return nil
}

// put writes the entries of a canonical interface. On error the maps are as before.
func (t *endpointTable) put(i Interface) (err error) {
	if err := t.conflict(i); err != nil {
		return err
	}
	old := t.byName[i.Name]
	w := &wired{Interface: i}
	if old != nil {
		w.id, w.watched = old.id, old.watched
	} else {
		if w.id, err = t.ids.alloc(); err != nil {
			return err
		}
		// A predecessor may have died between deleting the id's entries and raising its epoch.
		t.epochs.raise(w.id, 0)
	}
	if err := t.write(w, old); err != nil {
		return err
	}
	if err := t.shrink(w, old); err != nil {
		return errors.Join(err, t.takeBack(w, old, w.Addrs))
	}
	for _, a := range i.Addrs {
		t.owner[a] = i.Name
	}
	t.byName[i.Name], t.byID[w.id] = w, w
	if old != nil && !old.equal(i) {
		t.epochs.raise(w.id, 0)
	}
	return nil
}

// shrink deletes the entries of addresses that an interface has no more. When one fails they are as before.
func (t *endpointTable) shrink(w, old *wired) error {
	if old == nil {
		return nil
	}
	var done []netip.Addr
	for _, a := range old.Addrs {
		if slices.Contains(w.Addrs, a) {
			continue
		}
		if err := t.delete(a); err != nil {
			for _, a := range done {
				err = errors.Join(err, t.store(a, old.toEndpoint(t.tagOf(a))))
			}
			return err
		}
		done = append(done, a)
	}
	for _, a := range done {
		delete(t.owner, a)
	}
	return nil
}

// write puts an entry for each address, and takes back what it did when one fails.
func (t *endpointTable) write(w, old *wired) error {
	for i, a := range w.Addrs {
		if err := t.store(a, w.toEndpoint(t.tagOf(a))); err != nil {
			return errors.Join(err, t.takeBack(w, old, w.Addrs[:i]))
		}
	}
	return nil
}

// takeBack makes the entries of addresses as they were before write.
func (t *endpointTable) takeBack(w, old *wired, done []netip.Addr) (err error) {
	for _, a := range done {
		if old != nil && slices.Contains(old.Addrs, a) {
			err = errors.Join(err, t.store(a, old.toEndpoint(t.tagOf(a))))
			continue
		}
		err = errors.Join(err, t.delete(a))
	}
	t.epochs.raise(w.id, 0)
	if old == nil {
		t.ids.free(w.id)
	}
	return err
}

// putTag writes the entry of a wired address with another identity or network. The caller raises epochs.
func (t *endpointTable) putTag(a netip.Addr, v tag) error {
	w := t.byName[t.owner[a]]
	if w == nil {
		return fmt.Errorf("write %s to map endpoints: no interface has it", a)
	}
	return t.store(a, w.toEndpoint(v))
}

// raise raises the epochs of whoever has these addresses, each once.
func (t *endpointTable) raise(addrs []netip.Addr) {
	done := map[uint32]bool{}
	for _, a := range addrs {
		if w := t.byName[t.owner[a]]; w != nil && !done[w.id] {
			done[w.id] = true
			t.epochs.raise(w.id, 0)
		}
	}
}

// watch makes the programs report the verdict on each new flow of a container, or no longer.
func (t *endpointTable) watch(id uint32, on bool) error {
	w := t.byID[id]
	if w == nil {
		return fmt.Errorf("watch endpoint %d: there is none", id)
	}
	w.watched = on
	for _, a := range w.Addrs {
		if err := t.store(a, w.toEndpoint(t.tagOf(a))); err != nil {
			return err
		}
	}
	return nil
}

func (t *endpointTable) store(a netip.Addr, e endpoint) error {
	key := toAddress(a)
	err := t.entries.Put(&key, &e)
	if errors.Is(err, unix.E2BIG) {
		err = fmt.Errorf("all %d entries are in use: %w", t.entries.MaxEntries(), ErrFull)
	}
	if err != nil {
		return fmt.Errorf("write %s to map endpoints: %w", a, err)
	}
	return nil
}

func (t *endpointTable) delete(a netip.Addr) error {
	key := toAddress(a)
	if err := t.erase(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete %s from map endpoints: %w", a, err)
	}
	return nil
}

// remove deletes an interface's entries and raises its epoch; only then does its id rest. One that
// is not there is no error.
func (t *endpointTable) remove(name string) error {
	w := t.byName[name]
	if w == nil {
		return nil
	}
	for _, a := range w.Addrs {
		if err := t.delete(a); err != nil {
			return err
		}
	}
	t.epochs.raise(w.id, 0)
	for _, a := range w.Addrs {
		delete(t.owner, a)
	}
	delete(t.byName, name)
	delete(t.byID, w.id)
	t.ids.free(w.id)
	return nil
}

// restore rebuilds the table from what a predecessor left. names tells the interfaces there are, by
// index. Entries of an interface that is gone, or that contradict each other, are deleted: its
// container is gone, too. It returns what the entries say about isolation, and what it deleted, for the
// log.
func (t *endpointTable) restore(names map[int]string) (tags map[netip.Addr]tag, dropped []error, err error) {
	tags = map[netip.Addr]tag{}
	watched := map[netip.Addr]bool{}
	drop := func(a netip.Addr, id uint32, why string) error {
		dropped = append(dropped, fmt.Errorf("endpoint %s: %s", a, why))
		t.gone[a] = true
		if err := t.delete(a); err != nil {
			return err
		}
		if id < t.epochs.entries {
			if id != 0 { // which means "none", and never rises
				t.epochs.raise(id, 0)
			}
		}
		return nil
	}
	err = eachOf(t.entries, func(k address, e endpoint) error {
		a := fromAddress(k)
		name, there := names[int(e.Ifindex)]
		if !there {
			return drop(a, e.Id, fmt.Sprintf("its interface %d is gone", e.Ifindex))
		}
		i := Interface{Name: name, Index: int(e.Ifindex), MAC: slices.Clone(e.Mac[:])}
		w := t.byID[e.Id]
		if w == nil {
			if t.byName[name] != nil {
				return drop(a, e.Id, fmt.Sprintf("interface %s has two ids", name))
			}
			if err := t.ids.restore(e.Id); err != nil {
				return drop(a, 0, err.Error())
			}
			w = &wired{Interface: i, id: e.Id}
			t.byID[e.Id], t.byName[name] = w, w
		}
		if w.Index != i.Index || !slices.Equal(w.MAC, i.MAC) {
			return drop(a, e.Id, fmt.Sprintf("endpoint id %d is in use twice", e.Id))
		}
		w.Addrs = append(w.Addrs, a)
		t.owner[a], tags[a] = name, tag{e.Identity, e.Network}
		if e.Flags != 0 {
			watched[a] = true
		}
		return nil
	})
	for _, w := range t.byID {
		slices.SortFunc(w.Addrs, netip.Addr.Compare)
	}
	for a := range watched { // who watched is gone
		if err == nil {
			err = t.putTag(a, tags[a])
		}
	}
	return tags, dropped, err
}

// list returns what is wired, by name.
func (t *endpointTable) list() []Interface {
	list := make([]Interface, 0, len(t.byName))
	for _, w := range t.byName {
		list = append(list, w.Interface)
	}
	slices.SortFunc(list, func(a, b Interface) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return list
}

// compare says how an entry differs from what it should be.
func (w *wired) compare(e endpoint, t tag) error {
	want := w.toEndpoint(t)
	switch {
	case e == want:
		return nil
	case e.Ifindex != want.Ifindex || e.Mac != want.Mac || e.Id != want.Id:
		return fmt.Errorf("leads to interface %d, MAC %s, endpoint %d instead of %d, %s, %d",
			e.Ifindex, net.HardwareAddr(e.Mac[:]), e.Id, w.Index, w.MAC, w.id)
	case e.Identity != want.Identity || e.Network != want.Network:
		return fmt.Errorf("has identity %d of network %d instead of %d of %d",
			e.Identity, e.Network, want.Identity, want.Network)
	}
	return fmt.Errorf("has flags %#x instead of %#x", e.Flags, want.Flags)
}

// verify says what of an interface's entries is not as put left it.
func (t *endpointTable) verify(i Interface) error {
	w := t.byName[i.Name]
	if w == nil {
		return fmt.Errorf("interface %s is not attached", i.Name)
	}
	if !w.equal(i) {
		return fmt.Errorf("interface %s is attached as index %d, MAC %s, addresses %s",
			i.Name, w.Index, w.MAC, w.Addrs)
	}
	for _, a := range i.Addrs {
		var e endpoint
		key := toAddress(a)
		err := t.entries.Lookup(&key, &e)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("address %s is not in map endpoints", a)
		}
		if err != nil {
			return fmt.Errorf("read %s from map endpoints: %w", a, err)
		}
		if err := w.compare(e, t.tagOf(a)); err != nil {
			return fmt.Errorf("address %s in map endpoints %w", a, err)
		}
	}
	return nil
}
