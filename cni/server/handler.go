package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/sluice-net/sluice/cni"
)

// requestTimeout bounds the work for one request. It is less than the plugin waits, so that the
// plugin learns what took so long.
const requestTimeout = 15 * time.Second

// none is the answer that says nothing but "done".
type none struct{}

// Handler serves the paths of the plugin's protocol. Whoever listens must let root in only.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+cni.PathAdd, verb(s, "add", cni.MaxRequest, s.add))
	mux.Handle("POST "+cni.PathAttach, verb(s, "attach", cni.MaxRequest, s.attach))
	mux.Handle("POST "+cni.PathCommit, verb(s, "commit", cni.MaxRequest, s.commit))
	mux.Handle("POST "+cni.PathDel, verb(s, "del", cni.MaxRequest, s.del))
	mux.Handle("POST "+cni.PathCheck, verb(s, "check", cni.MaxRequest, s.check))
	mux.Handle("POST "+cni.PathGC, verb(s, "gc", cni.MaxGCRequest, s.gc))
	mux.Handle("POST "+cni.PathStatus, verb(s, "status", cni.MaxRequest, s.status))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		// An older plugin or a newer one: the version is part of the path.
		reply(w, http.StatusNotFound, types.NewError(types.ErrPluginNotAvailable,
			fmt.Sprintf("the agent does not know %s %s: plugin and agent are of different versions", r.Method, r.URL.Path), ""))
	})
	return mux
}

// verb wraps the work of a verb into what all have in common.
func verb[In, Out any](s *Server, name string, limit int64, work func(context.Context, In) (Out, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		// The work goes on when the plugin is killed: half of it would be of no use.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), requestTimeout)
		defer cancel()
		in, err := decodeRequest[In](w, r, limit)
		if err == nil && !s.settled.Load() {
			err = types.NewError(types.ErrTryAgainLater, "the agent is starting", "")
		}
		var out Out
		if err == nil {
			out, err = work(ctx, in)
		}
		if err == nil {
			s.metrics.observe(name, time.Since(start), 0)
			reply(w, http.StatusOK, out)
			return
		}
		refusal := cniError(err)
		s.metrics.observe(name, time.Since(start), refusal.Code)
		s.log.Warn("CNI request failed", "verb", name, "request", in, "code", refusal.Code, "error", err)
		reply(w, httpStatus(refusal), refusal)
	})
}

func decodeRequest[In any](w http.ResponseWriter, r *http.Request, limit int64) (in In, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if errors.As(err, new(*http.MaxBytesError)) {
		return in, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("the request exceeds %d bytes", limit), "")
	}
	if err != nil {
		return in, types.NewError(types.ErrIOFailure, fmt.Sprintf("read request: %v", err), "")
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return in, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("decode request: %v", err), "")
	}
	return in, nil
}

// cniError gives every error a CNI code.
func cniError(err error) *types.Error {
	var e *types.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	return types.NewError(types.ErrInternal, err.Error(), "")
}

func httpStatus(e *types.Error) int {
	switch e.Code {
	case types.ErrTryAgainLater:
		return http.StatusServiceUnavailable
	case types.ErrInternal:
		return http.StatusInternalServerError
	}
	return http.StatusUnprocessableEntity
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error means that the plugin is gone; it finds out by asking again.
	_ = json.NewEncoder(w).Encode(v)
}
