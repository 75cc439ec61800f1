package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/registry"
)

func labels(pairs ...string) map[string]any {
	var list []map[string]string
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, map[string]string{"key": pairs[i], "value": pairs[i+1]})
	}
	return map[string]any{"labels": list}
}

func args(cni map[string]any) map[string]any {
	return map[string]any{"args": map[string]any{"cni": cni}}
}

func TestAddInEveryVersion(t *testing.T) {
	r := newRig(t)
	empty := r.state()
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			c := r.container("c" + version)
			out, refusal := r.run(c, call{verb: "ADD", version: version})
			if refusal != nil {
				t.Fatal(refusal)
			}
			var result struct {
				CNIVersion string `json:"cniVersion"`
				Interfaces []struct {
					Name, Mac, Sandbox string
					Mtu                int
				}
				IPs []struct {
					Version, Address, Gateway string
					Interface                 int
				}
				Routes []struct{ Dst, GW string }
			}
			if err := json.Unmarshal(out, &result); err != nil {
				t.Fatal(err)
			}
			if result.CNIVersion != version || len(result.Interfaces) != 2 || len(result.IPs) != 2 || len(result.Routes) != 2 {
				t.Fatalf("result %s", out)
			}
			if got := result.Interfaces[1]; got.Name != "eth0" || got.Sandbox != c.path || (got.Mtu == 1500) != (version == "1.1.0") {
				t.Errorf("interface %+v", got)
			}
			if v := result.IPs[1].Version; (v == "6") != (version == "0.4.0") || result.IPs[1].Gateway != cni.GatewayV6 {
				t.Errorf("address %+v", result.IPs[1])
			}
			var previous any
			if err := json.Unmarshal(out, &previous); err != nil {
				t.Fatal(err)
			}
			withResult := map[string]any{"prevResult": previous}
			r.must(c, call{verb: "CHECK", version: version, conf: withResult})
			r.must(c, call{verb: "DEL", version: version, conf: withResult})
			r.must(c, call{verb: "DEL", version: version, netns: "-"})
		})
	}
	r.unchanged(empty)
}

// What the kernel has after an ADD, on both sides.
func TestAddWires(t *testing.T) {
	r := newRig(t)
	c := r.container("web")
	conf := args(map[string]any{
		"labels": labels("app", "web")["labels"],
		"ports":  []map[string]any{{"name": "http", "port": 8080}},
		"ips":    []string{"10.244.1.77"},
	})
	conf["mtu"] = 1400
	result := r.add(c, func(in *call) {
		in.conf = conf
		in.args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;LABELS=tier:front;MAC=0e:11:22:33:44:55"
	})
	if result.IPs[0].Address.String() != "10.244.1.77/32" || result.IPs[1].Address.String() != "fd00:10:244:1::2/128" {
		t.Errorf("addresses %v", result.IPs)
	}
	h := c.netlink(t)
	link, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if a := link.Attrs(); a.HardwareAddr.String() != "0e:11:22:33:44:55" || a.MTU != 1400 || a.OperState != netlink.OperUp {
		t.Errorf("container's side: %+v", a)
	}
	addrs, err := h.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.Flags&unix.IFA_F_TENTATIVE != 0 && !a.IP.IsLinkLocalUnicast() {
			t.Errorf("address %s is not usable yet", a.IP)
		}
	}
	host, err := netlink.LinkByName(cni.HostInterface(cni.AttachmentID{ContainerID: "web", IfName: "eth0"}))
	if err != nil {
		t.Fatal(err)
	}
	if a := host.Attrs(); a.HardwareAddr.String() != cni.GatewayMAC || a.MTU != 1400 {
		t.Errorf("host side: %+v", a)
	}
	if addrs, err := netlink.AddrList(host, netlink.FAMILY_ALL); err != nil || len(addrs) != 0 {
		t.Errorf("host side has addresses %v, %v", addrs, err)
	}
	for path, want := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward": "1", "/proc/sys/net/ipv6/conf/all/forwarding": "1",
		"/proc/sys/net/ipv4/conf/" + host.Attrs().Name + "/rp_filter": "0",
	} {
		if got, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	endpoints, err := r.book.Endpoints(t.Context())
	if err != nil || len(endpoints) != 1 {
		t.Fatalf("endpoints %v, %v", endpoints, err)
	}
	e := endpoints[0]
	if e.Name != (registry.Name{Namespace: "shop", Name: "web-1"}) || e.Network != "sluice" || len(e.Labels) != 2 ||
		e.Labels["tier"] != "front" || !slices.Equal(e.Ports, []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}}) {
		t.Errorf("endpoint %+v", e)
	}
	r.must(c, call{verb: "DEL"})
	if _, err := h.LinkByName("eth0"); !errors.As(err, new(netlink.LinkNotFoundError)) {
		t.Errorf("after DEL: %v", err)
	}
}

