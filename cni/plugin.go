package cni

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// Versions returns the versions of the specification that the plugin speaks.
func Versions() version.PluginInfo { return version.PluginSupports("0.4.0", "1.0.0", "1.1.0") }

// Plugin carries out the verbs.
type Plugin struct {
	// Out is where results go, Log where what is wrong but does not fail a verb goes.
	Out, Log io.Writer
	// fault, when set, is asked before each step of ADD and fails it with what it returns.
	fault func(step string) error
}

// Funcs returns the verbs in the form that skel calls.
func (p *Plugin) Funcs() skel.CNIFuncs {
	return skel.CNIFuncs{Add: p.add, Del: p.del, Check: p.check, GC: p.gc, Status: p.status}
}

// add reserves, wires and commits. When a step fails, those before it are undone.
func (p *Plugin) add(args *skel.CmdArgs) (err error) {
	conf, err := parseConfig(args.StdinData, args.Args)
	if err != nil {
		return err
	}
	if len(conf.prevResult) > 0 {
		return configError("prevResult", "sluice-cni makes the interface: it must come first in the list")
	}
	request := conf.addRequest(args)
	if err := request.Validate(); err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	ns, err := openNetns(args.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()

	ctx := context.Background()
	client := NewClient(conf.socket)
	defer client.Close()
	var reply AddReply
	err = p.step("reserve", func() error {
		reply, err = client.Add(ctx, request)
		return err
	})
	if err != nil {
		return tryAgain(err)
	}
	created := false
	defer func() {
		if err != nil {
			err = errors.Join(tryAgain(err), p.undo(ctx, client, request.AttachmentID, reply, created))
		}
	}()
	if err := p.step("create", func() error { return createVeth(ns, args.IfName, reply) }); err != nil {
		return err
	}
	created = true
	commit := CommitRequest{AttachmentID: request.AttachmentID, Reservation: reply.Reservation}
	err = p.step("configure", func() error {
		commit.NetnsCookie, err = configure(ns, args.IfName, reply.Addresses)
		return err
	})
	if err != nil {
		return err
	}
	if err := p.step("attach", func() error { return client.Attach(ctx, commit) }); err != nil {
		return err
	}
	// Before others learn of the container: a call that came now would be lost.
	if err := p.step("await", func() error { return awaitReady(ns, args.IfName, reply.Addresses) }); err != nil {
		return err
	}
	if err := p.step("commit", func() error { return client.Commit(ctx, commit) }); err != nil {
		return err
	}
	return p.step("print", func() error { return p.printResult(conf, args, reply) })
}

func (p *Plugin) step(name string, do func() error) error {
	if p.fault != nil {
		if err := p.fault(name); err != nil {
			return err
		}
	}
	return do()
}

// undo takes back what an ADD made. What the agent cannot be told is spooled for it.
func (p *Plugin) undo(ctx context.Context, client *Client, id AttachmentID, reply AddReply, created bool) error {
	err := client.Del(ctx, DelRequest{AttachmentID: id, Reservation: reply.Reservation})
	if err == nil {
		return nil
	}
	fmt.Fprintf(p.Log, "undo ADD of %s without the agent: %v\n", id, err)
	if created {
		if err := removeVeth(reply.HostInterface); err != nil {
			return err
		}
	}
	return Spool(SpoolDir(client.socket), id)
}

// del succeeds whatever is left of the interface. An agent that cannot be reached finds the request
// in its spool.
func (p *Plugin) del(args *skel.CmdArgs) error {
	id := AttachmentID{ContainerID: args.ContainerID, IfName: args.IfName}
	if id.Validate() != nil {
		return nil // ADD would have refused it
	}
	client := NewClient(parseTarget(args.StdinData))
	defer client.Close()
	err := client.Del(context.Background(), DelRequest{AttachmentID: id})
	if err == nil {
		return nil
	}
	fmt.Fprintf(p.Log, "DEL of %s without the agent: %v\n", id, err)
	// Both ends go with the host's, whose name is known, so the container's namespace is not needed.
	return errors.Join(removeVeth(HostInterface(id)), Spool(SpoolDir(client.socket), id))
}

// gc removes the interfaces of this network that the runtime does not name.
func (p *Plugin) gc(args *skel.CmdArgs) error {
	conf, err := parseConfig(args.StdinData, "")
	if err != nil {
		return err
	}
	if conf.valid == nil {
		return configError("cni.dev/valid-attachments", "missing: GC without it would remove every attachment")
	}
	client := NewClient(conf.socket)
	defer client.Close()
	return tryAgain(client.GC(context.Background(), GCRequest{Network: conf.network, Valid: conf.valid}))
}

// status succeeds when an ADD would.
func (p *Plugin) status(args *skel.CmdArgs) error {
	conf, err := parseConfig(args.StdinData, "")
	if err != nil {
		return err
	}
	client := NewClient(conf.socket)
	defer client.Close()
	err = client.Status(context.Background())
	if errors.Is(err, ErrUnavailable) {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "containers that are wired already are served by the kernel")
	}
	return err
}

// tryAgain gives a call that found no agent the code by which a runtime repeats it.
func tryAgain(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	return err
}

func (c *config) addRequest(args *skel.CmdArgs) AddRequest {
	return AddRequest{
		AttachmentID: AttachmentID{ContainerID: args.ContainerID, IfName: args.IfName},
		Netns:        args.Netns,
		Network:      c.network,
		Name:         c.name,
		Labels:       c.labels,
		Ports:        c.ports,
		IPs:          c.ips,
		MAC:          c.mac,
		MTU:          c.mtu,
	}
}

func (p *Plugin) printResult(conf *config, args *skel.CmdArgs, r AddReply) error {
	result := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			{Name: r.HostInterface, Mac: GatewayMAC},
			{Name: args.IfName, Mac: r.MAC, Sandbox: args.Netns},
		},
		DNS: conf.resolver(r.DNS),
	}
	if conf.cniVersion == current.ImplementedSpecVersion { // older ones do not know the key
		result.Interfaces[0].Mtu, result.Interfaces[1].Mtu = r.MTU, r.MTU
	}
	for _, a := range r.Addresses {
		gateway := gatewayOf(a).AsSlice()
		result.IPs = append(result.IPs, &current.IPConfig{
			Interface: current.Int(1), Address: *hostNet(a), Gateway: gateway,
		})
		result.Routes = append(result.Routes, &types.Route{Dst: *anyNet(a), GW: gateway})
	}
	versioned, err := result.GetAsVersion(conf.cniVersion)
	if err == nil {
		err = versioned.PrintTo(p.Out)
	}
	if err != nil {
		return types.NewError(types.ErrIOFailure, fmt.Sprintf("print result: %v", err), "")
	}
	return nil
}
