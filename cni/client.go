package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// ErrUnavailable marks what Client returns when no agent answers, or one that is not ready yet.
var ErrUnavailable = errors.New("the agent does not answer")

// How long a call waits for an agent that is being restarted, and for an answer.
const (
	addPatience = 10 * time.Second
	delPatience = 2 * time.Second
	callTimeout = 20 * time.Second
	firstPause  = 5 * time.Millisecond
	longPause   = 200 * time.Millisecond
)

// Client speaks to the agent. What the agent refuses comes back as a *types.Error.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client of the agent behind a unix socket. It connects when first used.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close lets go of the connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Add reserves. An agent that is being restarted is waited for.
func (c *Client) Add(ctx context.Context, r AddRequest) (reply AddReply, err error) {
	err = c.call(ctx, PathAdd, r, &reply, addPatience)
	return reply, err
}

// Attach has the agent put its programs on the interface and set the host side up. An agent that is
// being restarted is waited for.
func (c *Client) Attach(ctx context.Context, r CommitRequest) error {
	return c.call(ctx, PathAttach, r, nil, addPatience)
}

// Commit tells the agent that the container can be reached. An agent that is being restarted is
// waited for.
func (c *Client) Commit(ctx context.Context, r CommitRequest) error {
	return c.call(ctx, PathCommit, r, nil, addPatience)
}

// Del removes. An agent that crashed is waited for, one that was stopped is not.
func (c *Client) Del(ctx context.Context, r DelRequest) error {
	return c.call(ctx, PathDel, r, nil, delPatience)
}

// Check compares the agent's side with the record.
func (c *Client) Check(ctx context.Context, r CheckRequest) (reply CheckReply, err error) {
	err = c.call(ctx, PathCheck, r, &reply, delPatience)
	return reply, err
}

// GC removes what is not valid.
func (c *Client) GC(ctx context.Context, r GCRequest) error {
	return c.call(ctx, PathGC, r, nil, delPatience)
}

// Status returns nil when an ADD would succeed.
func (c *Client) Status(ctx context.Context) error {
	return c.call(ctx, PathStatus, StatusRequest{}, nil, 0)
}

// call posts a request until an agent answers or patience is used up. All requests may be repeated:
// the agent may have died after it did what was asked and before it said so.
func (c *Client) call(ctx context.Context, path string, in, out any, patience time.Duration) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request %s: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	deadline := time.Now().Add(patience)
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := c.post(ctx, path, body, out)
		stopped := patience < addPatience && errors.Is(err, os.ErrNotExist)
		if !errors.Is(err, ErrUnavailable) || stopped || time.Now().Add(pause).After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func (c *Client) post(ctx context.Context, path string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sluiced"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("request %s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unavailable(err)
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, MaxReply+1))
	switch {
	case err != nil:
		return c.unavailable(err)
	case len(reply) > MaxReply:
		return fmt.Errorf("request %s: the agent's reply exceeds %d bytes", path, MaxReply)
	case resp.StatusCode != http.StatusOK:
		return decodeRefusal(path, resp, reply)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(reply, out); err != nil {
		return fmt.Errorf("request %s: decode the agent's reply: %w", path, err)
	}
	return nil
}

// unavailable marks an error of the connection, unless it will not go away by itself: no permission,
// or a path that cannot be a socket's. The others come in many forms, not all of which have a name
// (net/http has its own for a server that dies between two requests).
func (c *Client) unavailable(err error) error {
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("reach the agent at %s: %w", c.socket, err)
	}
	return fmt.Errorf("%w at %s: %w", ErrUnavailable, c.socket, err)
}

func decodeRefusal(path string, resp *http.Response, reply []byte) error {
	var refusal types.Error
	if err := json.Unmarshal(reply, &refusal); err != nil || refusal.Msg == "" {
		return fmt.Errorf("request %s: the agent answered %s: %.200q", path, resp.Status, reply)
	}
	if resp.StatusCode == http.StatusServiceUnavailable && refusal.Code == types.ErrTryAgainLater {
		return fmt.Errorf("%w: %w", ErrUnavailable, &refusal)
	}
	return &refusal
}