// The node reaches its container as soon as ADD has returned, since both sides' addresses, routes and
// neighbours are right: a UDP datagram to a closed port comes back as a refusal, over both families.
func TestAddIsReachable(t *testing.T) {
	r := newRig(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"192.0.2.1/32", "2001:db8::1/128"} {
		addr, err := netlink.ParseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrReplace(lo, addr); err != nil {
			t.Fatal(err)
		}
	}
	for local := false; !local && t.Context().Err() == nil; {
		routes, err := netlink.RouteGet(net.ParseIP("2001:db8::1"))
		local = err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
	}
	c := r.container("c")
	result := r.add(c)
	for _, ip := range result.IPs {
		conn, err := net.Dial("udp", net.JoinHostPort(ip.Address.IP.String(), "9"))
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil { // rather than hang
			t.Fatal(err)
		}
		if _, err = conn.Write([]byte("x")); err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s from the node: %v", ip.Address.IP, err)
		}
		conn.Close()
	}
	r.must(c, call{verb: "DEL"})
}

// A runtime that switched IPv6 off for new interfaces gets it on ours, as other plugins do it.
func TestAddTurnsIPv6On(t *testing.T) {
	r := newRig(t)
	c := r.container("quiet")
	if err := inNetns(c.handle, func() error {
		return cni.SetSysctl("1", "net/ipv6/conf/default/disable_ipv6")
	}); err != nil {
		t.Fatal(err)
	}
	result := r.add(c)
	r.must(c, call{verb: "CHECK", conf: map[string]any{"prevResult": result}})
}

