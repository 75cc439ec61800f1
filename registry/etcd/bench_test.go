package etcd

import (
	"fmt"
	"testing"
)

// BenchmarkPut is what a wired container or an applied service waits for: one durable write.
func BenchmarkPut(b *testing.B) {
	s := open(b, defaultCIDRs...)
	b.Run("endpoint", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := s.PutEndpoint(b.Context(), endpoint(i%200)); err != nil {
				b.Fatal(err)
			}
			if _, err := s.DeleteEndpoint(b.Context(), endpoint(i%200).EndpointID); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("service", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			put(b, s, dual(fmt.Sprint("s", i%5000)))
		}
	})
}
