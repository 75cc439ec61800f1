package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/tests/nstest"
)

const (
	eurekaPort  = 8761
	lease       = 2 // seconds that an instance counts as alive after its last heartbeat
	shopName    = "shop.default.svc.cluster.local"
	lookupPause = 20 * time.Millisecond
)

// registered has two processes register themselves as a service that nobody made, finds it by name, and lets one of
// them fall silent.
func (d *demo) registered(ctx context.Context) error {
	heading("Processes in web-1 and web-2 register themselves as \"shop\" with Eureka's protocol, at %s:%d", cni.NodeLocalV4, eurekaPort)
	beating, stop := context.WithCancel(ctx)
	defer stop()
	for i, web := range d.backends[:2] {
		if err := eureka(ctx, web, http.MethodPost, "/eureka/apps/SHOP", registration(web)); err != nil {
			return err
		}
		life := ctx
		if i == 0 {
			life = beating
		}
		go heartbeats(life, web)
	}
	svc, err := d.node.API().Service(ctx, registry.Name{Namespace: "default", Name: "shop"})
	if err != nil {
		return err
	}
	found, err := lookUp(ctx, d.client)
	if err != nil {
		return err
	}
	t := newTable()
	t.row("the service was made for them", svc.VIPs[0])
	t.row("client asks DNS for "+shopName, found)
	t.print()
	to := netip.AddrPortFrom(found, 8080)
	if err := d.shopCalls(ctx, to, "web-1", "web-2"); err != nil {
		return err
	}

	heading("web-1's heartbeats end; its lease is %d s", lease)
	stop()
	start := time.Now()
	for {
		svc, err := d.node.API().Service(ctx, registry.Name{Namespace: "default", Name: "shop"})
		if err != nil {
			return err
		}
		if len(svc.Ports) == 1 && len(svc.Ports[0].Backends) == 1 {
			break
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lookupPause):
		}
	}
	t = newTable()
	t.row("it has left the service", fmt.Sprintf("after %.1f s", time.Since(start).Seconds()))
	t.print()
	return d.shopCalls(ctx, to, "web-2")
}

// shopCalls wants answers of these containers, and no others.
func (d *demo) shopCalls(ctx context.Context, to netip.AddrPort, want ...string) error {
	r, err := d.client.Call(ctx, nstest.Call{Net: "tcp", To: to, Count: count})
	if err != nil {
		return err
	}
	var who []string
	for _, name := range want {
		who = append(who, fmt.Sprintf("%s %d", name, r.Answers[name]))
		if r.Answers[name] == 0 {
			return fmt.Errorf("%s answered none of %d calls to %s: %v", name, r.Calls, to, r.Answers)
		}
	}
	t := newTable()
	t.row(fmt.Sprintf("%d calls to %s", r.Calls, to), "answered by "+strings.Join(who, ", "), fmt.Sprintf("failed: %d", r.Failed))
	t.print()
	if r.Failed > 0 || len(r.Answers) != len(want) {
		return fmt.Errorf("of %d calls to %s %d failed; answers %v, want %v only", r.Calls, to, r.Failed, r.Answers, want)
	}
	return nil
}

// registration is what a Eureka client sends.
func registration(c *nstest.Container) []byte {
	type port struct {
		Number  int    `json:"$"`
		Enabled string `json:"@enabled"`
	}
	body, err := json.Marshal(map[string]any{"instance": map[string]any{
		"instanceId": c.Name, "hostName": c.Name, "app": "SHOP", "ipAddr": c.V4.String(), "vipAddress": "shop", "status": "UP",
		"port":           port{8080, "true"},
		"securePort":     port{443, "false"},
		"dataCenterInfo": map[string]string{"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
		"leaseInfo":      map[string]int{"renewalIntervalInSecs": 1, "durationInSecs": lease},
	}})
	if err != nil {
		panic(err) // nothing of this can fail
	}
	return body
}

func heartbeats(ctx context.Context, c *nstest.Container) {
	tick := time.NewTicker(lease * time.Second / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = eureka(ctx, c, http.MethodPut, "/eureka/apps/SHOP/"+c.Name, nil) // what is missed shows
		}
	}
}

// eureka sends a request from within a container.
func eureka(ctx context.Context, c *nstest.Container, method, path string, body []byte) error {
	url := "http://" + net.JoinHostPort(cni.NodeLocalV4, strconv.Itoa(eurekaPort)) + path
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := http.Client{Transport: &http.Transport{DialContext: dialIn(c), DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, url, res.Status, said)
	}
	return nil
}

// lookUp asks the node's DNS from within a container.
func lookUp(ctx context.Context, c *nstest.Container) (netip.Addr, error) {
	dial := dialIn(c)
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, net.JoinHostPort(cni.NodeLocalV4, "53"))
	}}
	addrs, err := r.LookupNetIP(ctx, "ip4", shopName+".")
	if err != nil {
		return netip.Addr{}, err
	}
	return addrs[0], nil
}

// dialIn makes connections from within a container to an address: a name would be looked up on another thread.
func dialIn(c *nstest.Container) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		var d net.Dialer
		err = c.InNetns(func() error {
			conn, err = d.DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
}
