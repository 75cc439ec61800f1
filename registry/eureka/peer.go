package eureka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sluice-net/sluice/registry/eureka/wire"
)

const (
	afterNetwork = 100 * time.Millisecond // until a batch is sent again that did not arrive; twice as long each time
	mostNetwork  = 2 * time.Second        // but no longer
	afterBusy    = time.Second            // until one is that the peer had no time for

	dialTimeout = time.Second
	sendTimeout = 5 * time.Second
	lastTimeout = time.Second // for what waits when the server ends
	maxResults  = 8 << 20     // bytes of an answer to a batch

	// senderHeader holds what nobody but the server itself knows: what comes back with it was sent to itself.
	senderHeader = "Sluice-Replication-Sender"
	// registryHeader tells which registry the sender's is. What is told within one would be done twice, and the second
	// time when it is not true any more: a cancellation would end what has registered since.
	registryHeader = "Sluice-Replication-Registry"
	userAgent      = "sluice-eureka-replication"
)

// Why a batch did not get through.
var (
	errBusy    = errors.New("has no time")
	errRefused = errors.New("refuses")
	// errUnclear: it did get through, and what became of it nobody knows.
	errUnclear = errors.New("does not answer task by task")
	// errSelf: what was taken for a peer is this server. It goes with errRefused.
	errSelf = errors.New("is this server itself: take it out of eureka.peers")
	// errShared: what was taken for a peer has the same registry. It goes with errRefused.
	errShared = errors.New("shares its registry with this server: take it out of eureka.peers")
)

// ParsePeer reads the URL of a peer as clients have it: http://HOST:PORT/eureka/, maybe with a user and a password,
// which no error tells.
func ParsePeer(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.HasSuffix(u.Host, ":") ||
		u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" {
		return nil, errors.New("want a URL such as http://eureka.example:8761/eureka/")
	}
	if port := u.Port(); port != "" {
		if n, err := net.LookupPort("tcp", port); err != nil || n == 0 {
			return nil, errors.New("want a port of 1 to 65535")
		}
	}
	if u.RawPath != "" {
		return nil, errors.New("want a path without escapes, such as /eureka/")
	}
	u.Host = strings.ToLower(u.Host)
	u.Path = strings.TrimRight(u.Path, "/") + "/"
	return u, nil
}

// PeerName is what a peer goes by: its URL without the user.
func PeerName(u *url.URL) string {
	plain := *u
	plain.User = nil
	return plain.String()
}

// Peer is how a server does that is told of changes.
type Peer struct {
	Name    string    // its URL without the user
	Waiting int       // tasks that it is yet to be told
	Err     error     // why it could not be told last; nil: it was, or nothing was to be told yet
	Since   time.Time // of Err
}

// peer is a server that is told of changes.
type peer struct {
	name string
	url  *url.URL // without the user
	user *url.Userinfo
	self string // for senderHeader
	// registry is for registryHeader; "": it is not known yet.
	registry func(context.Context) string
	client   *http.Client
	queue    *taskQueue
	now      func() time.Time
	log      *slog.Logger
	count    func(result string, n int)
	// took is given what became of each task of a batch, in their order.
	took func(context.Context, *peer, []*queued, []wire.Result)

	lost time.Duration // the last pause because a batch did not arrive; 0: it did

	mu    sync.Mutex // guards what follows
	err   error
	since time.Time
}