func TestBadInputChangesNothing(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Prefixes = prefixes("10.244.1.0/29", "fd00:10:244:1::/64") })
	wired := r.container("wired")
	r.add(wired)
	c := r.container("new")
	before := r.state()
	const invalid, env, bad = types.ErrInvalidNetworkConfig, types.ErrInvalidEnvironmentVariables, types.ErrDecodingFailure
	for name, test := range map[string]struct {
		container *container
		in        call
		code      uint
		words     []string
	}{
		"garbage":               {c, call{verb: "ADD", stdin: "{garbage"}, bad, nil},
		"no version":            {c, call{verb: "ADD", stdin: `{"name":"x","type":"sluice-cni"}`}, 1, nil},
		"wrong version":         {c, call{verb: "ADD", version: "0.3.1"}, 1, nil},
		"future version":        {c, call{verb: "ADD", version: "9.9.9"}, 1, nil},
		"no name":               {c, call{verb: "ADD", stdin: `{"cniVersion":"1.0.0","type":"sluice-cni"}`}, invalid, nil},
		"unknown key":           {c, call{verb: "ADD", conf: map[string]any{"mtuu": 1}}, 2, []string{"mtuu = 1"}},
		"wrong type":            {c, call{verb: "ADD", conf: map[string]any{"mtu": "big"}}, invalid, []string{"mtu: a JSON string"}},
		"bad label":             {c, call{verb: "ADD", conf: args(labels("a b", "c"))}, invalid, []string{"args.cni.labels[0]", "a b"}},
		"first in the list":     {c, call{verb: "ADD", conf: map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0"}}}, invalid, []string{"prevResult"}},
		"unknown argument":      {c, call{verb: "ADD", args: "FOO=BAR"}, env, []string{"FOO"}},
		"no netns":              {c, call{verb: "ADD", netns: "-"}, env, []string{"CNI_NETNS"}},
		"netns not there":       {c, call{verb: "ADD", netns: "/run/netns/none"}, 8, []string{"/run/netns/none"}},
		"netns is a file":       {c, call{verb: "ADD", netns: "/etc/passwd"}, 8, []string{"no namespace"}},
		"netns is the node's":   {c, call{verb: "ADD", netns: "/proc/self/ns/net"}, 8, []string{"node's own"}},
		"no container":          {nil, call{verb: "ADD", netns: c.path}, env, []string{"CNI_CONTAINERID"}},
		"bad container id":      {nil, call{verb: "ADD", netns: c.path, env: []string{"CNI_CONTAINERID=../x", "CNI_IFNAME=eth0"}}, env, nil},
		"long container id":     {nil, call{verb: "ADD", netns: c.path, env: []string{"CNI_CONTAINERID=" + strings.Repeat("x", 300), "CNI_IFNAME=eth0"}}, invalid, []string{"container id"}},
		"bad interface name":    {nil, call{verb: "ADD", netns: c.path, env: []string{"CNI_CONTAINERID=x", "CNI_IFNAME=a/b"}}, env, nil},
		"interface exists":      {nil, call{verb: "ADD", netns: c.path, env: []string{"CNI_CONTAINERID=x", "CNI_IFNAME=lo"}}, cni.CodeAttached, []string{"interface lo already exists"}},
		"twice":                 {wired, call{verb: "ADD"}, cni.CodeAttached, []string{"wired already"}},
		"address out of range":  {c, call{verb: "ADD", args: "IP=10.9.9.9"}, invalid, []string{"10.9.9.9", "not in the node's ranges"}},
		"address of the net":    {c, call{verb: "ADD", args: "IP=10.244.1.7"}, invalid, []string{"10.244.1.7"}},
		"address in use":        {c, call{verb: "ADD", args: "IP=10.244.1.2"}, cni.CodeAddressUsed, []string{"10.244.1.2", "in use"}},
		"second address in use": {c, call{verb: "ADD", args: "IP=10.244.1.4,fd00:10:244:1::2"}, cni.CodeAddressUsed, []string{"fd00:10:244:1::2"}},
		"bad MAC":               {c, call{verb: "ADD", args: "MAC=zz"}, env, []string{"MAC", "zz"}},
		"multicast MAC":         {c, call{verb: "ADD", conf: map[string]any{"runtimeConfig": map[string]any{"mac": "01:00:5e:00:00:01"}}}, invalid, []string{"runtimeConfig.mac"}},
		"port mappings":         {c, call{verb: "ADD", conf: map[string]any{"runtimeConfig": map[string]any{"portMappings": []any{1}}}}, 2, []string{"portmap"}},
		"too much":              {c, call{verb: "ADD", conf: map[string]any{"dns": map[string]any{}, "args": map[string]any{"cni": map[string]any{"labels": manyLabels(200)}}}}, invalid, []string{"200 labels"}},
		"CHECK of none":         {c, call{verb: "CHECK", conf: map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0"}}}, 3, []string{"not wired"}},
		"CHECK without result":  {wired, call{verb: "CHECK"}, invalid, []string{"prevResult"}},
		"GC without a list":     {nil, call{verb: "GC"}, invalid, []string{"cni.dev/valid-attachments"}},
		"GC in 1.0.0":           {nil, call{verb: "GC", version: "1.0.0"}, 1, nil},
		"unknown verb":          {c, call{verb: "FLY"}, env, []string{"FLY"}},
	} {
		t.Run(name, func(t *testing.T) {
			r.within(t)
			r.refuse(test.container, test.in, test.code, test.words...)
			r.unchanged(before)
		})
	}
}

func manyLabels(n int) any {
	var list []any
	for i := range n {
		list = append(list, map[string]string{"key": "k" + strings.Repeat("x", i%60), "value": "v"})
	}
	return list
}

func TestRangeFull(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Prefixes = prefixes("10.244.1.0/30", "fd00:10:244:1::/64") })
	first, second, third := r.container("c1"), r.container("c2"), r.container("c3")
	r.must(nil, call{verb: "STATUS"})
	r.add(first)
	r.add(second)
	before := r.state()
	r.refuse(third, call{verb: "ADD"}, cni.CodeRangeFull, "IPv4", "no free address")
	r.refuse(nil, call{verb: "STATUS"}, types.ErrPluginNotAvailable, "every IPv4 address is taken")
	r.unchanged(before)
	r.must(first, call{verb: "DEL"})
	r.must(nil, call{verb: "STATUS"})
	r.add(third)
}

// A request that is too large or that no plugin would send is refused in bounded memory.
func TestProtocolIsBounded(t *testing.T) {
	r := newRig(t)
	before := r.state()
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", r.socket)
	}}}
	defer client.CloseIdleConnections()
	for name, test := range map[string]struct {
		method, path string
		body         []byte
		status       int
		code         uint
	}{
		"too large": {"POST", cni.PathAdd, bytes.Repeat([]byte(" "), cni.MaxRequest+1), 422, types.ErrDecodingFailure},
		"garbage":   {"POST", cni.PathAdd, []byte("{"), 422, types.ErrDecodingFailure},
		"empty":     {"POST", cni.PathAdd, []byte("{}"), 422, types.ErrInvalidNetworkConfig},
		"no commit": {"POST", cni.PathCommit, []byte(`{"containerID":"c","ifname":"eth0"}`), 422, types.ErrUnknownContainer},
		"version 2": {"POST", "/cni/v2/add", nil, 404, types.ErrPluginNotAvailable},
		"a GET":     {"GET", cni.PathAdd, nil, 404, types.ErrPluginNotAvailable},
	} {
		req, err := http.NewRequest(test.method, "http://agent"+test.path, bytes.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(name, err)
		}
		var e types.Error
		if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || resp.StatusCode != test.status || e.Code != test.code {
			t.Errorf("%s: %s, %+v, %v", name, resp.Status, e, err)
		}
		resp.Body.Close()
	}
	r.unchanged(before)
}

