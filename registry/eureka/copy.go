package eureka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/access"
	"github.com/sluice-net/sluice/registry/eureka/wire"
)

const (
	copyTries   = 5
	copyEvery   = 30 * time.Second
	copyTimeout = 10 * time.Minute // of one try: each instance is written to the store
	maxCopy     = 256 << 20        // bytes of a peer's registry
)

// errAway: it is this side's fault that a peer could not be copied.
var errAway = errors.New("the registry's store is not available")

// copied is what became of the instances of a peer.
type copied struct{ taken, known, failed int64 }

// copyPeers takes over what the first peer that answers knows and this server does not. Nothing waits for it.
func (s *Server) copyPeers(ctx context.Context) {
	if len(s.peers) == 0 || s.view.wait(ctx, 0) != nil {
		return
	}
	for try := range copyTries {
		if try > 0 {
			pause(ctx, copyEvery)
		}
		for _, p := range s.peers {
			n, err := s.copyFrom(ctx, p)
			if ctx.Err() != nil {
				return
			}
			s.metrics.copied.Add(float64(n.taken))
			if err == nil {
				s.log.Info("copied a peer's registry", "peer", p.name, "instances", n.taken, "known", n.known, "failed", n.failed)
				return
			}
			s.log.Warn("a peer's registry cannot be copied", "peer", p.name, "try", try+1, "instances", n.taken, "error", err)
		}
	}
	s.log.Error("no peer's registry could be copied: instances show as they are heard of", "tries", copyTries)
}

// copyFrom takes over what one peer knows. What it took before an error stays.
func (s *Server) copyFrom(ctx context.Context, p *peer) (n copied, err error) {
	ctx, cancel := context.WithTimeout(ctx, copyTimeout)
	defer cancel()
	answer, err := s.fetch(ctx, p)
	if p.reached(err); err != nil {
		return n, err
	}
	defer answer.Body.Close()
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	in := &io.LimitedReader{R: answer.Body, N: maxCopy}
	var taken, failed atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(batchWorkers)
	_, skipped, err := wire.ReadApplications(in, strings.HasSuffix(kind, "xml"), func(w *wire.Instance) error {
		id := registry.InstanceID{Namespace: s.o.Namespace, Service: serviceName(w.App), ID: w.ID()}
		if s.view.registered(id) != nil || w.Action == wire.Deleted {
			n.known++
			return nil
		}
		group.Go(func() error {
			switch o := s.register(ctx, access.Trusted("peer "+p.name), w.App, w, true); o.code {
			case http.StatusNoContent:
				taken.Add(1)
			case http.StatusServiceUnavailable:
				return fmt.Errorf("%w: %s", errAway, o.reason)
			default:
				failed.Add(1)
				s.log.Debug("an instance of a peer cannot be taken over", "peer", p.name, "app", w.App, "id", w.ID(), "reason", o.reason)
			}
			return nil
		})
		return ctx.Err()
	})
	if away := group.Wait(); away != nil {
		err = away
	} else if err != nil && in.N == 0 {
		err = fmt.Errorf("more than %d bytes", maxCopy)
	}
	n.taken, n.failed = taken.Load(), failed.Load()+int64(skipped)
	return n, err
}

// fetch asks a peer for all it knows. How long it may take to begin is bounded; the rest ends with ctx.
func (s *Server) fetch(ctx context.Context, p *peer) (*http.Response, error) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(sendTimeout, cancel)
	r, err := p.request(ctx, http.MethodGet, "apps/", nil)
	if err != nil {
		cancel()
		return nil, err
	}
	answer, err := p.do(r)
	if !late.Stop() {
		if err == nil {
			answer.Body.Close()
		}
		err = fmt.Errorf("%w: it has not answered in time", errBusy)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return answer, nil // whose body can be read until the context ends that ctx comes from
}
