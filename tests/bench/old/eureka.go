package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka"
	"github.com/sluice-net/sluice/tests/nstest"
)

const (
	eurekaApps      = 500
	eurekaInstances = 10_000
	eurekaClients   = 8                      // that ask, each as soon as it has its answer
	eurekaFor       = 300 * time.Millisecond // each question, times the rounds
	eurekaChanges   = 100                    // changed instances that a small delta holds
	eurekaToken     = "of-the-bench-0123456789"
)

// eurekaClient speaks Eureka's protocol to a node's agent, on the node's loopback.
type eurekaClient struct {
	http *http.Client
	base string
	file string // of tokens
}

// newEurekaNode makes a node whose agent lets the bench write what it likes, as often as it likes.
func newEurekaNode(ctx context.Context, lab *nstest.Lab) (node *nstest.Node, c *eurekaClient, err error) {
	file, err := os.CreateTemp("", "sluice-bench-tokens-")
	if err != nil {
		return nil, nil, err
	}
	c = &eurekaClient{file: file.Name(), base: fmt.Sprintf("http://127.0.0.1:%d/eureka/", eureka.Port)}
	_, err = fmt.Fprintf(file, "bench %s\n", eurekaToken)
	if err = errors.Join(err, file.Close()); err == nil {
		node, err = lab.New(ctx, nstest.Settings{
			MapScale: 1, More: fmt.Sprintf("access: {tokens: %s}\neureka: {rate: 1000000}", c.file),
		})
	}
	if err != nil {
		return nil, nil, errors.Join(err, os.Remove(c.file))
	}
	c.http = &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: writers, DisableCompression: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = node.InNetns(func() (err error) {
				conn, err = new(net.Dialer).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
	return node, c, nil
}

func (c *eurekaClient) close() error {
	c.http.CloseIdleConnections()
	return os.Remove(c.file)
}

// ask returns the length of the answer's body; the status is to be as wanted.
func (c *eurekaClient) ask(ctx context.Context, method, path, encoding, body string, want int) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.SetBasicAuth("bench", eurekaToken)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept-Encoding", encoding)
	res, err := c.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil && res.StatusCode != want {
		err = fmt.Errorf("%s %s: %s", method, path, res.Status)
	}
	return n, err
}

// renew heartbeats.
func (c *eurekaClient) renew(ctx context.Context, id registry.InstanceID) error {
	_, err := c.ask(ctx, http.MethodPut, instancePath(id), "identity", "", http.StatusOK)
	return err
}

func instancePath(id registry.InstanceID) string {
	return "apps/" + strings.ToUpper(id.Service) + "/" + id.ID
}

// register registers an instance with what Spring's clients tell of one.
func (c *eurekaClient) register(ctx context.Context, i registry.Instance) error {
	app := strings.ToUpper(i.Service)
	body := fmt.Sprintf(`{"instance":{"instanceId":%q,"hostName":"host-%[2]s","app":%q,"ipAddr":%[2]q,"status":"UP","overriddenStatus":"UNKNOWN",
"port":{"$":8080,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"countryId":1,
"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},
"leaseInfo":{"renewalIntervalInSecs":30,"durationInSecs":%[4]d,"registrationTimestamp":0,"lastRenewalTimestamp":0,"evictionTimestamp":0,"serviceUpTimestamp":0},
"metadata":{"management.port":"8081","build":"2041"},"homePageUrl":"http://%[2]s:8080/","statusPageUrl":"http://%[2]s:8080/actuator/info",
"healthCheckUrl":"http://%[2]s:8080/actuator/health","vipAddress":%[5]q,"secureVipAddress":%[5]q,"isCoordinatingDiscoveryServer":"false",
"lastUpdatedTimestamp":"1700000000000","lastDirtyTimestamp":"1700000000000"}}`, i.ID, i.Addresses[0], app, scaleLease, i.Service)
	_, err := c.ask(ctx, http.MethodPost, "apps/"+app, "identity", body, http.StatusNoContent)
	return err
}

// eurekaServer measures what Eureka's clients ask for all the time.
func eurekaServer(ctx context.Context, lab *nstest.Lab, rounds int) (err error) {
	node, c, err := newEurekaNode(ctx, lab)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close(), node.Close()) }()
	instance := func(n int) registry.Instance { return instanceOf(n%eurekaApps, n/eurekaApps) }
	took, err := inParallel(ctx, eurekaInstances, func(ctx context.Context, n int) error { return c.register(ctx, instance(n)) })
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "Eureka's protocol, %d instances of %d applications\ta second\tp50 ms\tp99 ms\tbody, KB\tagent's CPU, us\t\n", eurekaInstances, eurekaApps)
	fmt.Fprintf(w, "POST, registered, %d clients\t%.0f\t\t\t\t\t\n", writers, eurekaInstances/took.Seconds())
	l := &eurekaLoad{node: node, client: c, w: w, each: eurekaFor * time.Duration(rounds)}
	renew := func(ctx context.Context, n int) (int64, error) {
		return 0, c.renew(ctx, instance(n%eurekaInstances).InstanceID)
	}
	if err := errors.Join(
		l.run(ctx, "GET of an instance that is not there", func(ctx context.Context, n int) (int64, error) {
			return c.ask(ctx, http.MethodGet, "apps/NONE/none", "gzip", "", http.StatusNotFound)
		}),
		l.run(ctx, "PUT, heartbeat", renew),
		l.get(ctx, "GET apps/delta of all of them, gzip", "apps/delta", "gzip"),
		l.get(ctx, "GET apps, gzip", "apps/", "gzip"),
		l.get(ctx, "GET apps, plain", "apps/", "identity"),
	); err != nil {
		return err
	}
	// An agent that has just started knows of no change.
	if err := errors.Join(node.StopAgent(), node.StartAgent(ctx)); err != nil {
		return err
	}
	if _, err := inParallel(ctx, eurekaChanges, func(ctx context.Context, n int) error {
		_, err := c.ask(ctx, http.MethodPut, instancePath(instance(n).InstanceID)+"/status?value=OUT_OF_SERVICE", "identity", "", http.StatusOK)
		return err
	}); err != nil {
		return err
	}
	if err := l.get(ctx, fmt.Sprintf("GET apps/delta of %d, gzip", eurekaChanges), "apps/delta", "gzip"); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// eurekaLoad asks the same again and again.
