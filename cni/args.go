package cni

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// envArgs is what CNI_ARGS says.
type envArgs struct {
	ips       []netip.Addr
	mac       string
	labels    map[string]string
	namespace string // K8S_POD_NAMESPACE
	name      string // K8S_POD_NAME
}

// parseArgs reads CNI_ARGS, "KEY=VALUE;KEY=VALUE". It knows IP (addresses, ','-separated), MAC, LABELS
// (app:web,tier:front; with ':' because libcni splits at '='), K8S_POD_NAMESPACE and K8S_POD_NAME.
// Unknown keys are an error unless IgnoreUnknown is set, as runtimes do that add keys of their own.
func parseArgs(s string) (envArgs, error) {
	var a envArgs
	var unknown []string
	ignore := false
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || strings.Contains(value, "=") {
			return envArgs{}, argsError("%q: want KEY=VALUE", pair)
		}
		var err error
		switch key {
		case "IgnoreUnknown":
			ignore, err = parseBool(value)
		case "IP":
			a.ips, err = parseIPs(strings.Split(value, ","))
		case "MAC":
			if _, err = ParseMAC(value); err == nil {
				a.mac = value
			}
		case "LABELS":
			a.labels, err = parseLabels(value)
		case "K8S_POD_NAMESPACE":
			a.namespace, err = parseName(value)
		case "K8S_POD_NAME":
			a.name, err = parseName(value)
		default:
			unknown = append(unknown, key)
		}
		if err != nil {
			return envArgs{}, argsError("%s: %v", key, err)
		}
	}
	if len(unknown) > 0 && !ignore {
		return envArgs{}, argsError("unknown key %s; set IgnoreUnknown=1 to pass it by", strings.Join(unknown, ", "))
	}
	return a, nil
}

func argsError(format string, args ...any) error {
	return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: "+fmt.Sprintf(format, args...), "")
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "true":
		return true, nil
	case "0", "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

// parseLabels reads "key:value,key:value".
func parseLabels(s string) (map[string]string, error) {
	labels := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(pair, ":")
		if !ok {
			return nil, fmt.Errorf("label %q: want KEY:VALUE", pair)
		}
		if err := ValidateLabel(key, value); err != nil {
			return nil, err
		}
		if _, ok := labels[key]; ok {
			return nil, fmt.Errorf("label %q appears twice", key)
		}
		labels[key] = value
	}
	return labels, nil
}

func parseName(s string) (string, error) {
	if s != "" && !isID(s) {
		return "", fmt.Errorf("%q: want at most %d characters of [A-Za-z0-9_.-]", s, maxDNSName)
	}
	return s, nil
}

// parseIPs reads addresses with or without a prefix length. The length is passed by: a container
// always gets the one address.
func parseIPs(in []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, s := range in {
		addr, err := netip.ParseAddr(s)
		if prefix, perr := netip.ParsePrefix(s); perr == nil {
			addr, err = prefix.Addr(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%q is no IP address", s)
		}
		out = append(out, addr)
	}
	return out, validateIPs(out)
}

// validateIPs checks addresses that a container asks for: plain, and one per family at most.
func validateIPs(ips []netip.Addr) error {
	var seen [2]netip.Addr
	for _, ip := range ips {
		if !ip.IsValid() || ip.Zone() != "" || ip.Is4In6() {
			return fmt.Errorf("%q is no plain IP address", ip)
		}
		family := 0
		if ip.Is6() {
			family = 1
		}
		if seen[family].IsValid() && seen[family] != ip {
			return fmt.Errorf("%s and %s are of one family: a container has one address of each", seen[family], ip)
		}
		seen[family] = ip
	}
	return nil
}
