package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry/api"
)

// Status implements the API's Agent.
func (a *agent) Status(ctx context.Context) api.Status {
	s := api.Status{
		Node:     a.node.Name,
		Version:  version,
		Kernel:   kernel(),
		Attach:   string(a.loader.AttachMode()),
		Revision: a.loader.Revision(),
		Conditions: []api.Condition{
			condition("registry", a.store.Health(ctx)),
			condition("maps", a.synced(ctx)),
			condition("isolation", a.loader.Isolated()),
			a.wired(),
		},
		Ready: true,
	}
	for _, c := range s.Conditions {
		s.Ready = s.Ready && c.OK
	}
	// Told, but no reason to keep a node from work: a namespace that cannot be entered is as a rule not
	// of ours, and a connection to a backend that is gone is reset at its next packet all the same.
	s.Conditions = append(s.Conditions, condition("sockets", a.loader.Swept()), condition("addresses", a.own.check(ctx)), a.leases())
	s.Conditions = append(s.Conditions, a.dnsCondition()...)
	s.Conditions = append(s.Conditions, a.peersCondition()...)
	s.Counts = a.counts()
	maps, err := a.loader.Maps()
	if err != nil {
		a.log.Warn("read the maps' fill", "error", err)
	}
	for _, m := range maps {
		s.Maps = append(s.Maps, api.Map{Name: m.Name, Entries: m.Entries, Limit: m.Limit, Bytes: m.Bytes})
	}
	s.Pools = a.pools(ctx)
	return s
}

func condition(name string, err error) api.Condition {
	if err != nil {
		return api.Condition{Name: name, Message: strings.ReplaceAll(err.Error(), "\n", "; ")} // of several joined
	}
	return api.Condition{Name: name, OK: true}
}

// synced tells whether the maps reflect the registry.
func (a *agent) synced(ctx context.Context) error {
	revision := a.loader.Revision()
	if revision == 0 {
		return errors.New("the registry has not told its contents yet")
	}
	return a.loader.Wait(ctx, revision)
}

// wired tells whether ADD would work.
func (a *agent) wired() api.Condition {
	if !a.settled.Load() {
		return condition("containers", errors.New("what happened while the agent was away is being settled"))
	}
	return condition("containers", nil)
}

// maxHeld is how many services are named of which lapsed instances are held.
const maxHeld = 5

// leases remarks on instances that are kept though they do not renew their leases.
func (a *agent) leases() api.Condition {
	c := condition("leases", nil)
	held := a.store.Lapsed()
	var services []string
	for _, h := range held[:min(len(held), maxHeld)] {
		services = append(services, fmt.Sprintf("%d of %d of %s", h.Lapsed, h.Instances, h.Service))
	}
	if len(held) > maxHeld {
		services = append(services, fmt.Sprintf("and of %d more services", len(held)-maxHeld))
	}
	if len(held) > 0 {
		c.Message = fmt.Sprintf("instances that do not renew their leases are kept, and go one part after the other (registry.expiry): %s", strings.Join(services, ", "))
	}
	return c
}

func (a *agent) counts() api.Counts {
	n := a.catalog.Counts()
	return api.Counts{
		Services: n.Services, Backends: n.Backends, Draining: a.loader.Draining(), Endpoints: n.Endpoints, Containers: len(a.loader.Interfaces()),
		Policies: len(a.catalog.Policies()), Namespaces: len(a.catalog.Namespaces()),
	}
}

func (a *agent) pools(ctx context.Context) []api.Pool {
	var pools []api.Pool
	for _, u := range a.cni.Usage() {
		pools = append(pools, api.Pool{Use: "containers", CIDR: u.Prefix, Used: u.Used, Size: u.Limit})
	}
	services, err := a.store.Pools(ctx)
	if err != nil {
		a.log.Warn("read the use of the services' ranges", "error", err)
	}
	for _, u := range services {
		pools = append(pools, api.Pool{Use: "services", CIDR: u.CIDR, Used: uint64(u.Used), Size: u.Size})
	}
	return pools
}

// Check implements the API's Agent.
func (a *agent) Check(context.Context) (api.CheckResult, error) {
	counts := a.counts()
	r := api.CheckResult{Services: counts.Services, Backends: counts.Backends, Containers: counts.Containers}
	differences, err := a.loader.Check()
	if err != nil {
		return r, fmt.Errorf("check: %w", err)
	}
	for _, d := range differences {
		r.Differences = append(r.Differences, api.Difference(d))
	}
	return r, nil
}

// WaitSynced implements the API's Agent.
func (a *agent) WaitSynced(ctx context.Context, revision int64) error {
	return a.loader.Wait(ctx, revision)
}

// settledFor waits for a revision, and takes maps that are full for a success: what found no room is
// told by status and metrics, and must not keep containers from coming and going.
func settledFor(ctx context.Context, l *loader.Loader, revision int64) error {
	if err := l.Wait(ctx, revision); err != nil && !errors.Is(err, loader.ErrIncomplete) {
		return err
	}
	return nil
}

// kernel returns what uname -r prints.
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
