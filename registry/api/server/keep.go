package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

// keepTimeout bounds a backup and a restore.
const keepTimeout = 10 * time.Minute

// Keeper sees to the store as a whole.
type Keeper interface {
	DeleteNode(ctx context.Context, name string) (int64, error)
	Backup(ctx context.Context, w io.Writer) error
	Restore(ctx context.Context, backup io.Reader) (registry.Restored, error)
}

func (s *Server) routeKeeping() {
	if s.Keeper == nil {
		return
	}
	s.handleWrite("DELETE /v1/nodes/{name}", s.deleteNode)
	s.on("GET /v1/backup", s.backup)
	s.on("POST /v1/restore", s.restore)
}

func (s *Server) deleteNode(r *http.Request) (any, error) {
	name := r.PathValue("name")
	rev, err := s.Keeper.DeleteNode(r.Context(), name)
	if err != nil {
		return nil, err
	}
	out := api.Results{Results: []api.Result{{Kind: "Node", Name: registry.Name{Name: name}, Action: api.Deleted}}}
	s.synced(r.Context(), rev, &out)
	return out, nil
}

// backup sends the snapshot as it comes. An error after its beginning cuts the connection, so that nobody takes
// a part for the whole.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	if err := s.caller(r).MayWrite(); err != nil { // it holds all that there is
		s.fail(w, r, asError(err))
		return
	}
	ctx, cancel := s.keeping(w, r)
	defer cancel()
	w.Header().Set("Content-Type", "application/octet-stream")
	out := &counted{Writer: w}
	if err := s.Keeper.Backup(ctx, out); err != nil {
		if out.n == 0 {
			w.Header().Del("Content-Type")
			s.fail(w, r, asError(err))
			return
		}
		s.Logger.Warn("a backup broke off", "err", err)
		panic(http.ErrAbortHandler)
	}
}

// counted knows whether anything was written.
type counted struct {
	io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}

func (s *Server) restore(w http.ResponseWriter, r *http.Request) {
	if err := s.caller(r).MayWrite(); err != nil {
		s.fail(w, r, asError(err))
		return
	}
	ctx, cancel := s.keeping(w, r)
	defer cancel()
	done, err := s.Keeper.Restore(ctx, r.Body)
	if err != nil {
		s.fail(w, r, asError(err))
		return
	}
	s.Logger.Info("the registry was restored from a backup", "written", done.Written, "deleted", done.Deleted, "unchanged", done.Unchanged)
	out := api.Restored{Restored: done, Synced: true}
	if done.Revision > 0 {
		var r api.Results
		s.synced(ctx, done.Revision, &r)
		out.Synced, out.Warning = r.Synced, r.Warning
	}
	write(w, http.StatusOK, out)
}

// keeping gives a request the time that a large registry takes.
func (s *Server) keeping(w http.ResponseWriter, r *http.Request) (context.Context, context.CancelFunc) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(keepTimeout)) // not every connection can
	_ = c.SetWriteDeadline(time.Now().Add(keepTimeout))
	return context.WithTimeoutCause(r.Context(), keepTimeout, fmt.Errorf("not done within %s", keepTimeout))
}
