package main

import (
	"net/http"

	"github.com/sluice-net/sluice/registry/api"
	apiserver "github.com/sluice-net/sluice/registry/api/server"
)

// apiHandler answers all paths below /v1/. Streams end when stopping is closed: they would outlast the patience
// for requests under way.
func (a *agent) apiHandler(stopping <-chan struct{}) http.Handler {
	return apiserver.New(apiserver.Options{
		Store:     a.store,
		Catalog:   a.catalog,
		Agent:     a,
		Version:   api.Version{Version: version, Node: a.node.Name},
		View:      a.view,
		Registrar: a.store,
		Keeper:    keeper{a.store, a.config.Paths.State},
		Guard:     a.guard,
		Observer:  observer{a.loader}, Stopping: stopping,
		Logger: a.log.With("part", "api"),
	})
}
