package cni

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-net/sluice/registry"
)

// MTUs that a container's interface may have, in bytes. IPv6 needs 1280 (RFC 8200, 5).
const (
	minMTU = 1280
	maxMTU = 65535
)

// config is the plugin's configuration as a runtime sends it, with what concerns one container
// taken together from runtimeConfig, args.cni and CNI_ARGS.
type config struct {
	cniVersion string
	network    string
	socket     string
	mtu        int
	dns        types.DNS
	ips        []netip.Addr
	mac        string
	labels     map[string]string
	ports      []registry.EndpointPort
	name       registry.Name
	prevResult json.RawMessage
	valid      []AttachmentID // of GC
}

// parseConfig reads the configuration and CNI_ARGS. It refuses unknown keys, as the specification
// allows, since a misspelt key would otherwise do nothing in silence; keys of the specification,
// keys with a '/' (cni.dev/...), and what others read below args are passed by.
func parseConfig(stdin []byte, args string) (*config, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &top); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("decode network configuration: %v", err), "")
	}
	c := &config{socket: DefaultSocket, labels: map[string]string{}}
	for _, key := range slices.Sorted(maps.Keys(top)) { // so runtimeConfig.dns overrides dns
		if err := c.field(key, top[key]); err != nil {
			return nil, err
		}
	}
	env, err := parseArgs(args)
	if err != nil {
		return nil, err
	}
	maps.Copy(c.labels, env.labels) // of the container rather than of the network: they win
	c.name = registry.Name{Namespace: env.namespace, Name: env.name}
	if err := c.addIPs("CNI_ARGS IP", env.ips); err != nil {
		return nil, err
	}
	if err := c.setMAC("CNI_ARGS MAC", env.mac); err != nil {
		return nil, err
	}
	return c, nil
}

// field reads one top-level key.
func (c *config) field(key string, raw json.RawMessage) error {
	switch key {
	case "cniVersion":
		return decode(key, raw, &c.cniVersion)
	case "name":
		return decode(key, raw, &c.network)
	case "socket":
		return c.setSocket(raw)
	case "mtu":
		if err := decode(key, raw, &c.mtu); err != nil {
			return err
		}
		if c.mtu != 0 && (c.mtu < minMTU || c.mtu > maxMTU) {
			return configError(key, "%d: want 0 or %d to %d bytes", c.mtu, minMTU, maxMTU)
		}
	case "dns":
		return decode(key, raw, &c.dns)
	case "args":
		return c.args(raw)
	case "runtimeConfig":
		return c.runtimeConfig(raw)
	case "prevResult":
		if string(raw) != "null" {
			c.prevResult = raw
		}
	case "ipam":
		var ipam types.IPAM
		if err := decode(key, raw, &ipam); err != nil {
			return err
		}
		if ipam.Type != "" {
			return unsupported(key, raw, "addresses come from the agent's ranges")
		}
	case "ipMasq":
		var masquerade bool
		if err := decode(key, raw, &masquerade); err != nil {
			return err
		}
		if masquerade {
			return unsupported(key, raw, "the plugin does not masquerade")
		}
	case "cni.dev/valid-attachments":
		return c.setValid(key, raw)
	case "type", "capabilities", "cniVersions", "disableCheck", "disableGC", "plugins", "loadOnlyInlinedPlugins":
	default:
		if !strings.Contains(key, "/") {
			return unsupported(key, raw, "known are socket, mtu, dns, args and the keys of the specification")
		}
	}
	return nil
}

// resolver returns what the container's resolv.conf is to say: what the configuration or the runtime says of it, all of
// it, or else what the agent says.
func (c *config) resolver(agents types.DNS) types.DNS {
	if c.dns.IsEmpty() {
		return agents
	}
	return c.dns
}

func (c *config) setSocket(raw json.RawMessage) error {
	if err := decode("socket", raw, &c.socket); err != nil {
		return err
	}
	if c.socket == "" {
		c.socket = DefaultSocket
	}
	if !strings.HasPrefix(c.socket, "/") {
		return configError("socket", "%q is no absolute path", c.socket)
	}
	return nil
}

