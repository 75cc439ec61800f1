package crowd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka"
	"github.com/sluice-net/sluice/tests/nstest"
)

// Lease is that of instances which register by Eureka's protocol, in seconds: what its clients ask for by default.
const Lease = 90

const eurekaToken = "of-the-bench-0123456789"

// Eureka speaks Eureka's protocol to a node's agent, on the node's loopback.
type Eureka struct {
	http *http.Client
	base string
	file string // of tokens
}

// NewEureka makes a node whose agent lets the bench write what it likes: it has a token. Both are to be closed.
func NewEureka(ctx context.Context, lab *nstest.Lab) (node *nstest.Node, e *Eureka, err error) {
	file, err := os.CreateTemp("", "sluice-bench-tokens-")
	if err != nil {
		return nil, nil, err
	}
	e = &Eureka{file: file.Name(), base: fmt.Sprintf("http://127.0.0.1:%d/eureka/", eureka.Port)}
	_, err = fmt.Fprintf(file, "bench %s\n", eurekaToken)
	if err = errors.Join(err, file.Close()); err == nil {
		node, err = lab.New(ctx, nstest.Settings{
			MapScale: 1, More: fmt.Sprintf("access: {tokens: %s}", e.file),
		})
	}
	if err != nil {
		return nil, nil, errors.Join(err, os.Remove(e.file))
	}
	e.http = &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: Writers, DisableCompression: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = node.InNetns(func() (err error) {
				conn, err = new(net.Dialer).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
	return node, e, nil
}

// Close ends the connections and removes the file of tokens. The node stays.
func (e *Eureka) Close() error {
	e.http.CloseIdleConnections()
	return os.Remove(e.file)
}

// ErrTooOften is wrapped when the agent bounds how often, or how much, one address may ask.
var ErrTooOften = errors.New("asked too often")

// Ask returns the length of the answer's body; the status is to be as wanted.
func (e *Eureka) Ask(ctx context.Context, method, path, encoding, body string, want int) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, method, e.base+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.SetBasicAuth("bench", eurekaToken)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept-Encoding", encoding)
	res, err := e.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil && res.StatusCode != want && res.StatusCode == http.StatusServiceUnavailable {
		return n, fmt.Errorf("%s %s: %w", method, path, ErrTooOften)
	}
	if err == nil && res.StatusCode != want {
		err = fmt.Errorf("%s %s: %s", method, path, res.Status)
	}
	return n, err
}

// Renew heartbeats.
func (e *Eureka) Renew(ctx context.Context, id registry.InstanceID) error {
	_, err := e.Ask(ctx, http.MethodPut, InstancePath(id), "identity", "", http.StatusOK)
	return err
}

// InstancePath is where Eureka's protocol has an instance.
func InstancePath(id registry.InstanceID) string {
	return "apps/" + strings.ToUpper(id.Service) + "/" + id.ID
}

// Register registers an instance with what Spring's clients tell of one.
func (e *Eureka) Register(ctx context.Context, i registry.Instance) error {
	app := strings.ToUpper(i.Service)
	body := fmt.Sprintf(`{"instance":{"instanceId":%q,"hostName":"host-%[2]s","app":%q,"ipAddr":%[2]q,"status":"UP","overriddenStatus":"UNKNOWN",
"port":{"$":8080,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"countryId":1,
"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},
"leaseInfo":{"renewalIntervalInSecs":30,"durationInSecs":%[4]d,"registrationTimestamp":0,"lastRenewalTimestamp":0,"evictionTimestamp":0,"serviceUpTimestamp":0},
"metadata":{"management.port":"8081","build":"2041"},"homePageUrl":"http://%[2]s:8080/","statusPageUrl":"http://%[2]s:8080/actuator/info",
"healthCheckUrl":"http://%[2]s:8080/actuator/health","vipAddress":%[5]q,"secureVipAddress":%[5]q,"isCoordinatingDiscoveryServer":"false",
"lastUpdatedTimestamp":"1700000000000","lastDirtyTimestamp":"1700000000000"}}`, i.ID, i.Addresses[0], app, Lease, i.Service)
	_, err := e.Ask(ctx, http.MethodPost, "apps/"+app, "identity", body, http.StatusNoContent)
	return err
}
