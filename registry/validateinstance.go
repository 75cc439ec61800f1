package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The limits of an instance, so that whoever may register can make neither the store nor the agents that hold
// a copy of it grow without bound.
const (
	MaxInstanceID     = 253 // bytes
	MaxInstancePorts  = 64
	MaxInstanceLease  = 86400 // seconds
	MaxMetadata       = 256   // entries
	MaxMetadataKey    = 253   // bytes
	MaxMetadataValue  = 4096  // bytes
	MaxMetadataBytes  = 32 << 10
	MaxInstanceEureka = 32 << 10 // bytes

	maxLabel = 63  // bytes of a DNS label (RFC 1035, 2.3.4)
	maxHost  = 253 // bytes of a DNS name
	maxWord  = 128 // bytes of a version or zone
)

// Validate returns why no store would take the instance, or nil. What it says begins with the field's name.
func (i *Instance) Validate() error {
	for _, check := range []func() error{i.InstanceID.Validate, i.validWords, i.validAddresses, i.validPorts, i.validMetadata} {
		if err := check(); err != nil {
			return err
		}
	}
	if len(i.Checks) > MaxInstanceChecks {
		return fmt.Errorf("checks: %d of them: want at most %d", len(i.Checks), MaxInstanceChecks)
	}
	for n := range i.Checks {
		if err := i.validCheck(&i.Checks[n]); err != nil {
			return fmt.Errorf("checks[%d].%w", n, err)
		}
	}
	return nil
}

// Validate returns why no instance can be identified so, or nil.
func (id InstanceID) Validate() error {
	switch {
	case !isLabel(id.Namespace):
		return fmt.Errorf("namespace: %.64q: want a DNS label: a-z, 0-9 and '-', at most %d, no '-' at the ends", id.Namespace, maxLabel)
	case !isLabel(id.Service):
		return fmt.Errorf("service: %.64q: want a DNS label: a-z, 0-9 and '-', at most %d, no '-' at the ends", id.Service, maxLabel)
	case id.ID == "":
		return errors.New("id: empty")
	case strings.ContainsRune(id.ID, '/'):
		return fmt.Errorf("id: %.64q: '/' is not allowed", id.ID)
	}
	return validText("id", id.ID, MaxInstanceID)
}

func (i *Instance) validWords() error {
	for _, w := range []struct {
		field, text string
		most        int
	}{{"host", i.Host, maxHost}, {"node", i.Node, maxHost}, {"zone", i.Zone, maxWord}, {"version", i.Version, maxWord}} {
		if err := validText(w.field, w.text, w.most); err != nil {
			return err
		}
	}
	switch {
	case !slices.Contains(InstanceStatuses(), i.Status):
		return fmt.Errorf("status: %.32q: want one of %v", i.Status, InstanceStatuses())
	case i.Override != "" && !slices.Contains(InstanceStatuses(), i.Override):
		return fmt.Errorf("override: %.32q: want none, or one of %v", i.Override, InstanceStatuses())
	case i.Weight != nil && *i.Weight > MaxWeight:
		return fmt.Errorf("weight: %d: want 0 to %d", *i.Weight, MaxWeight)
	case i.Lease > MaxInstanceLease:
		return fmt.Errorf("lease: %d seconds: want at most %d, or 0 for good", i.Lease, MaxInstanceLease)
	case len(i.Eureka) > MaxInstanceEureka:
		return fmt.Errorf("eureka: %d bytes: want at most %d", len(i.Eureka), MaxInstanceEureka)
	case len(i.Eureka) > 0 && !json.Valid(i.Eureka):
		return errors.New("eureka: not JSON")
	}
	return nil
}

func (i *Instance) validAddresses() error {
	if len(i.Addresses) > MaxVIPs {
		return fmt.Errorf("addresses: %d of them: want at most one of each IP family", len(i.Addresses))
	}
	for n, a := range i.Addresses {
		switch {
		case !a.IsValid():
			return fmt.Errorf("addresses[%d]: not an IP address", n)
		case a.Zone() != "" || a.Is4In6():
			return fmt.Errorf("addresses[%d]: %s: write it as %s", n, a, a.Unmap().WithZone(""))
		case n > 0 && FamilyOf(a) == FamilyOf(i.Addresses[0]):
			return fmt.Errorf("addresses[%d]: %s is of the same IP family as %s: want at most one of each", n, a, i.Addresses[0])
		}
	}
	return nil
}

func (i *Instance) validPorts() error {
	if len(i.Ports) > MaxInstancePorts {
		return fmt.Errorf("ports: %d of them: want at most %d", len(i.Ports), MaxInstancePorts)
	}
	for n, p := range i.Ports {
		switch {
		case p.Port == 0:
			return fmt.Errorf("ports[%d].port: want 1 to 65535", n)
		case p.Protocol != TCP && p.Protocol != UDP && p.Protocol != SCTP:
			return fmt.Errorf("ports[%d].protocol: want TCP, UDP or SCTP", n)
		case p.Name != "" && !isLabel(p.Name):
			return fmt.Errorf("ports[%d].name: %.64q: want a DNS label: a-z, 0-9 and '-', at most %d, no '-' at the ends", n, p.Name, maxLabel)
		}
		for _, o := range i.Ports[:n] {
			switch {
			case o.Port == p.Port && o.Protocol == p.Protocol:
				return fmt.Errorf("ports[%d]: %d/%s is given twice", n, p.Port, p.Protocol)
			case o.Name == p.Name && p.Name != "":
				return fmt.Errorf("ports[%d].name: %q is given twice", n, p.Name)
			}
		}
	}
	return nil
}

