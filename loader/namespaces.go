package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// namespaceTable keeps the map namespaces. It is not safe for concurrent use.
//
// A container may have several interfaces; its namespace is in the map while one of them is attached.
type namespaceTable struct {
	entries *ebpf.Map
	byName  map[string]uint64            // cookie by the interface's name
	users   map[uint64]map[string]uint32 // endpoint ids by interface name, by cookie
}

func newNamespaceTable(entries *ebpf.Map) *namespaceTable {
	return &namespaceTable{entries: entries, byName: map[string]uint64{}, users: map[uint64]map[string]uint32{}}
}

// put enters the namespace of an attached interface. Cookie 0 says nothing new: what is known stays.
func (t *namespaceTable) put(name string, cookie uint64, id uint32) error {
	if cookie == 0 || t.byName[name] == cookie && t.users[cookie][name] == id {
		return nil
	}
	if err := t.remove(name); err != nil { // it was another namespace's
		return err
	}
	if len(t.users[cookie]) == 0 {
		if err := t.store(cookie, id); err != nil {
			return err
		}
	}
	t.add(name, cookie, id)
	return nil
}

func (t *namespaceTable) add(name string, cookie uint64, id uint32) {
	if t.users[cookie] == nil {
		t.users[cookie] = map[string]uint32{}
	}
	t.byName[name], t.users[cookie][name] = cookie, id
}

// remove forgets an interface, and its namespace with the last of them. One that is not there is no
// error.
func (t *namespaceTable) remove(name string) error {
	cookie, known := t.byName[name]
	if !known {
		return nil
	}
	users := t.users[cookie]
	var err error
	if len(users) == 1 {
		err = t.delete(cookie)
	} else {
		for other, id := range users {
			if other != name {
				err = t.store(cookie, id)
				break
			}
		}
	}
	if err != nil {
		return err
	}
	delete(t.byName, name)
	if delete(users, name); len(users) == 0 {
		delete(t.users, cookie)
	}
	return nil
}

func (t *namespaceTable) store(cookie uint64, id uint32) error {
	err := t.entries.Put(cookie, namespace{Endpoint: id})
	if errors.Is(err, unix.E2BIG) {
		err = fmt.Errorf("all %d entries are in use: %w", t.entries.MaxEntries(), ErrFull)
	}
	if err != nil {
		return fmt.Errorf("write namespace %d to map namespaces: %w", cookie, err)
	}
	return nil
}

func (t *namespaceTable) delete(cookie uint64) error {
	if err := t.entries.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete namespace %d from map namespaces: %w", cookie, err)
	}
	return nil
}

// verify says what of an interface's namespace is not as put left it. Cookie 0: it may be any.
func (t *namespaceTable) verify(name string, cookie uint64) error {
	have, known := t.byName[name]
	if cookie == 0 {
		cookie = have
	}
	switch {
	case have != cookie:
		return fmt.Errorf("network namespace %d is attached as %d", cookie, have)
	case !known:
		return nil
	}
	var v namespace
	err := t.entries.Lookup(cookie, &v)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("network namespace %d is not in map namespaces", cookie)
	}
	if err != nil {
		return fmt.Errorf("read namespace %d from map namespaces: %w", cookie, err)
	}
	if !t.leads(cookie, v.Endpoint) {
		return fmt.Errorf("network namespace %d leads to endpoint %d, which is not in it", cookie, v.Endpoint)
	}
	return nil
}

// leads says whether a cookie's entry may name this endpoint.
func (t *namespaceTable) leads(cookie uint64, id uint32) bool {
	for _, user := range t.users[cookie] {
		if user == id {
			return true
		}
	}
	return false
}

// restore rebuilds the table from what a predecessor left. Entries of endpoints that are gone are
// deleted. nameOf tells an endpoint's interface.
func (t *namespaceTable) restore(nameOf func(id uint32) (string, bool)) error {
	stale := []uint64{}
	err := eachOf(t.entries, func(cookie uint64, v namespace) error {
		if name, there := nameOf(v.Endpoint); there && t.byName[name] == 0 {
			t.add(name, cookie, v.Endpoint)
		} else {
			stale = append(stale, cookie)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read map namespaces: %w", err)
	}
	for _, cookie := range stale {
		if err := t.delete(cookie); err != nil {
			return err
		}
	}
	return nil
}

// restoreNamespaces reads back which namespaces are containers'.
func (l *Loader) restoreNamespaces() error {
	l.namespaces = newNamespaceTable(l.maps.get(sockMapNamespaces))
	return l.namespaces.restore(func(id uint32) (string, bool) {
		w := l.endpoints.byID[id]
		if w == nil {
			return "", false
		}
		return w.Name, true
	})
}

// checkNamespaces compares map namespaces with what is attached.
func (l *Loader) checkNamespaces(d *differences) error {
	t := l.namespaces
	seen := map[uint64]bool{}
	err := eachOf(t.entries, func(cookie uint64, v namespace) error {
		seen[cookie] = true
		if !t.leads(cookie, v.Endpoint) {
			d.add(fmt.Sprintf("network namespace %d", cookie),
				"its entry in map namespaces leads to endpoint %d, which is not in it", v.Endpoint)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read map namespaces: %w", err)
	}
	for name, cookie := range t.byName {
		if !seen[cookie] {
			d.add("interface "+name, "its network namespace %d is not in map namespaces", cookie)
		}
	}
	return nil
}
