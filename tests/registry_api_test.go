package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
	"github.com/sluice-net/sluice/tests/nstest"
)

// somewhere is where a process can be: a container, or the node.
type somewhere interface{ InNetns(func() error) error }

// httpFrom returns a client whose connections begin there, each request with one of its own.
func httpFrom(p somewhere) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = p.InNetns(func() error {
				conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
}

// askFrom sends a request to the API at an address, from somewhere.
func askFrom(t *testing.T, p somewhere, method, addr, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+net.JoinHostPort(addr, "9465")+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	res, err := httpFrom(p).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// TestRegisterFromContainer: a container registers itself at the node-local address and is called by the VIP of the service
// that was made for it; what is another's it may not touch.
func TestRegisterFromContainer(t *testing.T) {
	n := newNode(t, nstest.Settings{})
	server, client := addContainer(t, n, "server", nil), addContainer(t, n, "client", nil)
	body := func(addrs ...netip.Addr) string {
		b, err := json.Marshal(map[string]any{
			"addresses": addrs, "lease": 30, "ports": []registry.EndpointPort{{Name: "http", Protocol: registry.TCP, Port: nstest.Port}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const path = "/v1/instances/default/echo/server-1"
	for _, addr := range []string{cni.NodeLocalV4, cni.NodeLocalV6} {
		t.Run(addr, func(t *testing.T) {
			if status, answer := askFrom(t, client, "PUT", addr, path, body(server.V4, server.V6)); status != http.StatusForbidden {
				t.Errorf("another's addresses: %d %s", status, answer)
			}
			status, answer := askFrom(t, server, "PUT", addr, path, body(server.V4, server.V6))
			var results api.Results
			if err := json.Unmarshal([]byte(answer), &results); status != http.StatusOK || err != nil || !results.Synced {
				t.Fatalf("its own addresses: %d %s, %v", status, answer, err)
			}
			svc, err := n.API().Service(t.Context(), registry.Name{Namespace: "default", Name: "echo"})
			if err != nil || len(svc.VIPs) != 2 {
				t.Fatalf("the service: %+v, %v", svc, err)
			}
			for _, vip := range svc.VIPs {
				for _, outside := range []bool{false, true} {
					call := nstest.Call{Net: "tcp", To: netip.AddrPortFrom(vip, nstest.Port), Count: 3, Outside: outside}
					r, err := client.Call(t.Context(), call)
					if err != nil || r.Failed > 0 || r.Answers["server"] != 3 {
						t.Errorf("call %s, outside %t: %+v, %v", vip, outside, r, err)
					}
				}
			}
			for _, other := range []struct{ method, path, body string }{
				{"DELETE", path, ""}, {"POST", path + "/heartbeat", ""}, {"PATCH", path, `{"weight":0}`},
				{"PUT", path + "/override", `{"status":"DOWN"}`}, {"PUT", path, body(client.V4)},
			} {
				if status, answer := askFrom(t, client, other.method, addr, other.path, other.body); status != http.StatusForbidden {
					t.Errorf("%s %s of another: %d %s", other.method, other.path, status, answer)
				}
			}
			if status, _ := askFrom(t, client, "POST", addr, "/v1/apply", web("web", "web")); status != http.StatusUnauthorized {
				t.Errorf("apply: %d", status)
			}
			if status, answer := askFrom(t, server, "POST", addr, path+"/heartbeat", ""); status != http.StatusNoContent {
				t.Errorf("heartbeat: %d %s", status, answer)
			}
			if status, answer := askFrom(t, server, "DELETE", addr, path, ""); status != http.StatusOK {
				t.Errorf("deregister: %d %s", status, answer)
			}
			call := nstest.Call{Net: "tcp", To: netip.AddrPortFrom(svc.VIPs[0], nstest.Port), Count: 1}
			if r, err := client.Call(t.Context(), call); err == nil && r.Failed == 0 {
				t.Errorf("an instance that is gone answers: %+v", r)
			}
		})
	}
	// Without an address it is the one that it comes from.
	if status, answer := askFrom(t, server, "PUT", cni.NodeLocalV4, path, `{}`); status != http.StatusOK {
		t.Errorf("no address: %d %s", status, answer)
	}
	i, err := n.API().Instance(t.Context(), registry.InstanceID{Namespace: "default", Service: "echo", ID: "server-1"})
	if err != nil || len(i.Addresses) != 1 || i.Addresses[0] != server.V4 {
		t.Errorf("it is %+v, %v", i, err)
	}
	// A process of the node registers what is the node's, by loopback too, and nothing else.
	for _, addr := range []string{"127.0.0.1", cni.NodeLocalV4} {
		for want, at := range map[int]string{http.StatusOK: "192.0.2.1", http.StatusForbidden: server.V4.String()} {
			status, answer := askFrom(t, n, "PUT", addr, "/v1/instances/default/node/"+addr, fmt.Sprintf(`{"addresses":[%q]}`, at))
			if status != want {
				t.Errorf("the node by %s registers %s: %d %s", addr, at, status, answer)
			}
		}
	}
}
