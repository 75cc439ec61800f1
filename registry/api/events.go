package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/sluice-net/sluice/registry"
)

const (
	maxEvent  = 1 << 20 // bytes of an event in JSON
	maxValues = 64      // of one key of a query
)

// EventQuery is what GET /v1/events is asked for: events that meet all of its fields that are set. The answer
// is one registry.Event in JSON a line, for as long as the client listens.
type EventQuery struct {
	Types     []string // drop, verdict, audit, lease
	Reasons   []string
	Namespace string // of a container that it is about
	Container string // either end: see registry.ParsePartyFilter
	From, To  string // the same
	Policy    string // NAME or NAMESPACE/NAME
	Protocol  string
	Port      uint16 // of either end
	// Watch names containers of the agent's node: the verdict on each of their new flows is reported while
	// the stream lives.
	Watch []string
	// Limit ends the stream after so many events; 0: it goes on.
	Limit uint64
}

// Filter checks the query. The error is about the user's words.
func (q EventQuery) Filter() (f registry.EventFilter, err error) {
	f = registry.EventFilter{Reasons: q.Reasons, Namespace: q.Namespace, Policy: q.Policy, Port: q.Port}
	for _, t := range q.Types {
		if !slices.Contains(registry.EventTypes(), registry.EventType(t)) {
			return f, fmt.Errorf("type %q: want drop, verdict, audit or lease", t)
		}
		f.Types = append(f.Types, registry.EventType(t))
	}
	if q.Protocol != "" {
		n, err := registry.ProtocolNumber(q.Protocol)
		if err != nil {
			return f, err
		}
		f.Protocol = registry.ProtocolName(n)
	}
	for _, party := range []struct {
		name, text string
		to         *registry.PartyFilter
	}{{"container", q.Container, &f.Container}, {"from", q.From, &f.From}, {"to", q.To, &f.To}} {
		if *party.to, err = registry.ParsePartyFilter(party.text); err != nil {
			return f, fmt.Errorf("%s %w", party.name, err)
		}
	}
	return f, nil
}

// Values writes the query as a URL has it.
func (q EventQuery) Values() url.Values {
	v := url.Values{}
	for key, all := range map[string][]string{"type": q.Types, "reason": q.Reasons, "watch": q.Watch} {
		if len(all) > 0 {
			v[key] = all
		}
	}
	for key, text := range map[string]string{
		"namespace": q.Namespace, "container": q.Container, "from": q.From, "to": q.To,
		"policy": q.Policy, "protocol": q.Protocol,
	} {
		if text != "" {
			v.Set(key, text)
		}
	}
	if q.Port != 0 {
		v.Set("port", strconv.Itoa(int(q.Port)))
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.FormatUint(q.Limit, 10))
	}
	return v
}

// ParseEventQuery is the inverse of Values. Keys that it does not know are errors.
func ParseEventQuery(v url.Values) (q EventQuery, err error) {
	for key, all := range v {
		if len(all) > maxValues {
			return q, fmt.Errorf("%s: given %d times: want at most %d", key, len(all), maxValues)
		}
		switch key {
		case "type":
			q.Types = all
		case "reason":
			q.Reasons = all
		case "watch":
			q.Watch = all
		case "namespace":
			q.Namespace = v.Get(key)
		case "container":
			q.Container = v.Get(key)
		case "from":
			q.From = v.Get(key)
		case "to":
			q.To = v.Get(key)
		case "policy":
			q.Policy = v.Get(key)
		case "protocol":
			q.Protocol = v.Get(key)
		case "port":
			if q.Port, err = parsePort(v.Get(key)); err != nil {
				return q, err
			}
		case "limit":
			if q.Limit, err = strconv.ParseUint(v.Get(key), 10, 63); err != nil {
				return q, fmt.Errorf("limit %q: want a number", v.Get(key))
			}
		default:
			return q, fmt.Errorf("unknown key %q", key)
		}
	}
	return q, nil
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("port %q: want a number up to 65535", text)
	}
	return uint16(n), nil
}

// Events listens to the dataplane until ctx ends, the query's limit is reached or the agent stops. The last
// element is an error, unless the limit was reached.
func (c *Client) Events(ctx context.Context, q EventQuery) iter.Seq2[registry.Event, error] {
	return func(yield func(registry.Event, error) bool) {
		n := uint64(0)
		err := c.stream(ctx, "/v1/events?"+q.Values().Encode(), func(line []byte) (bool, error) {
			var e registry.Event
			if err := json.Unmarshal(line, &e); err != nil {
				return false, fmt.Errorf("read event: %w", err)
			}
			if e.Type != registry.EventLost {
				n++
			}
			return yield(e, nil), nil
		})
		if err != nil && (q.Limit == 0 || n < q.Limit || err != io.EOF) {
			if err == io.EOF {
				err = fmt.Errorf("the agent at %s has ended the stream: it stops", c.socket)
			}
			yield(registry.Event{}, err)
		}
	}
}

// stream gets lines until take returns false. The error is io.EOF at the answer's end.
func (c *Client) stream(ctx context.Context, path string, take func([]byte) (bool, error)) error {
	caller := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The client's timeout would end the body, too.
	patience := time.AfterFunc(requestTimeout, cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sluiced"+path, nil)
	if err != nil {
		return fmt.Errorf("ask agent: %w", err)
	}
	res, err := (&http.Client{Transport: c.http.Transport}).Do(req)
	if !patience.Stop() && caller.Err() == nil {
		err = context.DeadlineExceeded
	}
	if err != nil {
		return c.explain(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return c.failed(req, res)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		if more, err := take(lines.Bytes()); !more || err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		if caller.Err() != nil {
			return caller.Err()
		}
		return fmt.Errorf("read the agent's answer to GET %s: %w", path, err)
	}
	return io.EOF
}

// failed reads the error that an agent answers.
func (c *Client) failed(req *http.Request, res *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, maxEvent))
	if err != nil {
		return fmt.Errorf("read the agent's answer to %s %s: %w", req.Method, req.URL.Path, err)
	}
	e := &Error{Status: res.StatusCode}
	if json.Unmarshal(b, e) != nil || e.Message == "" {
		e.Message = fmt.Sprintf("agent answered %s to %s %s", res.Status, req.Method, req.URL.Path)
	}
	return e
}
