package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// check compares the kernel, the agent's record and the result of ADD with each other, and reports
// every difference at once.
func (p *Plugin) check(args *skel.CmdArgs) error {
	conf, err := parseConfig(args.StdinData, args.Args)
	if err != nil {
		return err
	}
	previous, err := parsePrevResult(conf)
	if err != nil {
		return err
	}
	ns, err := openNetns(args.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	client := NewClient(conf.socket)
	defer client.Close()
	id := AttachmentID{ContainerID: args.ContainerID, IfName: args.IfName}
	reply, err := client.Check(context.Background(), CheckRequest{AttachmentID: id})
	if err != nil {
		return tryAgain(err)
	}
	problems := append(reply.Problems, checkResult(previous, args, reply)...)
	inside, err := checkContainer(ns, args.IfName, reply)
	if err != nil {
		return err
	}
	if problems = append(problems, inside...); len(problems) > 0 {
		return types.NewError(CodeCheckFailed, fmt.Sprintf("check of %s failed", id), strings.Join(problems, "; "))
	}
	return nil
}

func parsePrevResult(conf *config) (*current.Result, error) {
	if len(conf.prevResult) == 0 {
		return nil, configError("prevResult", "missing: CHECK compares with it")
	}
	// The result's own version may be left out, since it is the configuration's.
	var fields map[string]json.RawMessage
	if err := decode("prevResult", conf.prevResult, &fields); err != nil {
		return nil, err
	}
	result, err := create.Create(conf.cniVersion, conf.prevResult)
	if _, ok := fields["cniVersion"]; !ok {
		fields["cniVersion"], _ = json.Marshal(conf.cniVersion)
		raw, _ := json.Marshal(fields)
		result, err = create.Create(conf.cniVersion, raw)
	}
	if err != nil {
		return nil, configError("prevResult", "%v", err)
	}
	converted, err := current.NewResultFromResult(result)
	if err != nil {
		return nil, configError("prevResult", "%v", err)
	}
	return converted, nil
}

// checkResult compares what ADD returned, and plugins behind it may have added to, with the record.
func checkResult(previous *current.Result, args *skel.CmdArgs, want CheckReply) []string {
	var problems []string
	index := slices.IndexFunc(previous.Interfaces, func(i *current.Interface) bool {
		return i.Name == args.IfName && i.Sandbox != ""
	})
	if index < 0 {
		return []string{fmt.Sprintf("prevResult names no interface %s", args.IfName)}
	}
	if mac := previous.Interfaces[index].Mac; mac != "" && !strings.EqualFold(mac, want.MAC) {
		problems = append(problems, fmt.Sprintf("prevResult has MAC %s, the record %s", mac, want.MAC))
	}
	for _, ip := range previous.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if ip.Interface == nil || *ip.Interface != index || !ok {
			continue
		}
		if !slices.Contains(want.Addresses, addr.Unmap()) {
			problems = append(problems, fmt.Sprintf("prevResult has address %s, the record has not", addr.Unmap()))
		}
	}
	for _, a := range want.Addresses {
		if !slices.ContainsFunc(previous.IPs, func(ip *current.IPConfig) bool { return ip.Address.IP.Equal(a.AsSlice()) }) {
			problems = append(problems, fmt.Sprintf("the record has address %s, prevResult has not", a))
		}
	}
	return problems
}

// checkContainer compares the interface in the container with the record. What plugins behind this
// one may have added is passed by.
func checkContainer(ns *netns, ifName string, want CheckReply) (problems []string, err error) {
	found := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	err = ns.do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		defer h.Close()
		link, err := h.LinkByName(ifName)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			found("interface %s is missing in the container", ifName)
			return nil
		}
		if err != nil {
			return fmt.Errorf("find interface %s in the container: %w", ifName, err)
		}
		attrs := link.Attrs()
		if attrs.Flags&net.FlagUp == 0 {
			found("interface %s is down in the container", ifName)
		}
		if attrs.HardwareAddr.String() != want.MAC {
			found("interface %s has MAC %s instead of %s", ifName, attrs.HardwareAddr, want.MAC)
		}
		if attrs.MTU != want.MTU {
			found("interface %s has MTU %d instead of %d", ifName, attrs.MTU, want.MTU)
		}
		addrs, err := Dump(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("list addresses in the container: %w", err)
		}
		routes, err := Dump(func() ([]netlink.Route, error) { return h.RouteList(link, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("list routes in the container: %w", err)
		}
		for _, a := range want.Addresses {
			if !slices.ContainsFunc(addrs, func(x netlink.Addr) bool { return x.IPNet.String() == hostNet(a).String() }) {
				found("address %s is missing in the container", a)
			}
			for _, r := range routesFor(a) {
				if !slices.ContainsFunc(routes, func(x netlink.Route) bool { return sameRoute(x, r) }) {
					found("route to %s is missing in the container", r.Dst)
				}
			}
		}
		return nil
	})
	return problems, err
}

func sameRoute(x, want netlink.Route) bool {
	dst := x.Dst
	if dst == nil {
		dst = &net.IPNet{IP: make(net.IP, len(want.Dst.IP)), Mask: net.CIDRMask(0, len(want.Dst.IP)*8)}
	}
	return dst.String() == want.Dst.String() && (want.Gw == nil || x.Gw.Equal(want.Gw))
}