type eurekaLoad struct {
	node   *nstest.Node
	client *eurekaClient
	w      io.Writer
	each   time.Duration
}

func (l *eurekaLoad) get(ctx context.Context, name, path, encoding string) error {
	return l.run(ctx, name, func(ctx context.Context, _ int) (int64, error) {
		return l.client.ask(ctx, http.MethodGet, path, encoding, "", http.StatusOK)
	})
}

// run asks for a while, and prints how often that was and how long it took.
func (l *eurekaLoad) run(ctx context.Context, name string, ask func(ctx context.Context, n int) (int64, error)) error {
	if _, err := ask(ctx, 0); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	before, err := usageOf(l.node.AgentPID())
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var all []time.Duration
	var next, size atomic.Int64
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for range eurekaClients {
		group.Go(func() error {
			var took []time.Duration
			for time.Since(start) < l.each {
				sent := time.Now()
				n, err := ask(ctx, int(next.Add(1)))
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				size.Store(n)
				took = append(took, time.Since(sent))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	lasted := time.Since(start)
	after, err := usageOf(l.node.AgentPID())
	fmt.Fprintf(l.w, "%s\t%.0f\t%.2f\t%.2f\t%.1f\t%.0f\t\n", name, float64(len(all))/lasted.Seconds(),
		millis(quantile(all, 0.5)), millis(quantile(all, 0.99)), float64(size.Load())/1e3,
		(after.cpu-before.cpu).Seconds()*1e6/float64(len(all)))
	return err
}
