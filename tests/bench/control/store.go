package control

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// bareStore is the same store without any of Sluice: what a write and its way to whoever watches take at least.
type bareStore struct {
	writer, watcher *clientv3.Client
	own, objects    clientv3.WatchChan // of what is put here, and of what Sluice writes
}

const (
	bareKey    = "/bench/bare"
	objectKeys = "/sluice/v1/"
)

func openBare(ctx context.Context, endpoints []string) (*bareStore, error) {
	b := &bareStore{}
	for _, c := range []**clientv3.Client{&b.writer, &b.watcher} {
		var err error
		if *c, err = clientv3.New(clientv3.Config{Context: ctx, Endpoints: endpoints, Logger: zap.NewNop()}); err != nil {
			b.close()
			return nil, fmt.Errorf("dial etcd: %w", err)
		}
	}
	return b, nil
}

func (b *bareStore) close() {
	for _, c := range []*clientv3.Client{b.writer, b.watcher} {
		if c != nil {
			c.Close()
		}
	}
}

// watch follows the store until stop is called.
func (b *bareStore) watch(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	b.own = b.watcher.Watch(ctx, bareKey, clientv3.WithCreatedNotify())
	b.objects = b.watcher.Watch(ctx, objectKeys, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	for _, events := range []clientv3.WatchChan{b.own, b.objects} {
		if created := <-b.next(ctx, events); created.err != nil {
			cancel()
			return nil, fmt.Errorf("watch etcd: %w", created.err)
		}
	}
	return cancel, nil
}

// next waits for what comes next.
func (b *bareStore) next(ctx context.Context, events clientv3.WatchChan) <-chan seen {
	out := make(chan seen, 1)
	go func() {
		select {
		case r := <-events:
			out <- seen{time.Now(), r.Err()}
		case <-ctx.Done():
			out <- seen{err: ctx.Err()}
		}
	}()
	return out
}

// roundTrip puts a value of an instance's size, and waits until the watcher knows.
func (b *bareStore) roundTrip(ctx context.Context) (acknowledged, told time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	event := b.next(ctx, b.own)
	sent := time.Now()
	if _, err := b.writer.Put(ctx, bareKey, fmt.Sprintf("%512d", sent.UnixNano())); err != nil {
		return 0, 0, err
	}
	acknowledged = time.Since(sent)
	e := <-event
	return acknowledged, e.at.Sub(sent), e.err
}