// A container that still lives when it is removed sends nothing past programs that are no longer there.
func TestDelSetsInterfaceDownFirst(t *testing.T) {
	r := newRig(t)
	c := r.container("alive")
	r.add(c)
	asked := 0
	r.plane.detaching = func(name string) {
		asked++
		links, err := hostLinks()
		if err != nil {
			t.Fatal(err)
		}
		if link := links[name]; link == nil || link.Attrs().Flags&net.FlagUp != 0 {
			t.Errorf("%s is %v while its programs go", name, link)
		}
	}
	r.must(c, call{verb: "DEL"})
	if asked != 1 {
		t.Errorf("%d interfaces were detached", asked)
	}
}

func TestDelAlwaysSucceeds(t *testing.T) {
	r := newRig(t)
	empty := r.state()
	for name, del := range map[string]func(c *container){
		"never added": func(c *container) { r.must(c, call{verb: "DEL"}); r.add(c); r.must(c, call{verb: "DEL"}) },
		"twice":       func(c *container) { r.add(c); r.must(c, call{verb: "DEL"}); r.must(c, call{verb: "DEL"}) },
		"no netns":    func(c *container) { r.add(c); r.must(c, call{verb: "DEL", netns: "-"}) },
		"netns gone": func(c *container) {
			r.add(c)
			c.vanish()
			r.must(c, call{verb: "DEL", netns: "/run/netns/gone"})
		},
		"bad configuration": func(c *container) {
			r.add(c)
			r.must(c, call{verb: "DEL", conf: map[string]any{"mtu": "bad", "unknown": 1}, args: "nonsense"})
		},
		"registry down": func(c *container) {
			r.add(c)
			r.book.setFail(errors.New("registry is down"))
			r.must(c, call{verb: "DEL"})
			if _, err := c.netlink(t).LinkByName("eth0"); err == nil {
				t.Error("the interface is still there")
			}
			if used := r.server.Usage()[0].Used; used != 1 {
				t.Errorf("%d addresses used: one must wait for the registry", used)
			}
			r.refuse(nil, call{verb: "STATUS"}, types.ErrLimitedConnectivity, "registry is down")
			r.book.setFail(nil)
			if err := r.server.tidy(t.Context()); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r.within(t)
			del(r.container(strings.ReplaceAll(name, " ", "-")))
			r.unchanged(empty)
		})
	}
}

func TestGC(t *testing.T) {
	r := newRig(t)
	stay, leave, other := r.container("stay"), r.container("leave"), r.container("other")
	r.add(stay)
	want := r.state()
	r.add(leave)
	r.add(other, func(in *call) { in.conf = map[string]any{"name": "elsewhere"} })
	valid := map[string]any{"cni.dev/valid-attachments": []any{map[string]string{"containerID": "stay", "ifname": "eth0"}}}
	leave.vanish()
	r.must(nil, call{verb: "GC", conf: valid})
	if _, err := netlink.LinkByName(cni.HostInterface(cni.AttachmentID{ContainerID: "other", IfName: "eth0"})); err != nil {
		t.Errorf("an attachment of another network is gone: %v", err)
	}
	valid["name"] = "elsewhere"
	r.must(nil, call{verb: "GC", conf: valid})
	r.unchanged(want)
	r.must(nil, call{verb: "GC", conf: map[string]any{"cni.dev/valid-attachments": nil}})
	if u := r.server.Usage()[0].Used; u != 0 {
		t.Errorf("%d addresses are in use", u)
	}
}

