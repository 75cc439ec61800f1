package main

import (
	"context"
	"io"

	cniserver "github.com/sluice-net/sluice/cni/server"
	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/etcd"
)

// dataplane is the loader as the CNI server wants it.
type dataplane struct{ loader *loader.Loader }

func (d dataplane) Attach(i cniserver.Interface) error { return d.loader.Attach(loader.Interface(i)) }

func (d dataplane) DetachInterface(name string) error { return d.loader.DetachInterface(name) }

func (d dataplane) VerifyInterface(i cniserver.Interface) error {
	return d.loader.VerifyInterface(loader.Interface(i))
}

func (d dataplane) Interfaces() []cniserver.Interface {
	var out []cniserver.Interface
	for _, i := range d.loader.Interfaces() {
		out = append(out, cniserver.Interface(i))
	}
	return out
}

// endpoints is the registry as the CNI server wants it: a change has happened when this node's maps
// reflect it.
type endpoints struct {
	store  *etcd.Store
	loader *loader.Loader
	node   string
}

func (e endpoints) PutEndpoint(ctx context.Context, endpoint registry.Endpoint) error {
	rev, err := e.store.PutEndpoint(ctx, endpoint)
	if err != nil {
		return err
	}
	return settledFor(ctx, e.loader, rev)
}

func (e endpoints) DeleteEndpoint(ctx context.Context, id registry.EndpointID) error {
	rev, err := e.store.DeleteEndpoint(ctx, id)
	if err != nil {
		return err
	}
	return settledFor(ctx, e.loader, rev)
}

func (e endpoints) Endpoints(ctx context.Context) ([]registry.Endpoint, error) {
	return e.store.Endpoints(ctx, e.node)
}

func (e endpoints) Health(ctx context.Context) error { return e.store.Health(ctx) }

// keeper gives the API the store, with a place for what it reads.
type keeper struct {
	*etcd.Store
	dir string
}

// Restore implements the API's Keeper.
func (k keeper) Restore(ctx context.Context, backup io.Reader) (registry.Restored, error) {
	return k.Store.Restore(ctx, k.dir, backup)
}
