package tests

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka"
	"github.com/sluice-net/sluice/tests/nstest"
)

// eurekaInstance is an instance as a client understood it.
type eurekaInstance struct {
	App, ID, Host, IP string
	Port, SecurePort  int
	Status, Override  string
	VIP, SecureVIP    string
	Metadata          map[string]string
}

// eurekaCounts is what happened to a client since its start.
type eurekaCounts struct {
	Registered, Heartbeats int // successfully
	Unknown                int // heartbeats of an instance that the server did not know
	Failed                 int // what came to nothing
	Fetches, Deltas        int
	Least                  int // fargo: the fewest instances that were up in a fetch
}

// eurekaOrder is what clients are told; see tests/clients.
type eurekaOrder struct {
	Do     string
	Config map[string]any // of eureka-js-client

	App, ID, Host, IP  string
	Port, SecurePort   int
	VIP, SecureVIP     string
	Renewal, Duration  int
	Metadata           map[string]string
	Key, Value, Status string
	Every              int
}

// eurekaClient is one in a container, of which it registers one instance.
type eurekaClient struct {
	name string // of the application, and of its VIP, in lower case
	kind string
	in   *nstest.Container
	talk *nstest.Talk
	ip   netip.Addr // of the container, that it registers
	at   string     // the server's address and path
	// reads is set while it can tell what it sees. eureka-js-client can between start and stop.
	reads bool
}

// The kinds of clients.
const (
	speaksJSON = "fargo-json"
	speaksXML  = "fargo-xml"
	speaksJS   = "js"
	readsDelta = "js-delta" // reads everything once, and then what changes
)

// eurekaURL is where a node answers Eureka's clients, below a path.
func eurekaURL(server netip.Addr, path string) string {
	return "http://" + netip.AddrPortFrom(server, eureka.Port).String() + path
}

var fargoBuild sync.Once

// fargoBinary builds the client in tests/clients/fargo, of what make has fetched.
func fargoBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(lab.Binaries.Probe), "fargo")
	fargoBuild.Do(func() {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", path, ".")
		cmd.Dir = "clients/fargo"
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOPROXY=off", "GOFLAGS=-mod=readonly")
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make clients fetches what it needs: %v\n%s", err, said)
		}
	})
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// newEurekaClient starts a client of a kind in a container. It does not register yet.
func newEurekaClient(t *testing.T, in *nstest.Container, kind, app string) *eurekaClient {
	t.Helper()
	c := &eurekaClient{name: app, kind: kind, in: in, ip: in.V4}
	c.reads = !c.js()
	var cmd *exec.Cmd
	switch kind {
	case speaksJSON:
		c.at = eurekaURL(nodeLocal()[0], "/eureka/v2")
		cmd = exec.Command(fargoBinary(t), "-json", c.at)
	case speaksXML:
		c.ip, c.at = in.V6, eurekaURL(nodeLocal()[1], "/eureka/v2")
		cmd = exec.Command(fargoBinary(t), c.at)
	default:
		c.at = eurekaURL(nodeLocal()[0], "/eureka")
		cmd = jsCommand(t)
	}
	talk, err := in.Talk(cmd)
	if err != nil {
		t.Fatal(err)
	}
	c.talk = talk
	t.Cleanup(func() {
		if err := talk.Stop(); err != nil {
			t.Errorf("%s ends: %v", kind, err)
		}
	})
	return c
}

func jsCommand(t *testing.T) *exec.Cmd {
	t.Helper()
	modules, err := filepath.Abs("../bin/test/eureka-js-client/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	node, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat(filepath.Join(modules, "eureka-js-client"))
	}
	if err != nil {
		t.Fatalf("make clients installs it: %v", err)
	}
	cmd := exec.Command(node, "clients/eureka-js-client/main.js")
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
	return cmd
}

func (c *eurekaClient) id() string {
	return fmt.Sprintf("%s:%s:%d", c.in.Name, c.name, nstest.Port)
}

func (c *eurekaClient) instanceID() registry.InstanceID {
	return registry.InstanceID{Namespace: "default", Service: c.name, ID: c.id()}
}

// try gives an order, and returns what came of it.
func (c *eurekaClient) try(o eurekaOrder) ([]eurekaInstance, *eurekaCounts, error) {
	var a struct {
		Error     string
		Instances []eurekaInstance
		Counts    *eurekaCounts
	}
	if err := c.talk.Do(o, &a); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.name, err)
	}
	if a.Error != "" {
		return nil, nil, errors.New(a.Error)
	}
	return a.Instances, a.Counts, nil
}

func (c *eurekaClient) do(t *testing.T, o eurekaOrder) []eurekaInstance {
	t.Helper()
	list, _, err := c.try(o)
	if err != nil {
		t.Fatalf("%s %s: %v", c.name, o.Do, err)
	}
	return list
}