func (i *Instance) validMetadata() error {
	if len(i.Metadata) > MaxMetadata {
		return fmt.Errorf("metadata: %d entries: want at most %d", len(i.Metadata), MaxMetadata)
	}
	total := 0
	for k, v := range i.Metadata {
		switch total += len(k) + len(v); {
		case k == "" || len(k) > MaxMetadataKey || len(v) > MaxMetadataValue:
			return fmt.Errorf("metadata[%.64q]: want a key of 1 to %d bytes and a value of at most %d", k, MaxMetadataKey, MaxMetadataValue)
		case !utf8.ValidString(k) || !utf8.ValidString(v):
			return fmt.Errorf("metadata[%.64q]: not UTF-8", k)
		}
	}
	if total > MaxMetadataBytes {
		return fmt.Errorf("metadata: %d bytes: want at most %d", total, MaxMetadataBytes)
	}
	return nil
}

// validText takes what can be shown on a line.
func validText(field, text string, most int) error {
	switch {
	case len(text) > most:
		return fmt.Errorf("%s: %.64q…: want at most %d bytes", field, text, most)
	case !utf8.ValidString(text):
		return fmt.Errorf("%s: %.64q: not UTF-8", field, text)
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) }):
		return fmt.Errorf("%s: %.64q: control characters are not allowed", field, text)
	}
	return nil
}

// isLabel reports whether a name can be a part of a DNS name (RFC 1123, 2.1), in lower case.
func isLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// The limits of health checks. Intervals and timeouts are in milliseconds.
const (
	MaxInstanceChecks = 8
	MinCheckInterval  = 100
	MaxCheckInterval  = 3_600_000
	MaxCheckTimeout   = 60_000
	MaxCheckCount     = 1000 // of rise and fall

	maxCheckPath  = 2048 // bytes
	maxCheckBody  = 512  // bytes of a regular expression
	maxStatuses   = 32
	maxArguments  = 64
	maxCommand    = 4096 // bytes
	checkInterval = 10_000
	checkTimeout  = 2_000
)

// Times returns the interval and the timeout that count, in milliseconds.
func (c *HealthCheck) Times() (interval, timeout uint32) {
	interval, timeout = c.Interval, c.Timeout
	if interval == 0 {
		interval = checkInterval
	}
	if timeout == 0 {
		timeout = min(checkTimeout, interval)
	}
	return interval, timeout
}

func (i *Instance) validCheck(c *HealthCheck) error {
	interval, timeout := c.Times()
	switch {
	case !slices.Contains([]CheckType{CheckTCP, CheckHTTP, CheckGRPC, CheckExec}, c.Type):
		return fmt.Errorf("type: %.32q: want tcp, http, grpc or exec", c.Type)
	case c.Type != CheckExec && c.Port == 0 && len(i.Ports) == 0:
		return errors.New("port: the instance has none, so name one")
	case c.Type != CheckHTTP && (c.TLS || c.Path != "" || c.Host != "" || len(c.Status) > 0 || c.Body != ""):
		return fmt.Errorf("type: %s: tls, path, host, status and body are of http", c.Type)
	case c.Type != CheckGRPC && c.Service != "":
		return fmt.Errorf("service: is of grpc, not of %s", c.Type)
	case (c.Type == CheckExec) != (len(c.Command) > 0):
		return errors.New("command: exec needs one, and no other type has one")
	case interval < MinCheckInterval || interval > MaxCheckInterval:
		return fmt.Errorf("interval: %d ms: want %d to %d", interval, MinCheckInterval, MaxCheckInterval)
	case timeout > MaxCheckTimeout || timeout > interval:
		return fmt.Errorf("timeout: %d ms: want at most %d, and no more than the interval of %d", timeout, MaxCheckTimeout, interval)
	case c.Rise > MaxCheckCount || c.Fall > MaxCheckCount:
		return fmt.Errorf("rise and fall: %d and %d: want at most %d", c.Rise, c.Fall, MaxCheckCount)
	}
	if err := validText("service", c.Service, maxHost); err != nil {
		return err
	}
	if c.Type == CheckHTTP {
		return c.validHTTP()
	}
	return c.validCommand()
}

func (c *HealthCheck) validHTTP() error {
	if c.Path != "" && !strings.HasPrefix(c.Path, "/") {
		return fmt.Errorf("path: %.64q: want it to begin with '/'", c.Path)
	}
	if err := validText("path", c.Path, maxCheckPath); err != nil {
		return err
	}
	if err := validText("host", c.Host, maxHost); err != nil {
		return err
	}
	if len(c.Status) > maxStatuses || slices.ContainsFunc(c.Status, func(s int) bool { return s < 100 || s > 599 }) {
		return fmt.Errorf("status: want at most %d, each 100 to 599", maxStatuses)
	}
	if len(c.Body) > maxCheckBody {
		return fmt.Errorf("body: %d bytes: want at most %d", len(c.Body), maxCheckBody)
	}
	if _, err := regexp.Compile(c.Body); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	return nil
}

func (c *HealthCheck) validCommand() error {
	total := 0
	for _, arg := range c.Command {
		total += len(arg)
		if !utf8.ValidString(arg) || strings.ContainsRune(arg, 0) {
			return errors.New("command: want UTF-8 without NUL")
		}
	}
	if len(c.Command) > maxArguments || total > maxCommand {
		return fmt.Errorf("command: %d arguments of %d bytes: want at most %d of %d", len(c.Command), total, maxArguments, maxCommand)
	}
	return nil
}
