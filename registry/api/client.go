package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/sluice-net/sluice/registry"
)

const (
	maxAnswer      = 256 << 20        // bytes
	requestTimeout = 60 * time.Second // longer than any handler takes
)

// Client talks to an agent. It may be used concurrently.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client for the agent's socket. It connects when it is used.
func NewClient(socket string) *Client {
	var d net.Dialer
	return &Client{socket: socket, http: &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialContext(ctx, "unix", socket)
			},
			DisableCompression: true,
		},
	}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns how the node does.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// Apply writes the objects of some YAML or JSON documents.
func (c *Client) Apply(ctx context.Context, documents []byte) (r Results, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/apply", documents, &r)
	return r, err
}

// DeleteDocuments deletes the objects that some YAML or JSON documents name.
func (c *Client) DeleteDocuments(ctx context.Context, documents []byte) (r Results, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/delete", documents, &r)
	return r, err
}

// DeleteService deletes one service, with the slices that it owns; the results name them, too.
func (c *Client) DeleteService(ctx context.Context, n registry.Name) (r Results, err error) {
	err = c.do(ctx, http.MethodDelete, servicePath(n), nil, &r)
	return r, err
}

// Services returns the services of a namespace, or with "" of all, sorted by name.
func (c *Client) Services(ctx context.Context, namespace string) ([]Service, error) {
	return all[Service](ctx, c, "/v1/services", url.Values{"namespace": {namespace}})
}

// KubernetesServices returns the same as Kubernetes objects in JSON.
func (c *Client) KubernetesServices(ctx context.Context, namespace string) ([]json.RawMessage, error) {
	return all[json.RawMessage](ctx, c, "/v1/services", url.Values{"as": {"kubernetes"}, "namespace": {namespace}})
}

// Service returns one service.
func (c *Client) Service(ctx context.Context, n registry.Name) (s Service, err error) {
	err = c.do(ctx, http.MethodGet, servicePath(n), nil, &s)
	return s, err
}

// KubernetesService returns a service as a Kubernetes object in JSON.
func (c *Client) KubernetesService(ctx context.Context, n registry.Name) (object json.RawMessage, err error) {
	err = c.do(ctx, http.MethodGet, servicePath(n)+"?as=kubernetes", nil, &object)
	return object, err
}

// Slices returns the slices of a namespace, or with "" of all, sorted by name.
func (c *Client) Slices(ctx context.Context, namespace string) ([]registry.Slice, error) {
	return all[registry.Slice](ctx, c, "/v1/endpointslices", url.Values{"namespace": {namespace}})
}

// KubernetesSlices returns the same as Kubernetes objects in JSON.
func (c *Client) KubernetesSlices(ctx context.Context, namespace string) ([]json.RawMessage, error) {
	return all[json.RawMessage](ctx, c, "/v1/endpointslices", url.Values{"as": {"kubernetes"}, "namespace": {namespace}})
}

// DeleteSlice deletes one slice.
func (c *Client) DeleteSlice(ctx context.Context, n registry.Name) (r Results, err error) {
	err = c.do(ctx, http.MethodDelete, "/v1/endpointslices/"+url.PathEscape(n.Namespace)+"/"+url.PathEscape(n.Name), nil, &r)
	return r, err
}

// Policies returns the policies of a namespace, or with "" of all, and those of the whole cluster, in the
// order in which they are asked. With containers each says which ones it is about.
func (c *Client) Policies(ctx context.Context, namespace string, containers bool) ([]Policy, error) {
	return all[Policy](ctx, c, "/v1/policies", url.Values{"containers": {strconv.FormatBool(containers)}, "namespace": {namespace}})
}

// KubernetesPolicies returns the same as Kubernetes objects in JSON; status.containers says which containers
// a policy is about.
func (c *Client) KubernetesPolicies(ctx context.Context, namespace string) ([]json.RawMessage, error) {
	return all[json.RawMessage](ctx, c, "/v1/policies", url.Values{"as": {"kubernetes"}, "namespace": {namespace}})
}

// DeletePolicy deletes one policy.
func (c *Client) DeletePolicy(ctx context.Context, id registry.PolicyID) (r Results, err error) {
	path := "/v1/policies/" + url.PathEscape(id.Tier.String()) + "/"
	if id.Namespace != "" {
		path += url.PathEscape(id.Namespace) + "/"
	}
	err = c.do(ctx, http.MethodDelete, path+url.PathEscape(id.Name.Name), nil, &r)
	return r, err
}

