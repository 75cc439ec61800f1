package eureka_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka/eurekatest"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

// TestClients has each client's registration come back as its golden file has it, with times of its own.
func TestClients(t *testing.T) {
	_, c := start(t, nil, netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.9"))
	for file, path := range map[string]string{
		"js.json": "/apps/svc-js/h3:svc-js:7070", "fargo.json": "/v2/apps/SVC-GO/h2:svc-go:9090", "fargo.xml": "/v2/apps/SVC-GO/h2:svc-go:9090",
		"java.json": "/v2/apps/SVC-JAVA/vm", "spring.json": "/apps/SVC-SPRING/host:svc-spring:8080",
		"python.json": "/apps/SVC-PY/10.0.0.7%3Asvc-py%3A5000", "steeltoe.json": "/apps/SVC-NET/net%3Asvc-net%3A5001",
	} {
		data, err := os.ReadFile("wire/testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		kind := "application/" + file[strings.LastIndexByte(file, '.')+1:]
		c.with("Content-Type", kind).want(http.StatusNoContent, http.MethodPost, path[:strings.LastIndexByte(path, '/')], string(data))
		sent, err := wire.ParseInstance(data, strings.HasSuffix(file, ".xml"))
		if err != nil {
			t.Fatal(err)
		}
		got := c.one(path)
		if got.Lease.Registered == 0 || got.LastUpdated == 0 || got.LastDirty == 0 || sent.LastDirty != 0 && got.LastDirty != sent.LastDirty {
			t.Errorf("%s: times %+v", file, got)
		}
		sent.Lease, sent.LastUpdated, sent.LastDirty, sent.Action = got.Lease, got.LastUpdated, got.LastDirty, wire.Added
		equal(t, file, string(wire.Format{}.AppendInstance(nil, got)), string(wire.Format{}.AppendInstance(nil, sent)))
		c.want(http.StatusOK, http.MethodPut, path, "")
		c.want(http.StatusOK, http.MethodDelete, path, "")
		c.want(http.StatusNotFound, http.MethodPut, path, "")
		c.want(http.StatusNotFound, http.MethodDelete, path, "")
		c.want(http.StatusNotFound, http.MethodGet, path, "")
	}
}

// TestPaths: every path works under both prefixes, with slashes wherever clients put them, and nobody is sent elsewhere.
func TestPaths(t *testing.T) {
	s, c := start(t, nil)
	c.url = s.URL
	c.want(http.StatusNoContent, http.MethodPost, "/eureka/apps/a", body("A", "h:a:1", ""))
	for _, path := range []string{
		"apps", "apps/", "/apps//", "apps/delta", "apps/delta/", "apps/A", "apps/a/", "apps/A/h:a:1", "apps/a/h%3Aa%3A1/", "apps//A//h:a:1",
		"instances/h:a:1", "instances/h%3Aa%3A1/", "vips/v1", "vips/v2/", "vips/none", "svips/none", "status", "status/", "serverinfo/statusoverrides",
	} {
		for _, prefix := range []string{"/eureka/", "/eureka/v2/", "//eureka//v2/"} {
			if a := c.do(http.MethodGet, prefix+path, ""); a.StatusCode != http.StatusOK || a.body == "" {
				t.Errorf("GET %s: %d %q", prefix+path, a.StatusCode, a.body)
			}
			if a := c.do(http.MethodHead, prefix+path, ""); a.StatusCode != http.StatusOK {
				t.Errorf("HEAD %s: %d", prefix+path, a.StatusCode)
			}
		}
	}
	for _, path := range []string{
		"/", "/eureka", "/eureka/", "/eureka/v2", "/eureka/v3/apps", "/apps", "/eureka/apps/B", "/eureka/apps/A/none", "/eureka/apps/A/h:a:1/x",
		"/eureka/apps/A/H:A:1", "/eureka/instances/none", "/eureka/apps/A/h%253Aa%253A1", "/eureka/peerreplication", "/eureka/instances",
	} {
		c.want(http.StatusNotFound, http.MethodGet, path, "")
	}
	for path, allow := range map[string]string{
		"apps": "GET,HEAD,OPTIONS", "apps/A": "GET,HEAD,OPTIONS,POST", "apps/A/i": "DELETE,GET,HEAD,OPTIONS,PUT",
		"apps/A/i/status": "DELETE,OPTIONS,PUT", "peerreplication/batch/": "OPTIONS,POST", "asg/x/status": "OPTIONS,PUT",
	} {
		a := c.do(http.MethodPatch, "/eureka/"+path, "")
		if a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != allow || a.body != "" {
			t.Errorf("PATCH %s: %d, Allow %q, %q", path, a.StatusCode, a.Header.Get("Allow"), a.body)
		}
	}
	c.want(http.StatusBadRequest, http.MethodPut, "/eureka/asg/x/status?value=ENABLED", "")
}

// TestNegotiation: lists are XML unless JSON is named, one instance is what is wanted most, and gzip comes when asked for only.
func TestNegotiation(t *testing.T) {
	_, c := start(t, nil)
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i", ""))
	kind := func(path, accept string) string {
		a := c.with("Accept", accept).do(http.MethodGet, path, "")
		return fmt.Sprint(a.StatusCode, " ", a.Header.Get("Content-Type"))
	}
	const xml, json = "200 application/xml", "200 application/json"
	for _, path := range []string{"/apps", "/apps/delta", "/apps/A", "/vips/v1", "/svips/none"} {
		for accept, want := range map[string]string{
			"": xml, "*/*": xml, "application/json": json, "application/json, application/*+json": json, "text/html": xml,
			"application/vnd.x+json;q=0.1": json, "application/xml": xml,
		} {
			equal(t, path+" "+accept, kind(path, accept), want)
		}
	}
	for _, path := range []string{"/apps/A/i", "/instances/i"} {
		for accept, want := range map[string]string{
			"": xml, "*/*": xml, "application/json": json, "application/*;q=0.5, application/json": json, "text/html": "406 ",
			"application/json;q=0.5, application/xml;q=0.4": json, "application/json, application/xml": xml, "application/xml;q=0, */*": json,
		} {
			equal(t, path+" "+accept, kind(path, accept), want)
		}
	}
	for _, path := range []string{"/apps", "/apps/delta", "/apps/A", "/vips/v1"} {
		for _, accept := range []string{"application/json", "application/xml"} {
			for _, shape := range []string{"full", "COMPACT", "other"} {
				one := c.with("Accept", accept).with("X-Eureka-Accept", shape)
				plain := one.get(path)
				zipped := one.with("Accept-Encoding", "deflate, gzip;q=1.0").do(http.MethodGet, path, "")
				equal(t, path, zipped.Header.Get("Content-Encoding"), "gzip")
				r, err := gzip.NewReader(strings.NewReader(zipped.body))
				if err != nil {
					t.Fatal(err)
				}
				r.Multistream(false) // one member is all that some clients read
				text, err := io.ReadAll(r)
				if err != nil || string(text) != plain {
					t.Errorf("%s: %v: %s is not %s", path, err, text, plain)
				}
				if compact := !strings.Contains(plain, "countryId"); compact != (shape == "COMPACT") {
					t.Errorf("%s %s: %s", path, shape, plain)
				}
				equal(t, path, one.with("Accept-Encoding", "gzip;q=0").do(http.MethodGet, path, "").Header.Get("Content-Encoding"), "")
			}
		}
	}
}

// TestRegisterRefused has the codes and reasons of what is not taken. Nothing of it is there afterwards.
func TestRegisterRefused(t *testing.T) {
	_, c := start(t, nil)
	for _, r := range []struct {
		path, kind, body string
		code             int
		reason           string
	}{
		{"/apps/A", "", body("A", "i", ""), 415, ""},
		{"/apps/A", "text/xml", "<instance/>", 415, ""},
		{"/apps/A", "application/json", "", 400, `{"error": "cannot parse request body"}`},
		{"/apps/A", "application/json", "{}", 400, `{"error": "cannot parse request body"}`},
		{"/apps/A", "application/xml", "<instance>", 400, "<error><message>cannot parse request body</message></error>"},
		{"/apps/B", "application/json", body("A", "i", ""), 400, "Mismatched appName, expecting B but was A"},
		{"/apps/A", "application/json", strings.Replace(body("A", "i", ""), `"127.0.0.1"`, `""`, 1), 400, "Missing ip address"},
		{"/apps/A", "application/json", body("A", "a/b", ""), 400, `id: "a/b": '/' is not allowed`},
		{"/apps/A", "application/json", body("A", strings.Repeat("i", 300), ""), 400, "want at most 253 bytes"},
		{"/apps/A", "application/json", strings.Replace(body("A", "i", ""), "127.0.0.1", "10.1.2.3", 1), 403, "is not 127.0.0.1's own"},
		{"/apps/A", "application/json", strings.Replace(body("A", "i", ""), "127.0.0.1", "somewhere", 1), 403, "without an address"},
		{"/apps/A", "application/json", body("A", "i", `"x":"`+strings.Repeat("x", 300<<10)+`",`), 413, ""},
	} {
		from := c.with("Content-Type", r.kind)
		if r.kind == "" {
			delete(from.Header, "Content-Type")
			from.Header["Content-Type"] = []string{"application/octet-stream"}
		}
		a := from.do(http.MethodPost, r.path, r.body)
		if a.StatusCode != r.code || !strings.Contains(a.body, r.reason) || r.reason == "" && a.body != "" {
			t.Errorf("POST %s %.60s: got %d %q, want %d %q", r.path, r.body, a.StatusCode, a.body, r.code, r.reason)
		}
	}
	head, list := c.all("/apps")
	equal(t, "hash", head.Hash+words(list), "")
}

// TestGzipBody takes compressed registrations, and no more of them than of others.
func TestGzipBody(t *testing.T) {
	_, c := start(t, nil)
	zip := func(text string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	z := c.with("Content-Encoding", "gzip")
	z.want(http.StatusNoContent, http.MethodPost, "/apps/A", zip(body("A", "i", "")))
	z.want(http.StatusRequestEntityTooLarge, http.MethodPost, "/apps/A", zip(body("A", "j", `"x":"`+strings.Repeat("x", 64<<20)+`",`)))
	z.want(http.StatusBadRequest, http.MethodPost, "/apps/A", "not compressed")
	c.with("Content-Encoding", "br").want(http.StatusUnsupportedMediaType, http.MethodPost, "/apps/A", "x")
	_, list := c.all("/apps")
	equal(t, "instances", words(list), "A/i=UP,ADDED")
}

// TestOthers: what registered in another way shows, with what the protocol has no field for as metadata; what registers
// here is an ordinary instance of a service.
func TestOthers(t *testing.T) {
	s, c := start(t, nil)
	weight := uint16(3)
	_, rev, err := s.Store.Register(t.Context(), registry.Instance{
		InstanceID: registry.InstanceID{Namespace: "default", Service: "web", ID: "w1"}, Status: registry.InstanceUp, Lease: 60,
		Addresses: []netip.Addr{netip.MustParseAddr("fd00::7"), netip.MustParseAddr("10.244.1.7")}, Zone: "z2", Version: "1.2", Weight: &weight,
		Ports: []registry.EndpointPort{{Name: "https", Protocol: registry.TCP, Port: 8443}, {Name: "main", Protocol: registry.TCP, Port: 8080}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	got := c.one("/apps/web/w1")
	got.Lease, got.LastDirty, got.LastUpdated = wire.Lease{}, 0, 0
	equal(t, "instance", string(wire.Format{}.AppendInstance(nil, got)), string(wire.Format{}.AppendInstance(nil, &wire.Instance{
		InstanceID: "w1", HostName: "10.244.1.7", App: "WEB", IPAddr: "10.244.1.7", Status: wire.Up, Overridden: wire.Unknown,
		Port: wire.Port{Number: 8080, Enabled: true}, SecurePort: wire.Port{Number: 8443, Enabled: true}, CountryID: 1,
		DataCenter: &wire.DataCenter{Name: wire.MyOwn}, VIP: "web", SecureVIP: "web", Action: wire.Added,
		Metadata: map[string]string{"zone": "z2", "version": "1.2", "weight": "3"},
	})))
	c.want(http.StatusNoContent, http.MethodPost, "/apps/MY_SVC", body("my_svc", "i", `"metadata":{"zone":"z1","weight":"5","version":"9","k":"v"},"leaseInfo":{"durationInSecs":7},`))
	var stored *registry.Instance
	var svc *registry.Service
	for b := range s.Hub.Watch(t.Context()) {
		for _, change := range b.Changes {
			if change.Instance != nil && change.Instance.Service == "my-svc" {
				stored = change.Instance
			}
			if change.Service != nil && change.Service.Name.Name == "my-svc" {
				svc = change.Service
			}
		}
		if stored != nil && svc != nil {
			break
		}
	}
	if stored == nil || svc == nil {
		t.Fatalf("instance %v of service %v", stored, svc)
	}
	if stored.ID != "i" || stored.Zone != "z1" || stored.Version != "9" || *stored.Weight != 5 || stored.Lease != 7 || stored.Status != registry.InstanceUp ||
		len(stored.Ports) != 1 || stored.Ports[0] != (registry.EndpointPort{Name: "http", Protocol: registry.TCP, Port: 8080}) {
		t.Errorf("instance %+v", stored)
	}
	if len(svc.VIPs) != 2 || svc.Ports[0].Port != 8080 || svc.Ports[0].TargetName != "http" {
		t.Errorf("service %+v", svc)
	}
	// The two names are one service; one id cannot be both.
	a := c.do(http.MethodPost, "/apps/MY.SVC", body("MY.SVC", "i", ""))
	if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, "MY_SVC") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	c.want(http.StatusNoContent, http.MethodPost, "/apps/MY.SVC", body("MY.SVC", "j", ""))
	_, list := c.all("/apps")
	equal(t, "instances", words(list), "MY.SVC/j=UP,ADDED MY_SVC/i=UP,ADDED WEB/w1=UP,ADDED")
}

// TestVIP: by a switch of the service, readers get its address instead of its instances, which go on renewing.
func TestVIP(t *testing.T) {
	s, c := start(t, nil)
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i1", ""))
	c.want(http.StatusNoContent, http.MethodPost, "/apps/A", body("A", "i2", `"status":"DOWN",`))
	put := func(view registry.EurekaView) registry.Service {
		svc, rev, err := s.Store.PutService(t.Context(), registry.ServiceRequest{Service: registry.Service{
			Name: registry.Name{Namespace: "default", Name: "a"}, Eureka: view,
			Ports: []registry.ServicePort{{Name: "http", Protocol: registry.TCP, Port: 80, TargetName: "http"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Wait(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		return svc
	}
	vip := put(registry.EurekaVIP).VIPs[0].String()
	head, list := c.all("/apps")
	equal(t, "all", head.Hash+" "+words(list), "UP_1_ A/"+vip+":a=UP,ADDED")
	if i := list[0]; i.IPAddr != vip || i.HostName != vip || i.Port != (wire.Port{Number: 80, Enabled: true}) {
		t.Errorf("stands for the VIP: %+v", i)
	}
	_, list = c.all("/apps/delta")
	equal(t, "delta", words(list), "A/"+vip+":a=UP,ADDED A/i1=UP,DELETED A/i2=DOWN,DELETED")
	_, list = c.all("/vips/v2")
	equal(t, "vip", words(list), "A/"+vip+":a=UP,ADDED")
	c.want(http.StatusOK, http.MethodPut, "/apps/A/i1", "")
	equal(t, "instance", c.one("/apps/A/i1").IPAddr, "127.0.0.1")
	equal(t, "stands for it", c.one("/apps/A/"+vip+":a").IPAddr, vip)
	c.want(http.StatusNotFound, http.MethodPut, "/apps/A/"+vip+":a", "")
	c.want(http.StatusOK, http.MethodPut, "/apps/A/i1/status?value=DOWN", "")
	head, list = c.all("/apps")
	equal(t, "all down", head.Hash+" "+words(list), "DOWN_1_ A/"+vip+":a=DOWN,MODIFIED")
	c.want(http.StatusOK, http.MethodDelete, "/apps/A/i2", "")
	put(registry.EurekaInstances)
	head, list = c.all("/apps")
	equal(t, "instances again", head.Hash+" "+words(list), "DOWN_1_ A/i1=DOWN,MODIFIED")
	put(registry.EurekaVIP)
	c.want(http.StatusOK, http.MethodDelete, "/apps/A/i1", "")
	head, list = c.all("/apps")
	equal(t, "none", head.Hash+words(list), "")
}

// TestOthersMayNot: without a token, nobody changes an instance that is not at his address.
func TestOthersMayNot(t *testing.T) {
	_, c := start(t, nil)
	owner := c.with("Authorization", "Bearer "+eurekatest.Token)
	theirs := strings.Replace(body("A", "i", ""), "127.0.0.1", "10.1.2.3", 1)
	owner.want(http.StatusNoContent, http.MethodPost, "/apps/A", theirs)
	for _, r := range [][2]string{
		{http.MethodPut, "/apps/A/i"}, {http.MethodDelete, "/apps/A/i"}, {http.MethodPut, "/apps/A/i/status?value=DOWN"},
		{http.MethodDelete, "/apps/A/i/status"}, {http.MethodPut, "/apps/A/i/metadata?a=b"},
	} {
		a := c.do(r[0], r[1], "")
		if a.StatusCode != http.StatusForbidden {
			t.Errorf("%v: %d %s", r, a.StatusCode, a.body)
		}
		bad := c.with("Authorization", "Bearer nobody-has-this-token").do(r[0], r[1], "")
		if bad.StatusCode != http.StatusUnauthorized || bad.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%v with a wrong token: %d", r, bad.StatusCode)
		}
	}
	// Not even by its name.
	if a := c.do(http.MethodPost, "/apps/A", body("A", "i", "")); a.StatusCode != http.StatusForbidden {
		t.Errorf("took over: %d", a.StatusCode)
	}
	_, list := c.all("/apps")
	equal(t, "after", words(list), "A/i=UP,ADDED")
	equal(t, "address", list[0].IPAddr, "10.1.2.3")
	// The password of the service URL is a token.
	r, _ := http.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth("eureka", eurekatest.Token)
	c.with("Authorization", r.Header.Get("Authorization")).want(http.StatusOK, http.MethodDelete, "/apps/A/i", "")
}
