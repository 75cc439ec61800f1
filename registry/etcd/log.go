package etcd

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// core hands etcd's log entries to slog. What etcd calls information is of use to those who debug
// etcd, so it becomes a debug message here.
type core struct {
	logger  *slog.Logger
	fields  []zapcore.Field
	closing *atomic.Bool // complaints about closed listeners are of no interest then
}

// newZap returns a zap logger for etcd. Its Fatal panics instead of ending the process, so that
// Open can turn a data directory beyond repair into an error.
func newZap(l *slog.Logger, closing *atomic.Bool) *zap.Logger {
	return zap.New(&core{logger: l, closing: closing}, zap.WithFatalHook(zapcore.WriteThenPanic))
}

// expected are complaints about what we chose on purpose, or about a database that is a moment old. That the member
// cannot say its name comes hundreds of times at the start of one that has seen 5000 writes: until it has applied the
// first entry of its log etcd takes itself to be far behind, and tries again without a pause (publishV3 and
// exceedsRequestLimit in etcdserver). A start that fails for it ends by startTimeout and says so.
func expected(message string) bool {
	switch message {
	case "Running http and grpc server on single port. This is not recommended for production.",
		"Failed to detect schema version", "failed to update storage version",
		"failed to publish local member to cluster through raft":
		return true
	}
	return false
}

func (c *core) level(e zapcore.Entry) slog.Level {
	switch {
	case e.Level >= zapcore.DPanicLevel:
		return slog.LevelError
	case expected(e.Message) || c.closing.Load():
		return slog.LevelDebug
	case e.Level >= zapcore.ErrorLevel:
		return slog.LevelError
	case e.Level == zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// Enabled implements zapcore.LevelEnabler.
func (c *core) Enabled(l zapcore.Level) bool {
	return c.logger.Enabled(context.Background(), c.level(zapcore.Entry{Level: l}))
}

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{logger: c.logger, closing: c.closing, fields: append(slices.Clip(c.fields), fields...)}
}

// Check implements zapcore.Core.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.logger.Enabled(context.Background(), c.level(e)) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(slices.Clip(c.fields), fields...) {
		f.AddTo(enc)
	}
	attrs := make([]slog.Attr, 0, len(enc.Fields))
	for k, v := range enc.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	slices.SortFunc(attrs, func(a, b slog.Attr) int { return strings.Compare(a.Key, b.Key) })
	c.logger.LogAttrs(context.Background(), c.level(e), "etcd: "+e.Message, attrs...)
	return nil
}

// Sync implements zapcore.Core.
func (c *core) Sync() error { return nil }
