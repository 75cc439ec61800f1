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

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/eureka"
	"github.com/sluice-net/sluice/tests/nstest"
)

const eurekaToken = "of-the-bench-0123456789"

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
			MapScale: 1, More: fmt.Sprintf("access: {tokens: %s}", c.file),
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
