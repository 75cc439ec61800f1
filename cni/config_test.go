package cni

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-net/sluice/registry"
)

// conf returns a configuration with more keys.
func conf(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"cniVersion":"1.1.0","name":"sluice","type":"sluice-cni"` + more + `}`
}

func TestParseConfig(t *testing.T) {
	c, err := parseConfig([]byte(conf(`
		"socket": "/run/x.sock", "mtu": 1400, "prevResult": null, "ipam": {}, "ipMasq": false,
		"cni.dev/attachments": 7, "example.com/key": [], "capabilities": {"ips": true},
		"dns": {"nameservers": ["10.0.0.1"], "domain": "d"},
		"args": {"other": 1, "cni": {
			"labels": [{"key": "app", "value": "web"}, {"key": "tier", "value": "front"}],
			"ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "udp"}],
			"ips": ["10.0.0.5/24"], "aliases": ["of another plugin"]}},
		"runtimeConfig": {"ips": ["fd00::5", "10.0.0.5"], "mac": "0E-00-00-00-00-07", "dns": {"servers": ["10.0.0.2"]}}`)),
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u;LABELS=app:api,x/y:;MAC=0e:00:00:00:00:07;IP=fd00::5")
	if err != nil {
		t.Fatal(err)
	}
	want := &config{
		cniVersion: "1.1.0", network: "sluice", socket: "/run/x.sock", mtu: 1400,
		dns:    types.DNS{Nameservers: []string{"10.0.0.2"}, Domain: "d"},
		ips:    []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")},
		mac:    "0e:00:00:00:00:07",
		labels: map[string]string{"app": "api", "tier": "front", "x/y": ""},
		ports:  []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: 8080}, {Name: "dns", Protocol: registry.UDP, Port: 53}},
		name:   registry.Name{Namespace: "shop", Name: "web-1"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	const invalid, unsupportedField, env = types.ErrInvalidNetworkConfig, types.ErrUnsupportedField, types.ErrInvalidEnvironmentVariables
	for _, test := range []struct {
		more, args string
		code       uint
		want       string
	}{
		{`"mtuu": 1400`, "", unsupportedField, "mtuu = 1400"},
		{`"mtu": "1400"`, "", invalid, "mtu: a JSON string where a number"},
		{`"mtu": 600`, "", invalid, "mtu: 600: want 0 or 1280 to 65535"},
		{`"socket": 1`, "", invalid, "socket: a JSON number where a string belongs"},
		{`"socket": "run/x"`, "", invalid, "socket: \"run/x\" is no absolute path"},
		{`"ipam": {"type": "host-local"}`, "", unsupportedField, "addresses come from the agent"},
		{`"ipMasq": true`, "", unsupportedField, "ipMasq = true"},
		{`"dns": []`, "", invalid, "dns: a JSON array where an object belongs"},
		{`"dns": {"nameservers": "1"}`, "", invalid, "dns.nameservers: a JSON string where an array belongs"},
		{`"args": {"cni": {"labels": {"app": "web"}}}`, "", invalid, "args.cni.labels: a JSON object where an array belongs"},
		{`"args": {"cni": {"labels": [{"key": "app", "val": "web"}]}}`, "", invalid, `args.cni.labels: unknown field "val"`},
		{`"args": {"cni": {"labels": [{"key": "a b", "value": ""}]}}`, "", invalid, `args.cni.labels[0]: label key "a b"`},
		{`"args": {"cni": {"labels": [{"key": "sluice.net/network", "value": "x"}]}}`, "", invalid, `args.cni.labels[0]: label "sluice.net/network": every container has it`},
		{`"args": {"cni": {"labels": [{"key": "a", "value": ""},{"key": "a", "value": "x"}]}}`, "", invalid, `args.cni.labels[1]: label "a" appears twice`},
		{`"args": {"cni": {"ports": [{"name": "http", "port": 70000}]}}`, "", invalid, "args.cni.ports"},
		{`"args": {"cni": {"ports": [{"name": "http", "port": 0}]}}`, "", invalid, "args.cni.ports[0]"},
		{`"args": {"cni": {"ports": [{"name": "HTTP", "port": 1}]}}`, "", invalid, `port name "HTTP"`},
		{`"args": {"cni": {"ports": [{"name": "a", "port": 1},{"name": "a", "port": 2}]}}`, "", invalid, "appears twice"},
		{`"args": {"cni": {"ports": [{"name": "a", "port": 1, "protocol": "icmp"}]}}`, "", invalid, `protocol "icmp"`},
		{`"args": {"cni": {"ips": ["10.0.0.1", "10.0.0.2"]}}`, "", invalid, "args.cni.ips: 10.0.0.1 and 10.0.0.2 are of one family"},
		{`"args": {"cni": {"ips": ["10.0.0.1"]}}`, "IP=10.0.0.2", invalid, "CNI_ARGS IP: 10.0.0.1 and 10.0.0.2"},
		{`"args": {"cni": {"mac": "0e:00:00:00:00:01"}}`, "MAC=0e:00:00:00:00:02", invalid, "CNI_ARGS MAC: 0e:00:00:00:00:01 was asked for elsewhere"},
		{`"runtimeConfig": {"ips": ["ten"]}`, "", invalid, `runtimeConfig.ips: "ten" is no IP address`},
		{`"runtimeConfig": {"mac": "01:00:00:00:00:01"}`, "", invalid, "runtimeConfig.mac"},
		{`"runtimeConfig": {"portMappings": [{"hostPort": 80}]}`, "", unsupportedField, `portMappings = [{"hostPort": 80}]: declare the capability for a portmap plugin`},
		{`"runtimeConfig": {"bandwidth": {}}`, "", unsupportedField, "bandwidth"},
		{`"runtimeConfig": {"aliases": {}}`, "", unsupportedField, "aliases"},
		{`"cni.dev/valid-attachments": {}`, "", invalid, "cni.dev/valid-attachments"},
		{``, "FOO=1", env, "unknown key FOO"},
		{``, "IgnoreUnknown=2", env, `IgnoreUnknown: "2" is neither`},
		{``, "FOO", env, `"FOO": want KEY=VALUE`},
		{``, "LABELS=app=web", env, "want KEY=VALUE"},
		{``, "LABELS=app", env, `label "app": want KEY:VALUE`},
		{``, "LABELS=a:b,a:c", env, `label "a" appears twice`},
		{``, "IP=fe80::1%eth0", env, "no plain IP address"},
		{``, "IP=::ffff:10.0.0.1", env, "no plain IP address"},
		{``, "MAC=02:53:6c:75:63:65", env, "belongs to the gateway"},
		{``, "MAC=00:00:00:00:00:00", env, "zero address"},
		{``, "MAC=00:00:5e:00:53:00:00:01", env, "no 6-byte MAC"},
		{``, "K8S_POD_NAME=a/b", env, "K8S_POD_NAME"},
	} {
		_, err := parseConfig([]byte(conf(test.more)), test.args)
		var e *types.Error
		if !errors.As(err, &e) || e.Code != test.code || !strings.Contains(e.Msg, test.want) {
			t.Errorf("%s %s: %v, want code %d and %q", test.more, test.args, err, test.code, test.want)
		}
	}
	var e *types.Error
	if _, err := parseConfig([]byte("{"), ""); !errors.As(err, &e) || e.Code != types.ErrDecodingFailure {
		t.Errorf("garbage: %v", err)
	}
}

func TestParseValidAttachments(t *testing.T) {
	for more, want := range map[string][]AttachmentID{
		``:                                  nil, // absent is not empty: that would remove all
		`"cni.dev/valid-attachments": null`: {},
		`"cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}]`: {{"c", "eth0"}},
	} {
		c, err := parseConfig([]byte(conf(more)), "")
		if err != nil || !slices.Equal(c.valid, want) || (c.valid == nil) != (want == nil) {
			t.Errorf("%s: %v, %v", more, c, err)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		conf(``):                             DefaultSocket,
		conf(`"socket": "/x"`):               "/x",
		conf(`"socket": "x"`):                DefaultSocket,
		conf(`"socket": 7`):                  DefaultSocket,
		conf(`"mtu": "bad", "socket": "/y"`): "/y",
		`{`:                                  DefaultSocket,
	} {
		if got := parseTarget([]byte(in)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	id := AttachmentID{ContainerID: "default-web", IfName: "eth0"}
	name := HostInterface(id)
	if name != "sl0c88fa465ff77" || !IsHostInterface(name) { // printf default-web/eth0 | sha256sum
		t.Errorf("host interface %q", name)
	}
	if other := HostInterface(AttachmentID{"default-web", "eth1"}); other == name {
		t.Errorf("eth0 and eth1 both have %s", name)
	}
	for _, s := range []string{"", "sl", "slx", "sl0123456789ab", "sl0123456789abg", "eth0", "sl0123456789abcd"} {
		if IsHostInterface(s) {
			t.Errorf("%q taken for a host interface", s)
		}
	}
	if _, err := ParseMAC(DefaultMAC(id).String()); err != nil {
		t.Error(err)
	}
	if gatewayMAC().String() != GatewayMAC {
		t.Errorf("gateway MAC %s and %s", gatewayMAC(), GatewayMAC)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(conf(`"args":{"cni":{"labels":[{"key":"a","value":"b"}],"ips":["10.0.0.1"]}}`)), "LABELS=a:b")
	f.Add([]byte(conf(`"runtimeConfig":{"mac":"0e:00:00:00:00:01","dns":{}}`)), "IP=10.0.0.1,fd00::1;MAC=0e:00:00:00:00:01")
	f.Add([]byte(`{"name":[],"prevResult":{}}`), "IgnoreUnknown=1;A=B")
	f.Fuzz(func(t *testing.T, stdin []byte, args string) {
		c, err := parseConfig(stdin, args)
		if err != nil {
			if errors.As(err, new(*types.Error)) {
				return
			}
			t.Fatalf("an error without a code: %v", err)
		}
		r := AddRequest{
			AttachmentID: AttachmentID{"c", "eth0"}, Network: "n",
			Name: c.name, Labels: c.labels, Ports: c.ports, IPs: c.ips, MAC: c.mac, MTU: c.mtu,
		}
		if len(c.labels) > maxLabels {
			return // of both sources together
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("parsed but not valid: %v", err)
		}
	})
}

// TestWeightLabel: the label that weighs a container is a number, or the container is not wired.
func TestWeightLabel(t *testing.T) {
	for _, value := range []string{"0", "1", "256"} {
		if err := ValidateLabel(registry.WeightLabel, value); err != nil {
			t.Error(err)
		}
	}
	for _, value := range []string{"", "257", "-1", "heavy", "1.5"} {
		err := ValidateLabel(registry.WeightLabel, value)
		if err == nil || !strings.Contains(err.Error(), "sluice.net/weight") {
			t.Errorf("%q: %v", value, err)
		}
		if _, err := parseArgs("LABELS=" + registry.WeightLabel + ":" + value); err == nil {
			t.Errorf("%q: CNI_ARGS takes it", value)
		}
	}
}

func FuzzParseArgs(f *testing.F) {
	f.Add("IgnoreUnknown=1;K8S_POD_NAME=a;LABELS=a:b,c/d:e;IP=10.0.0.1;MAC=0e:00:00:00:00:01")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseArgs(s)
		if err != nil {
			return
		}
		for k, v := range a.labels {
			if err := ValidateLabel(k, v); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzParseSpool(f *testing.F) {
	b, err := json.Marshal(AttachmentID{"c", "eth0"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := parseSpool(b)
		if err == nil && !IsHostInterface(HostInterface(id)) {
			t.Fatal(id)
		}
	})
}
