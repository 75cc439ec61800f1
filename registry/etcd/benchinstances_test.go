package etcd

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/registry"
)

// fleetInstance is one of a hundred of its service, and says what a Spring application says.
func fleetInstance(n int) registry.Instance {
	i := instance(fmt.Sprint("s", n/100), 0)
	i.ID = fmt.Sprintf("host-%d.example.internal:s%d:8080", n, n/100)
	i.Addresses = addrs(fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255))
	i.Host, i.Version, i.Zone = fmt.Sprintf("host-%d.example.internal", n), "1.4.2", "zone-a"
	i.Metadata = map[string]string{"management.port": "8081", "profile": "production", "instanceId": i.ID}
	i.Eureka = []byte(fmt.Sprintf(`{"app":"S%d","homePageUrl":"http://%s:8080/","statusPageUrl":"http://%s:8080/info","vipAddress":"s%d","dataCenter":"MyOwn"}`,
		n/100, i.Host, i.Host, n/100))
	return i
}

// fill registers many instances at once.
func fillFleet(b *testing.B, s *Store, n int) {
	b.Helper()
	var group sync.WaitGroup
	const workers = 64
	for w := range workers {
		group.Go(func() {
			for k := w; k < n; k += workers {
				if _, _, err := s.Register(b.Context(), fleetInstance(k)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	known(b, s)
}

// cpu returns the processor time that the process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkInstances is what one registrant waits for.
func BenchmarkInstances(b *testing.B) {
	s := open(b, "10.96.0.0/12")
	next := 0
	b.Run("register", func(b *testing.B) {
		for b.Loop() {
			register(b, s, fleetInstance(next))
			next++
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			register(b, s, fleetInstance(rand.IntN(next)))
		}
	})
	known(b, s)
	b.Run("renew", func(b *testing.B) {
		for b.Loop() {
			id := fleetInstance(rand.IntN(next)).InstanceID
			k, _ := s.instances.get(id)
			s.instances.renewed(id, k.lease, time.Time{})
			if err := s.Renew(b.Context(), id); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("skipped", func(b *testing.B) {
		id := fleetInstance(0).InstanceID
		for b.Loop() {
			if err := s.Renew(b.Context(), id); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkFleet has 100 000 instances registered. An iteration is what 10 000 of them do in 30 s: each renews its
// lease once. cpu-% is the share of one core that this takes over these 30 s, idle-% what the store takes when
// nobody asks anything, heap-B what an instance costs.
func BenchmarkFleet(b *testing.B) {
	const registered, renewing, every = 100_000, 10_000, 30 * time.Second
	s := open(b, "10.96.0.0/12")
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	empty := heap()
	fillFleet(b, s, registered)
	full := heap()
	ids := make([]registry.InstanceID, renewing)
	for n := range ids {
		ids[n] = fleetInstance(n).InstanceID
	}
	begin := cpu(b)
	for b.Loop() {
		for _, id := range ids {
			k, _ := s.instances.get(id)
			s.instances.renewed(id, k.lease, time.Time{}) // or else it is too early for the next
			if err := s.Renew(b.Context(), id); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(100*float64(cpu(b)-begin)/float64(b.N)/float64(every), "cpu-%")
	b.ReportMetric(float64(full-empty)/registered, "heap-B")
	idle := cpu(b)
	const quiet = 5 * time.Second
	time.Sleep(quiet)
	b.ReportMetric(100*float64(cpu(b)-idle)/float64(quiet), "idle-%")
}