// Namespaces returns the namespaces with all their labels, sorted by name.
func (c *Client) Namespaces(ctx context.Context) ([]registry.Namespace, error) {
	return all[registry.Namespace](ctx, c, "/v1/namespaces", nil)
}

// KubernetesNamespaces returns the same as Kubernetes objects in JSON.
func (c *Client) KubernetesNamespaces(ctx context.Context) ([]json.RawMessage, error) {
	return all[json.RawMessage](ctx, c, "/v1/namespaces", url.Values{"as": {"kubernetes"}})
}

// DeleteNamespace deletes a namespace's labels, and nothing that lies in it.
func (c *Client) DeleteNamespace(ctx context.Context, name string) (r Results, err error) {
	err = c.do(ctx, http.MethodDelete, "/v1/namespaces/"+url.PathEscape(name), nil, &r)
	return r, err
}

// Endpoints returns all endpoints, sorted by id.
func (c *Client) Endpoints(ctx context.Context) ([]registry.Endpoint, error) {
	return all[registry.Endpoint](ctx, c, "/v1/endpoints", nil)
}

// Label sets and removes labels of a container.
func (c *Client) Label(ctx context.Context, l LabelRequest) (r Results, err error) {
	body, err := json.Marshal(l)
	if err != nil {
		return r, err
	}
	err = c.do(ctx, http.MethodPost, "/v1/endpoints/label", body, &r)
	return r, err
}

// Mark changes conditions of a container.
func (c *Client) Mark(ctx context.Context, m MarkRequest) (r Results, err error) {
	body, err := json.Marshal(m)
	if err != nil {
		return r, err
	}
	err = c.do(ctx, http.MethodPost, "/v1/endpoints/mark", body, &r)
	return r, err
}

// Check compares the node's maps with the registry.
func (c *Client) Check(ctx context.Context) (r CheckResult, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/check", nil, &r)
	return r, err
}

// Version returns the agent's version.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/version", nil, &v)
	return v, err
}

func servicePath(n registry.Name) string {
	return "/v1/services/" + url.PathEscape(n.Namespace) + "/" + url.PathEscape(n.Name)
}

// do sends a request and reads the answer into out. An answer with an error status becomes *Error.
func (c *Client) do(ctx context.Context, method, path string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://sluiced"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask agent: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the agent's answer to %s %s: %w", method, path, err)
	}
	if res.StatusCode/100 != 2 {
		return failed(res, b, method, path)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read the agent's answer to %s %s: %w", method, path, err)
	}
	return nil
}

// failed is the error that an answer tells.
func failed(res *http.Response, body []byte, method, path string) error {
	e := &Error{}
	if json.Unmarshal(body, e) != nil || e.Message == "" {
		e = &Error{Message: fmt.Sprintf("agent answered %s to %s %s", res.Status, method, path)}
	}
	e.Status = res.StatusCode
	return e
}

// explain says what to do about an agent that cannot be reached.
func (c *Client) explain(err error) error {
	var what string
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, os.ErrNotExist):
		what = "there is no such socket: is sluiced running, and is this its socket? (--socket or SLUICE_SOCKET; \"systemctl status sluiced\")"
	case errors.Is(err, syscall.ECONNREFUSED):
		what = "nobody listens: sluiced has stopped or is just starting (\"systemctl status sluiced\")"
	case errors.Is(err, os.ErrPermission):
		what = "permission denied: only root may talk to the agent (try sudo)"
	case errors.Is(err, context.DeadlineExceeded), os.IsTimeout(err):
		what = "no answer in time: sluiced is very busy or hangs (its log may say why)"
	default:
		return fmt.Errorf("ask agent at %s: %w", c.socket, err)
	}
	return &UnreachableError{Socket: c.socket, What: what, Err: err}
}

// UnreachableError is returned when no agent answers at the socket.
type UnreachableError struct {
	Socket string
	What   string // what is wrong and what to do
	Err    error
}

// Error implements error.
func (e *UnreachableError) Error() string { return fmt.Sprintf("no agent at %s: %s", e.Socket, e.What) }

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }
