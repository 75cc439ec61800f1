package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-net/sluice/registry"
)

// patience bounds one request to etcd. It is longer than an election takes (a second or two), so that the loss
// of a leader delays a write and does not fail it.
const patience = 5 * time.Second

// patient is a KV whose requests end after patience, with an error that says that it is the store that is away.
type patient struct{ clientv3.KV }

func (p patient) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	return within(ctx, func(ctx context.Context) (*clientv3.PutResponse, error) { return p.KV.Put(ctx, key, val, opts...) })
}

func (p patient) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return within(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) { return p.KV.Get(ctx, key, opts...) })
}

func (p patient) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	return within(ctx, func(ctx context.Context) (*clientv3.DeleteResponse, error) { return p.KV.Delete(ctx, key, opts...) })
}

func (p patient) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	return within(ctx, func(ctx context.Context) (clientv3.OpResponse, error) { return p.KV.Do(ctx, op) })
}

// Txn bounds the transaction from here on: it is put together at once and then committed.
func (p patient) Txn(ctx context.Context) clientv3.Txn { return &patientTxn{ctx: ctx, kv: p.KV} }

type patientTxn struct {
	ctx        context.Context
	kv         clientv3.KV
	conditions []clientv3.Cmp
	then, or   []clientv3.Op
}

func (t *patientTxn) If(cs ...clientv3.Cmp) clientv3.Txn { t.conditions = cs; return t }

func (t *patientTxn) Then(ops ...clientv3.Op) clientv3.Txn { t.then = ops; return t }

func (t *patientTxn) Else(ops ...clientv3.Op) clientv3.Txn { t.or = ops; return t }

func (t *patientTxn) Commit() (*clientv3.TxnResponse, error) {
	return within(t.ctx, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return t.kv.Txn(ctx).If(t.conditions...).Then(t.then...).Else(t.or...).Commit()
	})
}

func within[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := ask(bounded)
	if err != nil && ctx.Err() == nil {
		err = unavailable(err)
	}
	return r, err
}

// unavailable makes errors that mean that etcd cannot be reached, or has no leader, wrap registry.ErrUnavailable;
// others it returns as they are, with advice if there is any.
func unavailable(err error) error {
	code := status.Code(err)
	var of rpctypes.EtcdError
	if errors.As(err, &of) {
		code = of.Code()
	} else if code == codes.ResourceExhausted && strings.Contains(err.Error(), "message larger than max") {
		// This is gRPC's bound, which etcd sets 512 KiB above its own (grpcOverheadBytes).
		err = fmt.Errorf("%w (%s)", rpctypes.ErrRequestTooLarge, status.Convert(err).Message())
	}
	switch {
	case err == nil, errors.Is(err, registry.ErrUnavailable):
		return err
	case errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%w: give less in one input, or start the members of the etcd cluster with --max-txn-ops=%d --max-request-bytes=%d",
			err, maxTogether, 2*maxTogetherBytes)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: no answer from etcd within %s", registry.ErrUnavailable, patience)
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
		return fmt.Errorf("%w: %w", registry.ErrUnavailable, err)
	}
	return err
}