// run tells the peer what is put into its queue until ctx ends. A batch waits until the one before has got through, so
// that what was done to one instance is told in its order.
func (p *peer) run(ctx context.Context) {
	for ctx.Err() == nil {
		batch, wait := p.queue.take(p.now())
		if len(batch) == 0 {
			p.queue.await(ctx, wait)
			continue
		}
		if again := p.send(ctx, batch); again > 0 {
			p.queue.giveBack(batch)
			pause(ctx, again)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTimeout)
	defer cancel()
	for {
		batch, _ := p.queue.take(p.now().Add(sentAfter))
		if len(batch) == 0 || p.send(last, batch) > 0 {
			return
		}
	}
}

// send sends a batch. again says after how long it is to be sent again; 0: never.
func (p *peer) send(ctx context.Context, batch []*queued) (again time.Duration) {
	results, err := p.post(ctx, batch)
	if ctx.Err() != nil {
		return afterNetwork // it is not the peer's fault
	}
	if err == nil && len(results) != len(batch) {
		err = fmt.Errorf("%w: %d results of %d tasks", errUnclear, len(results), len(batch))
	}
	p.reached(err)
	lost := p.lost
	p.lost = 0
	switch {
	case errors.Is(err, errRefused):
		p.count(taskRefused, len(batch))
		return 0
	case errors.Is(err, errBusy):
		return afterBusy
	case errors.Is(err, errUnclear):
		p.count(taskSent, len(batch))
		return 0
	case err != nil:
		p.lost = min(max(afterNetwork, 2*lost), mostNetwork)
		return p.lost
	}
	p.count(taskSent, len(batch))
	p.took(ctx, p, batch, results)
	return 0
}

// post sends a batch and returns what is answered. An error that is neither errBusy nor errRefused is one of the way there.
func (p *peer) post(ctx context.Context, batch []*queued) ([]wire.Result, error) {
	tasks := make([]wire.Task, len(batch))
	for i, t := range batch {
		tasks[i] = t.Task
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	r, err := p.request(ctx, http.MethodPost, "peerreplication/batch/", wire.AppendBatch(nil, tasks))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	answer, err := p.do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxResults+1))
	switch {
	case err != nil:
		return nil, onTheWay(err)
	case len(data) > maxResults:
		return nil, fmt.Errorf("%w: its answer has more than %d bytes", errRefused, maxResults)
	}
	results, err := wire.ParseResults(data)
	if err != nil {
		return nil, fmt.Errorf("%w: its answer %w", errRefused, err)
	}
	return results, nil
}

func (p *peer) request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, p.url.String()+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{
		"Accept": "application/json", "User-Agent": userAgent, senderHeader: p.self, registryHeader: p.registry(ctx),
		// By these the reference exempts other servers from its limits.
		"DiscoveryIdentity-Name": "DefaultServer", "DiscoveryIdentity-Version": "1.0",
	} {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	if len(body) > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	if p.user != nil {
		password, _ := p.user.Password()
		r.SetBasicAuth(p.user.Username(), password)
	}
	return r, nil
}

// do sends a request and returns an answer that says yes.
func (p *peer) do(r *http.Request) (*http.Response, error) {
	answer, err := p.client.Do(r)
	if err != nil {
		return nil, onTheWay(err)
	}
	if answer.StatusCode >= 200 && answer.StatusCode <= 299 {
		return answer, nil
	}
	answer.Body.Close()
	switch answer.StatusCode {
	// The last two are what a proxy in front of a peer says while it is away.
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout:
		return nil, fmt.Errorf("%w: it answers %s", errBusy, answer.Status)
	case http.StatusLoopDetected:
		if answer.Header.Get(senderHeader) == p.self {
			return nil, fmt.Errorf("%w: it %w", errRefused, errSelf)
		}
		if id := r.Header.Get(registryHeader); id != "" && answer.Header.Get(registryHeader) == id {
			return nil, fmt.Errorf("%w: it %w", errRefused, errShared)
		}
	}
	return nil, fmt.Errorf("%w: it answers %s", errRefused, answer.Status)
}

// onTheWay tells a peer that takes long from one that cannot be reached.
func onTheWay(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // without the URL, which is told anyway
	}
	var op *net.OpError
	var slow net.Error
	if errors.As(err, &op) && op.Op == "dial" {
		return err
	}
	if errors.As(err, &slow) && slow.Timeout() {
		return fmt.Errorf("%w: it has not answered in time", errBusy)
	}
	return advise(err)
}

// reached notes whether the peer could be told, and logs when that changes.
func (p *peer) reached(err error) {
	p.mu.Lock()
	before := p.err
	if before == nil && err != nil {
		p.since = p.now()
	}
	p.err = err
	p.mu.Unlock()
	switch {
	case err != nil && before == nil:
		p.log.Warn("a peer is not told of changes", "peer", p.name, "error", err)
	case err == nil && before != nil:
		p.log.Info("a peer is told of changes again", "peer", p.name)
	}
}

func (p *peer) state() Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Peer{Name: p.name, Waiting: p.queue.length(), Err: p.err, Since: p.since}
}
