package loader

import (
	"errors"
	"fmt"
)

// Attach makes the programs serve a container's interface: from now on what it sends is translated,
// and what is for it is delivered to it. Calling it again, also with other addresses, is fine. On
// error nothing of a new interface stays attached.
func (l *Loader) Attach(i Interface) (err error) {
	i, err = i.canonical()
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	if l.closed {
		return errClosed
	}
	if err := l.endpoints.conflict(i); err != nil {
		return fmt.Errorf("attach %s: %w", i.Name, err)
	}
	known := l.endpoints.byName[i.Name]
	was := l.isolation.attachment(i.Name)
	// Its policies come before everything: its first packet is to meet them.
	l.isolation.attach(i)
	defer func() {
		if err == nil {
			return
		}
		if known == nil {
			err = errors.Join(err, l.endpoints.remove(i.Name), l.hooks.detach(i.Name, i.Index))
			l.isolation.detach(i)
		} else {
			l.isolation.reattach(known.Interface, i, was)
		}
		err = fmt.Errorf("attach %s: %w", i.Name, err)
	}()
	// Programs come first: entries without programs would deliver packets whose answers nobody
	// translates back.
	if err := l.hooks.attach(i.Name, i.Index, l.programs); err != nil {
		return err
	}
	if err := l.endpoints.put(i); err != nil {
		return err
	}
	// Last: from here on socket programs leave to from_pod what it alone can tell apart.
	if err := l.namespaces.put(i.Name, i.NetnsCookie, l.endpoints.byName[i.Name].id); err != nil {
		if known != nil {
			err = errors.Join(err, l.endpoints.put(known.Interface))
		}
		return err
	}
	l.isolation.attached(i)
	return nil
}

// DetachInterface undoes Attach. An interface that is gone, or was never attached, is no error.
func (l *Loader) DetachInterface(name string) error {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	if l.closed {
		return errClosed
	}
	index := 0
	w := l.endpoints.byName[name]
	if w != nil {
		index = w.Index
	}
	// First of all: nothing is left to programs that are about to go.
	if err := l.namespaces.remove(name); err != nil {
		return fmt.Errorf("detach %s: %w", name, err)
	}
	// Entries go first: a container whose programs went first could send what it likes.
	if err := l.endpoints.remove(name); err != nil {
		return fmt.Errorf("detach %s: %w", name, err)
	}
	if w != nil {
		l.isolation.detach(w.Interface)
		l.sweeper.gone(w.Addrs)
	}
	if err := l.hooks.detach(name, index); err != nil {
		return fmt.Errorf("detach %s: %w", name, err)
	}
	return nil
}

// Interfaces returns what is attached, by name; after a restart also what predecessors attached.
func (l *Loader) Interfaces() []Interface {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	list := l.endpoints.list()
	for i := range list {
		list[i].NetnsCookie = l.namespaces.byName[list[i].Name]
	}
	return list
}

// VerifyInterface returns nil when programs and maps are as Attach left them for the interface.
func (l *Loader) VerifyInterface(i Interface) error {
	i, err := i.canonical()
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	if l.closed {
		return errClosed
	}
	if err := l.endpoints.verify(i); err != nil {
		return fmt.Errorf("verify %s: %w", i.Name, err)
	}
	if err := l.namespaces.verify(i.Name, i.NetnsCookie); err != nil {
		return fmt.Errorf("verify %s: %w", i.Name, err)
	}
	if err := l.hooks.verify(i.Name, i.Index, l.programs); err != nil {
		return fmt.Errorf("verify %s: %w", i.Name, err)
	}
	return nil
}
