package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/sluice-net/sluice/registry"
)

// WhyQuery is what GET /v1/why is asked for; a registry.Trace answers it.
type WhyQuery struct {
	// From is a container (id, NAMESPACE/NAME, NAME or the beginning of an id), an address, node or world.
	From string
	// To is the same, or a service: NAMESPACE/NAME. Where a container has the same name, service/NAMESPACE/NAME
	// or container/NAMESPACE/NAME says which.
	To       string
	Port     uint16
	Protocol string // as registry.ProtocolName has it
}

// Why asks what becomes of flows.
func (c *Client) Why(ctx context.Context, q WhyQuery) (t registry.Trace, err error) {
	v := url.Values{"from": {q.From}, "to": {q.To}, "port": {strconv.Itoa(int(q.Port))}, "protocol": {q.Protocol}}
	err = c.do(ctx, http.MethodGet, "/v1/why?"+v.Encode(), nil, &t)
	return t, err
}

// ParseWhyQuery reads a query as Why writes it.
func ParseWhyQuery(v url.Values) (q WhyQuery, err error) {
	q = WhyQuery{From: v.Get("from"), To: v.Get("to"), Protocol: v.Get("protocol")}
	if text := v.Get("port"); text != "" {
		q.Port, err = parsePort(text)
	}
	return q, err
}