func TestCheckFindsWhatIsMissing(t *testing.T) {
	r := newRig(t)
	c := r.container("c")
	result := r.add(c)
	inside := c.netlink(t)
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	id := cni.AttachmentID{ContainerID: "c", IfName: "eth0"}
	host, err := netlink.LinkByName(cni.HostInterface(id))
	if err != nil {
		t.Fatal(err)
	}
	v4 := netip.MustParseAddr("10.244.1.2")
	check := call{verb: "CHECK", conf: map[string]any{"prevResult": result}}
	r.must(c, check)
	endpoint := r.book.endpoints[r.server.endpointID(id)]
	for name, test := range map[string]struct {
		damage func() error
		words  []string
	}{
		"host side down": {func() error { return netlink.LinkSetDown(host) }, []string{"is down", "route to 10.244.1.2"}},
		"MTU":            {func() error { return inside.LinkSetMTU(eth0, 1300) }, []string{"MTU 1300 instead of 1500"}},
		"address": {func() error { return inside.AddrDel(eth0, &netlink.Addr{IPNet: hostNet(v4)}) },
			[]string{"address 10.244.1.2 is missing", "route to 0.0.0.0/0 is missing"}},
		"MAC":       {func() error { return inside.LinkSetHardwareAddr(eth0, net.HardwareAddr{0x0e, 9, 9, 9, 9, 9}) }, []string{"MAC 0e:09:09:09:09:09"}},
		"down":      {func() error { return inside.LinkSetDown(eth0) }, []string{"eth0 is down in the container"}},
		"dataplane": {func() error { return r.plane.DetachInterface(host.Attrs().Name) }, []string{"the dataplane has"}},
		"registry":  {func() error { return r.book.DeleteEndpoint(t.Context(), endpoint.EndpointID) }, []string{"registry does not know"}},
		"neighbour": {func() error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: host.Attrs().Index, IP: v4.AsSlice()})
		}, []string{"neighbour 10.244.1.2"}},
		"renamed": {func() error { return errors.Join(inside.LinkSetDown(eth0), inside.LinkSetName(eth0, "eth7")) }, []string{"eth0 is missing in the container"}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.damage(); err != nil {
				t.Fatal(err)
			}
			r.within(t)
			r.refuse(c, check, cni.CodeCheckFailed, test.words...)
			r.must(c, call{verb: "DEL"})
			added := r.add(c, func(in *call) { in.args = "IP=10.244.1.2,fd00:10:244:1::2" })
			check.conf["prevResult"] = added
			r.must(c, check)
			var err1, err2 error
			eth0, err1 = inside.LinkByName("eth0")
			host, err2 = netlink.LinkByName(cni.HostInterface(id))
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
		})
	}
	result.IPs[0].Address.IP = net.IP{10, 244, 1, 99}
	check.conf["prevResult"] = result
	r.refuse(c, check, cni.CodeCheckFailed, "10.244.1.99")
}

// An agent that is away: ADD can be repeated later, DEL works and is settled.
func TestAgentAway(t *testing.T) {
	r := newRig(t)
	c := r.container("c")
	empty := r.state()
	r.add(c)
	r.stop()
	r.must(c, call{verb: "DEL"})
	if _, err := c.netlink(t).LinkByName("eth0"); err == nil {
		t.Error("the interface is still there after DEL")
	}
	if len(r.book.endpoints) != 1 || !cni.IsSpooled(r.opts.Spool, cni.AttachmentID{ContainerID: "c", IfName: "eth0"}) {
		t.Error("the DEL is not spooled")
	}
	r.refuse(nil, call{verb: "STATUS"}, types.ErrPluginNotAvailable, "does not answer")
	r.start()
	r.unchanged(empty)

	// The same container comes again while a DEL of its former life still waits.
	if err := cni.Spool(r.opts.Spool, cni.AttachmentID{ContainerID: "c", IfName: "eth0"}); err != nil {
		t.Fatal(err)
	}
	result := r.add(c)
	if err := r.server.settleSpool(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.must(c, call{verb: "CHECK", conf: map[string]any{"prevResult": result}})
}

func TestStateIsLocked(t *testing.T) {
	r := newRig(t)
	if _, err := New(r.opts); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second server on one state: %v", err)
	}
	if _, err := os.Stat(filepath.Join(r.opts.State, "lock")); err != nil {
		t.Error(err)
	}
}
