package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// Instance is one item of GET /v1/instances.
type Instance struct {
	registry.Instance
	// Effective is the status that counts: the override, if there is one.
	Effective registry.InstanceStatus `json:"effective"`
	// Ready is set when it takes new connections: it is up, and its checks pass.
	Ready bool `json:"ready"`
	// Health is set while its checks fail.
	Health *Health `json:"health,omitempty"`
	// Lapsed is set when its lease has run out and it is still to be let go.
	Lapsed bool `json:"lapsed,omitempty"`
}

// Health says why an instance's checks fail.
type Health struct {
	Node   string    `json:"node"` // that found it so
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
}

// OverrideRequest is the body of PUT /v1/instances/NAMESPACE/SERVICE/ID/override.
type OverrideRequest struct {
	Status registry.InstanceStatus `json:"status"`
}

// InstanceQuery chooses instances: those that meet all of its fields that are set.
type InstanceQuery struct {
	Namespace, Service string
	Status             registry.InstanceStatus // that counts
	Node               string
	// Selector is a Kubernetes label selector for the metadata.
	Selector string
}

// Values writes the query as a URL has it.
func (q InstanceQuery) Values() url.Values {
	v := url.Values{}
	for key, text := range map[string]string{
		"namespace": q.Namespace, "service": q.Service, "status": string(q.Status), "node": q.Node, "labelSelector": q.Selector,
	} {
		if text != "" {
			v.Set(key, text)
		}
	}
	return v
}

// Instances returns those that a query chooses, sorted by namespace, service and id.
func (c *Client) Instances(ctx context.Context, q InstanceQuery) ([]Instance, error) {
	return all[Instance](ctx, c, "/v1/instances", q.Values())
}

// Instance returns one.
func (c *Client) Instance(ctx context.Context, id registry.InstanceID) (i Instance, err error) {
	err = c.do(ctx, http.MethodGet, instancePath(id), nil, &i)
	return i, err
}

// Register registers an instance, or registers it again.
func (c *Client) Register(ctx context.Context, i registry.Instance) (r Results, err error) {
	body, err := json.Marshal(i)
	if err != nil {
		return r, err
	}
	err = c.do(ctx, http.MethodPost, "/v1/instances", body, &r)
	return r, err
}

// Heartbeat renews an instance's lease.
func (c *Client) Heartbeat(ctx context.Context, id registry.InstanceID) error {
	return c.do(ctx, http.MethodPost, instancePath(id)+"/heartbeat", nil, nil)
}

// UpdateInstance changes fields of an instance: patch is a JSON merge patch (RFC 7386).
func (c *Client) UpdateInstance(ctx context.Context, id registry.InstanceID, patch []byte) (r Results, err error) {
	err = c.do(ctx, http.MethodPatch, instancePath(id), patch, &r)
	return r, err
}

// Override has an instance count as if it were in a status, whatever it says itself; "" ends that.
func (c *Client) Override(ctx context.Context, id registry.InstanceID, status registry.InstanceStatus) (r Results, err error) {
	if status == "" {
		err = c.do(ctx, http.MethodDelete, instancePath(id)+"/override", nil, &r)
		return r, err
	}
	body, err := json.Marshal(OverrideRequest{Status: status})
	if err != nil {
		return r, err
	}
	err = c.do(ctx, http.MethodPut, instancePath(id)+"/override", body, &r)
	return r, err
}

// Deregister removes an instance.
func (c *Client) Deregister(ctx context.Context, id registry.InstanceID) (r Results, err error) {
	err = c.do(ctx, http.MethodDelete, instancePath(id), nil, &r)
	return r, err
}

func instancePath(id registry.InstanceID) string {
	return "/v1/instances/" + url.PathEscape(id.Namespace) + "/" + url.PathEscape(id.Service) + "/" + url.PathEscape(id.ID)
}

// pageSize is how many items the client asks for at a time.
const pageSize = 1000

// all returns the items of all pages of a list.
func all[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	if query == nil {
		query = url.Values{}
	}
	query.Set("limit", strconv.Itoa(pageSize))
	items := []T{}
	for {
		var page List[T]
		if err := c.do(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		items = append(items, page.Items...)
		if page.Continue == "" {
			return items, nil
		}
		query.Set("continue", page.Continue)
	}
}