func (c *eurekaClient) counts(t *testing.T) eurekaCounts {
	t.Helper()
	_, n, err := c.try(eurekaOrder{Do: "counts"})
	if err != nil {
		t.Fatal(err)
	}
	return *n
}

// instance is what the client registers, as all clients are to see it.
func (c *eurekaClient) instance() eurekaInstance {
	return eurekaInstance{
		App: strings.ToUpper(c.name), ID: c.id(), Host: c.in.Name + ".example", IP: c.ip.String(), Port: nstest.Port,
		Status: "UP", Override: "UNKNOWN", VIP: c.name, SecureVIP: c.name + "-secure",
		Metadata: map[string]string{"zone": "z1", "build_tag": "v 1"},
	}
}

// eurekaPace is how often clients send heartbeats and read, in milliseconds.
const eurekaPace = 100

// start registers the container and has the client send heartbeats.
func (c *eurekaClient) start(t *testing.T, lease int) {
	t.Helper()
	i := c.instance()
	if !c.js() {
		o := eurekaOrder{Do: "register", App: i.App, ID: i.ID, Host: i.Host, IP: i.IP, Port: i.Port, SecurePort: 8443,
			VIP: i.VIP, SecureVIP: i.SecureVIP, Renewal: 1, Duration: lease, Metadata: i.Metadata}
		c.do(t, o)
		c.do(t, eurekaOrder{Do: "keep", Every: eurekaPace})
		return
	}
	at := strings.TrimSuffix(strings.TrimPrefix(c.at, "http://"), "/eureka")
	host, _, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	// As in the client's own documents, with a name in lower case and a flag that is no text.
	c.do(t, eurekaOrder{Do: "start", Config: map[string]any{
		"shouldUseDelta": c.kind == readsDelta,
		"instance": map[string]any{
			"app": c.name, "instanceId": i.ID, "hostName": i.Host, "ipAddr": i.IP,
			"port":       map[string]any{"$": i.Port, "@enabled": true},
			"vipAddress": i.VIP, "secureVipAddress": i.SecureVIP,
			"dataCenterInfo": map[string]any{"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
			"metadata":       i.Metadata,
			"leaseInfo":      map[string]any{"renewalIntervalInSecs": 1, "durationInSecs": lease},
		},
		"eureka": map[string]any{
			"host": host, "port": eureka.Port, "servicePath": "/eureka/apps/", "filterUpInstances": false,
			"heartbeatInterval": eurekaPace, "registryFetchInterval": eurekaPace, "requestRetryDelay": eurekaPace,
		},
	}})
	c.reads = true
}

// stop deregisters.
func (c *eurekaClient) stop(t *testing.T) {
	t.Helper()
	if c.js() {
		c.do(t, eurekaOrder{Do: "stop"})
		c.reads = false
		return
	}
	c.do(t, eurekaOrder{Do: "silence"})
	c.do(t, eurekaOrder{Do: "cancel", App: strings.ToUpper(c.name), ID: c.id()})
}

// eventually waits for a minute at most.
func eventually(t *testing.T, what string, cond func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return nstest.Await(ctx, what, cond)
}

// understood is metadata as the client reads it: fargo does not undo what is done to keys in XML.
func (c *eurekaClient) understood(m map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range m {
		if c.kind == speaksXML {
			key = strings.ReplaceAll(key, "_", "__")
		}
		out[key] = value
	}
	return out
}

// js tells whether the client is eureka-js-client, which sends heartbeats and reads of itself.
func (c *eurekaClient) js() bool { return c.kind == speaksJS || c.kind == readsDelta }

// sees waits until the client sees of a VIP these instances.
func (c *eurekaClient) sees(t *testing.T, vip string, want ...eurekaInstance) {
	t.Helper()
	var is []eurekaInstance
	err := eventually(t, fmt.Sprintf("%s to see %+v", c.name, want), func() (ok bool, err error) {
		is, _, err = c.try(eurekaOrder{Do: "vip", VIP: vip})
		if err != nil || len(is) != len(want) {
			return false, err
		}
		for n, w := range want {
			w.Metadata = c.understood(w.Metadata)
			if !reflect.DeepEqual(is[n], w) {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("%v; it sees %+v", err, is)
	}
}

// beats waits until the client has sent so many heartbeats more that the server took.
func (c *eurekaClient) beats(t *testing.T, more int) {
	t.Helper()
	want := c.counts(t).Heartbeats + more
	err := eventually(t, fmt.Sprintf("%d heartbeats of %s", want, c.name), func() (bool, error) {
		return c.counts(t).Heartbeats >= want, nil
	})
	if err != nil {
		t.Fatalf("%v; its counts are %+v", err, c.counts(t))
	}
}

// request makes one from inside the client's container for which its library has no method, and returns the status.
func (c *eurekaClient) request(t *testing.T, method, path string) int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = c.in.InNetns(func() error {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
	r, err := http.NewRequestWithContext(t.Context(), method, c.at+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}