// args reads args.cni, the runtime's arguments by the CNI conventions. Keys that are not ours belong
// to other plugins.
func (c *config) args(raw json.RawMessage) error {
	var args struct {
		CNI map[string]json.RawMessage `json:"cni"`
	}
	if err := decode("args", raw, &args); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(args.CNI)) {
		raw, path := args.CNI[key], "args.cni."+key
		var err error
		switch key {
		case "labels":
			err = c.setLabels(path, raw)
		case "ports":
			err = c.setPorts(path, raw)
		case "ips":
			err = c.requestIPs(path, raw)
		case "mac":
			err = c.requestMAC(path, raw)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// runtimeConfig reads the capabilities that the configuration declares. One that we do not have is
// an error: the user would believe it served.
func (c *config) runtimeConfig(raw json.RawMessage) error {
	var capabilities map[string]json.RawMessage
	if err := decode("runtimeConfig", raw, &capabilities); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(capabilities)) {
		raw, path := capabilities[key], "runtimeConfig."+key
		var err error
		switch key {
		case "ips":
			err = c.requestIPs(path, raw)
		case "mac":
			err = c.requestMAC(path, raw)
		case "dns":
			err = c.setRuntimeDNS(path, raw)
		case "portMappings":
			err = unsupported(path, raw, "declare the capability for a portmap plugin behind this one")
		case "bandwidth":
			err = unsupported(path, raw, "declare the capability for a bandwidth plugin behind this one")
		default:
			err = unsupported(path, raw, "the capabilities are ips, mac and dns")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *config) setLabels(path string, raw json.RawMessage) error {
	var labels []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	if err := decodeStrict(path, raw, &labels); err != nil {
		return err
	}
	if len(labels) > maxLabels {
		return configError(path, "%d labels, at most %d", len(labels), maxLabels)
	}
	for i, l := range labels {
		if err := ValidateLabel(l.Key, l.Value); err != nil {
			return configError(fmt.Sprintf("%s[%d]", path, i), "%v", err)
		}
		if _, ok := c.labels[l.Key]; ok {
			return configError(fmt.Sprintf("%s[%d]", path, i), "label %q appears twice", l.Key)
		}
		c.labels[l.Key] = l.Value
	}
	return nil
}

func (c *config) setPorts(path string, raw json.RawMessage) error {
	if err := decodeStrict(path, raw, &c.ports); err != nil {
		return err
	}
	if len(c.ports) > maxPorts {
		return configError(path, "%d ports, at most %d", len(c.ports), maxPorts)
	}
	names := map[string]bool{}
	for i := range c.ports {
		p := &c.ports[i]
		if p.Protocol == 0 {
			p.Protocol = registry.TCP
		}
		if err := ValidatePort(*p); err != nil {
			return configError(fmt.Sprintf("%s[%d]", path, i), "%v", err)
		}
		if names[p.Name] {
			return configError(fmt.Sprintf("%s[%d]", path, i), "name %q appears twice", p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

// setRuntimeDNS reads the dns capability, whose keys differ from those of a result.
func (c *config) setRuntimeDNS(path string, raw json.RawMessage) error {
	var dns struct {
		Servers  []string `json:"servers"`
		Searches []string `json:"searches"`
		Options  []string `json:"options"`
	}
	if err := decode(path, raw, &dns); err != nil {
		return err
	}
	c.dns.Nameservers, c.dns.Search, c.dns.Options = dns.Servers, dns.Searches, dns.Options
	return nil
}

func (c *config) setValid(key string, raw json.RawMessage) error {
	var valid []types.GCAttachment
	if err := decode(key, raw, &valid); err != nil {
		return err
	}
	c.valid = []AttachmentID{} // null, as libcni writes an empty list, is not absent
	for _, v := range valid {
		c.valid = append(c.valid, AttachmentID{ContainerID: v.ContainerID, IfName: v.IfName})
	}
	return nil
}

func (c *config) requestIPs(path string, raw json.RawMessage) error {
	var in []string
	if err := decode(path, raw, &in); err != nil {
		return err
	}
	ips, err := parseIPs(in)
	if err != nil {
		return configError(path, "%v", err)
	}
	return c.addIPs(path, ips)
}

func (c *config) addIPs(path string, ips []netip.Addr) error {
	for _, ip := range ips {
		if !slices.Contains(c.ips, ip) {
			c.ips = append(c.ips, ip)
		}
	}
	if err := validateIPs(c.ips); err != nil {
		return configError(path, "%v", err)
	}
	return nil
}

func (c *config) requestMAC(path string, raw json.RawMessage) error {
	var s string
	if err := decode(path, raw, &s); err != nil {
		return err
	}
	return c.setMAC(path, s)
}

func (c *config) setMAC(path, s string) error {
	if s == "" {
		return nil
	}
	mac, err := ParseMAC(s)
	if err != nil {
		return configError(path, "%v", err)
	}
	if c.mac != "" && c.mac != mac.String() {
		return configError(path, "%s was asked for elsewhere", c.mac)
	}
	c.mac = mac.String()
	return nil
}

// parseTarget reads no more than a DEL needs: where the agent is. A DEL must succeed also with a
// configuration that ADD would refuse.
func parseTarget(stdin []byte) (socket string) {
	var c struct {
		Socket string `json:"socket"`
	}
	if err := json.Unmarshal(stdin, &c); err != nil || !strings.HasPrefix(c.Socket, "/") {
		return DefaultSocket
	}
	return c.Socket
}
