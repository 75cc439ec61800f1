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
	known := l.endpoints.byName[i.Name] != nil
	defer func() {
		if err == nil {
			return
		}
		if !known {
			err = errors.Join(err, l.hooks.detach(i.Name, i.Index))
		}
		err = fmt.Errorf("attach %s: %w", i.Name, err)
	}()
	// Programs come first: entries without programs would deliver packets whose answers nobody
	// translates back.
	if err := l.hooks.attach(i.Name, i.Index, l.programs); err != nil {
		return err
	}
	return l.endpoints.put(i)
}

// DetachInterface undoes Attach. An interface that is gone, or was never attached, is no error.
func (l *Loader) DetachInterface(name string) error {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	if l.closed {
		return errClosed
	}
	index := 0
	if w := l.endpoints.byName[name]; w != nil {
		index = w.Index
	}
	// Entries go first: a container whose programs went first could send what it likes.
	if err := l.endpoints.remove(name); err != nil {
		return fmt.Errorf("detach %s: %w", name, err)
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
	return l.endpoints.list()
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
	if err := l.hooks.verify(i.Name, i.Index, l.programs); err != nil {
		return fmt.Errorf("verify %s: %w", i.Name, err)
	}
	return nil
}
