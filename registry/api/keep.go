package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/sluice-net/sluice/registry"
)

// Node is one item of GET /v1/nodes.
type Node struct {
	registry.Node
	// Agent is there while the node's agent is at work and reaches the store.
	Agent     *registry.NodeLease `json:"agent,omitempty"`
	Endpoints int                 `json:"endpoints"` // containers' interfaces there
}

// Restored is the answer to POST /v1/restore.
type Restored struct {
	registry.Restored
	// Synced is set when this node's maps reflect what was written; Warning says why not.
	Synced  bool   `json:"synced"`
	Warning string `json:"warning,omitempty"`
}

// Nodes returns all nodes, sorted by name.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	return all[Node](ctx, c, "/v1/nodes", nil)
}

// DeleteNode deletes a node that is no more, with the endpoints that it had.
func (c *Client) DeleteNode(ctx context.Context, name string) (r Results, err error) {
	err = c.do(ctx, http.MethodDelete, "/v1/nodes/"+url.PathEscape(name), nil, &r)
	return r, err
}

// Backup writes a snapshot of the registry to w. Part of it may have been written when there is an error.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	res, err := c.ask(ctx, http.MethodGet, "/v1/backup", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(w, res.Body); err != nil {
		return fmt.Errorf("read the agent's backup: %w", err)
	}
	return nil
}

// Restore makes the registry what it was when a backup was made.
func (c *Client) Restore(ctx context.Context, backup io.Reader) (r Restored, err error) {
	res, err := c.ask(ctx, http.MethodPost, "/v1/restore", backup)
	if err != nil {
		return r, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&r); err != nil {
		return r, fmt.Errorf("read the agent's answer: %w", err)
	}
	return r, nil
}

// ask sends a request that may take as long as ctx lets it, and returns an answer of status 2xx.
func (c *Client) ask(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://sluiced"+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask agent: %w", err)
	}
	patient := http.Client{Transport: c.http.Transport}
	res, err := patient.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the agent's answer to %s %s: %w", method, path, err)
	}
	return nil, failed(res, b, method, path)
}
