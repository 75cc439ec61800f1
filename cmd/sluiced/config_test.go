package main

import (
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/etcd"
)

// TestConfigErrors compares what is said of each wrong file in testdata/errors with the .golden
// file beside it. UPDATE=1 writes them anew.
func TestConfigErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("find wrong configs: %v, %d files", err, len(files))
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = parseConfig(filepath.Base(file), data)
			if err == nil {
				t.Fatal("accepted")
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			got := err.Error() + "\n"
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
		})
	}
}

func TestConfigEveryKey(t *testing.T) {
	c, err := parseConfig("f", []byte(`
node:       {name: n1, zone: z1, addresses: [192.0.2.1, "2001:db8::1"]}
paths:      {state: /s/, run: /r, bpffs: /sys/fs/bpf/b, cgroup: /c}
registry:   {embedded: {}, expiry: {most: 50, every: 1m}}
containers: {cidrs: [10.1.0.0/24], mtu: 1400}
services:   {cidrs: ["fd00::/112"], nodePorts: 20000-20099, algorithm: maglev, maglevTableSize: 65521}
flows:
  tcp:  {opening: 1m, established: 1h, closing: 2m, timeWait: 30s, reset: 10s}
  udp:  {unanswered: 30s, answered: 3m}
  sctp: {opening: 3s, established: 210s, closing: 4s}
  other: 720h
datapath:   {socketTranslation: false, mapScale: 2, attach: tcx}
policy:     {audit: true}
events:     {rate: 50, sample: 7}
api:        {listen: ["192.0.2.1:443"], nodeLocal: false, tls: {cert: /c.pem, key: /k.pem, clientCA: /a.pem}}
access:     {tokens: /t/}
health:     {exec: true}
eureka:     {enabled: false, nodeLocal: false, listen: ["192.0.2.1:1"], tls: {cert: /c/, key: /k, clientCA: /ca}, plain: false, namespace: n, peers: ["https://u:p@Peer.test/eureka/v2"], peerCA: /p/}
dns:
  {enabled: false, listen: ["127.0.0.1:5353"], domain: d.test, ttl: 30, upstreams: [192.0.2.53, "[2001:db8::53]:5353", /r/resolv.conf], cache: 0}
metrics:    {listen: "[::1]:1"}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{}
	want.Node.Name, want.Node.Zone = "n1", "z1"
	want.Node.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	want.Paths.State, want.Paths.Run = "/s", "/r"
	want.Paths.BPFFS, want.Paths.Cgroup = "/sys/fs/bpf/b", "/c"
	want.Registry.Expiry = etcd.ExpiryLimit{Most: 50, Every: time.Minute}
	want.Containers.CIDRs, want.Containers.MTU = prefixes("10.1.0.0/24"), 1400
	want.Services.CIDRs = prefixes("fd00::/112")
	want.Services.NodePorts = etcd.PortRange{First: 20000, Last: 20099}
	want.Services.Algorithm, want.Services.MaglevTableSize = "maglev", 65521
	want.Flows = loader.Lifetimes{
		TCPOpening: time.Minute, TCPEstablished: time.Hour, TCPClosing: 2 * time.Minute,
		TCPTimeWait: 30 * time.Second, TCPReset: 10 * time.Second,
		UDPUnanswered: 30 * time.Second, UDPAnswered: 3 * time.Minute,
		SCTPOpening: 3 * time.Second, SCTPEstablished: 210 * time.Second, SCTPClosing: 4 * time.Second,
		Other: 30 * 24 * time.Hour,
	}
	want.Datapath.MapScale, want.Datapath.Attach = 2, "tcx"
	want.Policy.Audit = true
	want.Events.Rate, want.Events.Sample = 50, 7
	want.API.Listen = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:443")}
	want.API.TLS = access.TLS{Cert: "/c.pem", Key: "/k.pem", ClientCA: "/a.pem"}
	want.Access.Tokens = "/t"
	want.Health.Exec = true
	want.Eureka = eurekaConfig{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1")}, TLS: access.TLS{Cert: "/c", Key: "/k", ClientCA: "/ca"},
		Namespace: "n",
		Peers:     []*url.URL{{Scheme: "https", User: url.UserPassword("u", "p"), Host: "peer.test", Path: "/eureka/v2/"}},
		PeerCA:    "/p",
	}
	want.DNS = dnsConfig{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:5353")}, Domain: "d.test", TTL: 30,
		Upstreams: []string{"192.0.2.53", "[2001:db8::53]:5353", "/r/resolv.conf"},
	}
	want.Metrics.Listen = "[::1]:1"
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

// TestConfigDefaults: nothing given, and nothing given at length, mean the defaults, and those are
// valid.
func TestConfigDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "node:\npaths: {state: }\n", "{}"} {
		c, err := parseConfig("f", []byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if !reflect.DeepEqual(c, defaults()) {
			t.Errorf("%q: got %+v, want the defaults", text, c)
		}
	}
}

func TestConfigExample(t *testing.T) {
	if _, err := loadConfig("../../deploy/sluiced.yaml"); err != nil {
		t.Fatal(err)
	}
}

// FuzzConfig: no file makes the parser crash, and what it accepts is valid: its
// ranges are apart.
func FuzzConfig(f *testing.F) {
	files, _ := filepath.Glob("testdata/errors/*.yaml")
	for _, file := range append(files, "../../deploy/sluiced.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig("f", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Errorf("error does not name the file: %v", err)
			}
			return
		}
		all := append(append([]netip.Prefix{}, c.Containers.CIDRs...), c.Services.CIDRs...)
		for i, p := range all {
			for _, q := range all[:i] {
				if p.Overlaps(q) {
					t.Errorf("%s overlaps %s", p, q)
				}
			}
		}
	})
}
