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
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry/eureka"
	"github.com/sluice-net/sluice/tests/nstest"
)

// stockInstance is an instance as a stock server writes it in a batch; the fields are those that it cannot do without.
const stockInstance = `{"instanceId":%q,"hostName":"web.example","app":"STOCK","ipAddr":%q,"status":"UP","overriddenStatus":"UNKNOWN",
"port":{"$":%d,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"countryId":1,
"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},
"leaseInfo":{"renewalIntervalInSecs":30,"durationInSecs":90,"registrationTimestamp":0,"lastRenewalTimestamp":0,"evictionTimestamp":0,"serviceUpTimestamp":0},
"metadata":{"@class":"java.util.Collections$EmptyMap"},"vipAddress":"stock","isCoordinatingDiscoveryServer":"false",
"lastUpdatedTimestamp":"%[4]d","lastDirtyTimestamp":"%[4]d","actionType":"ADDED"}`

// stockPeer passes on to a node what happens to the one instance that it has, as a server of Netflix's does: in
// batches, to which it wants a result for each task.
type stockPeer struct {
	http  *http.Client
	url   string
	token string
	id    string
	at    netip.AddrPort
	dirty int64 // when the instance last changed, in milliseconds since 1970
	other json.RawMessage
}

func newStockPeer(n *nstest.Node, token, id string, at netip.AddrPort) *stockPeer {
	return &stockPeer{
		url: fmt.Sprintf("http://127.0.0.1:%d/eureka/", eureka.Port), token: token, id: id, at: at, dirty: 1_700_000_000_000,
		http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
				err = n.InNetns(func() error {
					conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
					return err
				})
				return conn, err
			},
		}},
	}
}

// task is one of a batch, with what the action needs besides the instance's names.
func (p *stockPeer) task(action, status string) string {
	more := ""
	if action != "Cancel" {
		more = fmt.Sprintf(`,"lastDirtyTimestamp":%d,"status":%q`, p.dirty, status)
	}
	if action == "Register" {
		more += `,"instanceInfo":` + fmt.Sprintf(stockInstance, p.id, p.at.Addr(), p.at.Port(), p.dirty)
	}
	return fmt.Sprintf(`{"appName":"STOCK","id":%q%s,"action":%q}`, p.id, more, action)
}

// tell sends a batch and returns the codes of its results. With 409 comes the other's instance.
func (p *stockPeer) tell(t *testing.T, tasks ...string) (codes []int) {
	t.Helper()
	body := `{"replicationList":[` + strings.Join(tasks, ",") + `]}`
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"peerreplication/batch/", bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"Accept": "application/json", "Content-Type": "application/json", "DiscoveryIdentity-Name": "DefaultServer",
		"DiscoveryIdentity-Version": "1.0", "DiscoveryIdentity-Id": "127.0.0.1", "User-Agent": "Java-EurekaClient-Replication/v2.0",
	} {
		r.Header.Set(key, value)
	}
	if p.token != "" {
		r.SetBasicAuth("peer", p.token)
	}
	answer, err := p.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("batch: %s, %v: %s", answer.Status, err, data)
	}
	var results struct {
		ResponseList []struct {
			StatusCode     int
			ResponseEntity json.RawMessage
		}
	}
	if err := json.Unmarshal(data, &results); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	for _, one := range results.ResponseList {
		codes = append(codes, one.StatusCode)
		if one.StatusCode == http.StatusConflict {
			p.other = one.ResponseEntity
		}
	}
	return codes
}

// wants sends a batch of which the results are these.
func (p *stockPeer) wants(t *testing.T, want []int, tasks ...string) {
	t.Helper()
	if codes := p.tell(t, tasks...); fmt.Sprint(codes) != fmt.Sprint(want) {
		t.Errorf("the results of %s are %v, want %v", tasks, codes, want)
	}
}

// TestEurekaPeer: what a stock server of Eureka passes on becomes backends here, as what clients say themselves does,
// and whoever of the two knows less of an instance learns it.
func TestEurekaPeer(t *testing.T) {
	const token = "stock-peer-0123456789"
	tokens := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(tokens, []byte("peer "+token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &eurekaWorld{n: newNode(t, nstest.Settings{More: fmt.Sprintf("access: {tokens: %s}", tokens)})}
	w.customer = addContainer(t, w.n, "customer", nil)
	c := newEurekaClient(t, addContainer(t, w.n, "web", nil), speaksJSON, "stock")
	w.clients = append(w.clients, c)
	at := netip.AddrPortFrom(c.ip, nstest.Port)

	// Whoever has no token passes on nothing.
	stranger := newStockPeer(w.n, "", c.id(), at)
	if codes := stranger.tell(t, stranger.task("Register", "UP")); len(codes) != 1 || codes[0] != http.StatusForbidden && codes[0] != http.StatusUnauthorized {
		t.Errorf("without a token the results are %v", codes)
	}
	p := newStockPeer(w.n, token, c.id(), at)
	p.wants(t, []int{404}, p.task("Heartbeat", "UP")) // then it sends everything
	p.wants(t, []int{200, 200}, p.task("Register", "UP"), p.task("Heartbeat", "UP"))
	w.serves(t, c)
	i := c.instance()
	i.Host, i.SecureVIP, i.Metadata = "web.example", "", map[string]string{}
	w.all(t, c, false, i)

	p.wants(t, []int{200}, p.task("StatusUpdate", "OUT_OF_SERVICE"))
	w.awaitBackends(t, c)
	p.wants(t, []int{200}, p.task("DeleteStatusOverride", "UP"))
	w.serves(t, c)

	// The client turns to this node, which knows more from then on.
	c.do(t, eurekaOrder{Do: "reregister", App: i.App, ID: i.ID, Host: "new.example", IP: i.IP, Port: i.Port, VIP: i.VIP, Renewal: 30, Duration: 90})
	p.wants(t, []int{409}, p.task("Heartbeat", "UP"))
	var learnt struct{ HostName, InstanceID string }
	if err := json.Unmarshal(p.other, &learnt); err != nil || learnt.HostName != "new.example" || learnt.InstanceID != i.ID {
		t.Errorf("with 409 came %s, %v", p.other, err)
	}
	// And back: there it has changed since.
	p.dirty = time.Now().Add(time.Minute).UnixMilli()
	p.wants(t, []int{404}, p.task("Heartbeat", "UP"))
	p.wants(t, []int{200, 200}, p.task("Register", "UP"), p.task("Heartbeat", "UP"))
	w.all(t, c, false, i)
	w.serves(t, c)

	p.wants(t, []int{200, 404}, p.task("Cancel", ""), p.task("Cancel", ""))
	w.ended(t, c)
}
