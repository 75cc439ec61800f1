package health

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const (
	maxAnswer  = 4 << 10 // bytes of a gRPC message; the one that is wanted has two
	grpcBuffer = 4 << 10
)

// probeGRPC asks by the GRPC Health Checking Protocol v1: SERVING is well.
func probeGRPC(ctx context.Context, a netip.AddrPort, service string) error {
	var short atomic.Bool // which grpc makes words of
	conn, err := grpc.NewClient("passthrough:///"+a.String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := dial(ctx, a)
			short.Store(ours(err))
			return c, err
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithUserAgent(userAgent),
		grpc.WithReadBufferSize(grpcBuffer), grpc.WithWriteBufferSize(grpcBuffer), grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		s := status.Convert(err)
		if short.Load() {
			return fmt.Errorf("%w: %s", errOurs, s.Message())
		}
		return fmt.Errorf("%s: %s", s.Code(), s.Message())
	}
	if answer.Status != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("status %s, want SERVING", answer.Status)
	}
	return nil
}
