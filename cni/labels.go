package cni

import (
	"fmt"
	"strings"

	"github.com/sluice-net/sluice/registry"
)

const (
	maxLabels    = 128
	maxPorts     = 128
	maxLabelPart = 63  // characters of a label's name or value
	maxDNSName   = 253 // characters of a label's prefix, a pod's or a namespace's name
	maxPortName  = 15  // characters, RFC 6335 5.1
)

// ValidateLabel checks a label against Kubernetes' rules: the key is a name, optionally behind a DNS
// prefix and '/'; names and values have at most 63 characters of [A-Za-z0-9_.-] and begin and end
// with a letter or digit; a value may be empty. The label that tells the network is not anyone's to give.
func ValidateLabel(key, value string) error {
	if key == registry.NetworkLabel {
		return fmt.Errorf("label %q: every container has it: its value is the network's name and cannot be given", key)
	}
	name := key
	if prefix, rest, ok := strings.Cut(key, "/"); ok {
		name = rest
		if !isDNSName(prefix) {
			return fmt.Errorf("label key %q: the prefix before '/' is no DNS name", key)
		}
	}
	if !isLabelPart(name) {
		return fmt.Errorf("label key %q: want 1 to %d characters of [A-Za-z0-9_.-], first and last a letter or digit", key, maxLabelPart)
	}
	if value != "" && !isLabelPart(value) {
		return fmt.Errorf("label %q: value %q: want at most %d characters of [A-Za-z0-9_.-], first and last a letter or digit", key, value, maxLabelPart)
	}
	if key == registry.WeightLabel {
		if _, err := registry.ParseWeight(value); err != nil {
			return fmt.Errorf("label %q: %w", key, err)
		}
	}
	return nil
}

// ValidatePort checks a named port: a name of at most 15 lower-case letters, digits and '-', a port
// that is not 0 and a protocol.
func ValidatePort(p registry.EndpointPort) error {
	name := p.Name
	inner := strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-")
	if name == "" || len(name) > maxPortName || inner != "" || name[0] == '-' || name[len(name)-1] == '-' {
		return fmt.Errorf("port name %q: want 1 to %d lower-case letters, digits and '-', first and last no '-'", name, maxPortName)
	}
	if p.Port == 0 {
		return fmt.Errorf("port %q: number 0", name)
	}
	if p.Protocol == 0 {
		return fmt.Errorf("port %q: no protocol", name)
	}
	return nil
}

func isLabelPart(s string) bool {
	if s == "" || len(s) > maxLabelPart || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

func isDNSName(s string) bool {
	if s == "" || len(s) > maxDNSName {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		if strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// Validate checks a request as the agent must, whoever sent it.
func (r *AddRequest) Validate() error {
	if err := r.AttachmentID.Validate(); err != nil {
		return err
	}
	if r.Network == "" || len(r.Network) > maxDNSName {
		return fmt.Errorf("network %q: want a name of 1 to %d characters", r.Network, maxDNSName)
	}
	for _, s := range []string{r.Name.Namespace, r.Name.Name} {
		if s != "" && !isID(s) {
			return fmt.Errorf("name %q: want at most %d characters of [A-Za-z0-9_.-]", s, maxDNSName)
		}
	}
	if len(r.Labels) > maxLabels || len(r.Ports) > maxPorts {
		return fmt.Errorf("%d labels, %d ports: at most %d and %d", len(r.Labels), len(r.Ports), maxLabels, maxPorts)
	}
	for k, v := range r.Labels {
		if err := ValidateLabel(k, v); err != nil {
			return err
		}
	}
	names := map[string]bool{}
	for _, p := range r.Ports {
		if err := ValidatePort(p); err != nil {
			return err
		}
		if names[p.Name] {
			return fmt.Errorf("port name %q appears twice", p.Name)
		}
		names[p.Name] = true
	}
	if r.MAC != "" {
		if _, err := ParseMAC(r.MAC); err != nil {
			return fmt.Errorf("mac: %w", err)
		}
	}
	if r.MTU != 0 && (r.MTU < minMTU || r.MTU > maxMTU) {
		return fmt.Errorf("mtu %d: want 0 or %d to %d", r.MTU, minMTU, maxMTU)
	}
	return validateIPs(r.IPs)
}

// Validate checks the form of both names: they become parts of file names and registry keys.
func (id AttachmentID) Validate() error {
	if !isID(id.ContainerID) {
		return fmt.Errorf("container id %q: want 1 to %d characters of [A-Za-z0-9_.-], first a letter or digit", id.ContainerID, maxDNSName)
	}
	n := id.IfName
	if n == "" || len(n) > 15 || n == "." || n == ".." || strings.ContainsAny(n, "/: \t\n\v\f\r\x00") {
		return fmt.Errorf("interface name %q: want 1 to 15 characters without '/', ':' and white space", n)
	}
	return nil
}

func isID(s string) bool {
	if s == "" || len(s) > maxDNSName || !isAlnum(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}
