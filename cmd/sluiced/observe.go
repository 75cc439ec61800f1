package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	apiserver "github.com/sluice-net/sluice/registry/api/server"
	"github.com/sluice-net/sluice/registry/etcd"
)

// observer is the loader as the API wants it, with what becomes of leases.
type observer struct {
	loader *loader.Loader
	store  *etcd.Store
}

func (o observer) Events(filter registry.EventFilter, watch []registry.EndpointID) (apiserver.EventStream, error) {
	s, err := o.loader.Events(filter, watch...)
	if errors.Is(err, loader.ErrStreams) {
		return nil, &api.Error{Status: http.StatusServiceUnavailable, Message: fmt.Sprintf("%s: end another \"sluice monitor\"", err)}
	}
	if err != nil {
		return nil, err
	}
	return withLeases(s, func() apiserver.EventStream { return o.store.News() }, filter), nil
}

func (o observer) Why(p registry.Probe) (registry.TraceFlow, error) { return o.loader.Why(p) }
