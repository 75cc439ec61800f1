package server

import (
	"context"
	"sync"
)

// locks is a set of locks by name, each of which lives as long as someone holds it or waits for it.
type locks struct {
	mu    sync.Mutex
	names map[string]*nameLock
}

type nameLock struct {
	held  chan struct{} // holds one token while the lock is held
	users int           // guarded by locks.mu
}

// lock waits for the lock of a name, as long as ctx lasts. The returned function gives it back.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	if l.names == nil {
		l.names = map[string]*nameLock{}
	}
	n := l.names[name]
	if n == nil {
		n = &nameLock{held: make(chan struct{}, 1)}
		l.names[name] = n
	}
	n.users++
	l.mu.Unlock()
	select {
	case n.held <- struct{}{}:
		return func() { <-n.held; l.leave(name, n) }, nil
	case <-ctx.Done():
		l.leave(name, n)
		return nil, ctx.Err()
	}
}

func (l *locks) leave(name string, n *nameLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.users--; n.users == 0 {
		delete(l.names, name)
	}
}
