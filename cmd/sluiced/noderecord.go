package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// storePatience bounds one attempt to write the node.
const storePatience = 5 * time.Second

// nodeRecord keeps the registry's object of this node true: node ports are served at the addresses that stand there.
type nodeRecord struct {
	put  func(context.Context, registry.Node) (int64, error)
	find func() ([]netip.Addr, error) // the addresses that there are now; nil: they are configured
	// check says what is wrong with the addresses, once the registry has them.
	check func(context.Context) error
	log   *slog.Logger
	woke  chan struct{}

	mu     sync.Mutex
	node   registry.Node
	stored bool   // the registry has node as it is
	last   string // error, logged once
	wrong  string // what check said last, logged once
}

func newNodeRecord(n registry.Node, configured bool, log *slog.Logger) *nodeRecord {
	r := &nodeRecord{node: n, log: log, woke: make(chan struct{}, 1), check: func(context.Context) error { return nil }}
	if !configured {
		r.find = nodeAddresses
	}
	return r
}

// wake has run look at the addresses. It never blocks.
func (r *nodeRecord) wake() {
	select {
	case r.woke <- struct{}{}:
	default:
	}
}

// run writes the node whenever its addresses have changed since it was last written, until ctx ends. What fails is
// tried again at the next call of wake, of which the address watch makes one each addressInterval.
func (r *nodeRecord) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.woke:
		}
		attempt, cancel := context.WithTimeout(ctx, storePatience)
		_, err := r.update(attempt)
		wrong := r.check(attempt)
		cancel()
		if ctx.Err() == nil {
			noteOnce(r.log, "keep the node's addresses in the registry", &r.last, err)
			noteOnce(r.log, "the node's addresses are not its own alone", &r.wrong, wrong)
		}
	}
}

// write stores the node with the addresses that it has now, and returns the revision from which on it is known.
func (r *nodeRecord) write(ctx context.Context) (int64, error) {
	r.mu.Lock()
	r.stored = false
	r.mu.Unlock()
	return r.update(ctx)
}

// update writes the node if the registry does not have it as it is. The revision is 0 if nothing was written.
func (r *nodeRecord) update(ctx context.Context) (rev int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.find != nil {
		addrs, err := r.find()
		if err != nil {
			return 0, err
		}
		if !slices.Equal(addrs, r.node.Addresses) {
			r.node.Addresses, r.stored = addrs, false
		}
	}
	if r.stored {
		return 0, nil
	}
	if rev, err = r.put(ctx, r.node); err != nil {
		return 0, fmt.Errorf("write the node's addresses: %w", err)
	}
	r.stored = true
	return rev, nil
}
