package health

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-net/sluice/registry"
)

// TestTransitions: an instance that fails is written down within an interval, and so is one that is well again; the
// counts of rise and fall stretch that.
func TestTransitions(t *testing.T) {
	for _, c := range []struct{ rise, fall uint16 }{{0, 0}, {1, 1}, {3, 2}, {2, 5}} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, instance(1, "here", registry.HealthCheck{Rise: c.rise, Fall: c.fall}))
			defer w.end()
			defer w.agent("here", Options{})()
			time.Sleep(time.Minute)
			if w.written() != 0 {
				t.Fatal("an instance that is well was written down")
			}
			for _, sick := range []error{errSick, nil, errSick, nil} {
				turns := max(c.fall, 1)
				if sick == nil {
					turns = max(c.rise, 1)
				}
				before := w.written()
				w.set(name(1), sick)
				// An interval is between nine tenths of a second and a second; the first is under way.
				time.Sleep(time.Duration(turns-1) * 900 * time.Millisecond)
				synctest.Wait()
				if w.written() != before {
					t.Fatalf("%+v: written down before %d checks", c, turns)
				}
				time.Sleep(time.Duration(turns)*time.Second + 50*time.Millisecond - time.Duration(turns-1)*900*time.Millisecond)
				synctest.Wait()
				h, failing := w.record(name(1))
				if failing != (sick != nil) || w.written() != before+1 {
					t.Fatalf("%+v: failing %t after %d writes, want %t", c, failing, w.written()-before, sick != nil)
				}
				if failing && (h.Node != "here" || h.Reason != "tcp: sick" || time.Since(h.Since) > time.Duration(turns)*time.Second+50*time.Millisecond) {
					t.Errorf("by %q since %s because of %q", h.Node, h.Since, h.Reason)
				}
			}
		})
	}
}

// TestNodeShort: a check that the node has no means for says nothing about the instance.
func TestNodeShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, instance(1, "here", registry.HealthCheck{}))
		defer w.end()
		defer w.agent("here", Options{})()
		short := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
		for _, c := range []struct {
			err     error
			failing bool
		}{{short, false}, {errSick, true}, {short, true}, {fmt.Errorf("%w: in words", errOurs), true}, {nil, false}, {short, false}} {
			w.set(name(1), c.err)
			w.callsOf(name(1))
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if _, failing := w.record(name(1)); failing != c.failing || len(w.callsOf(name(1))) < 4 {
				t.Errorf("after %v: failing %t, want %t", c.err, failing, c.failing)
			}
		}
	})
}

// TestFlickers: results that change all the time change nothing before they last.
func TestFlickers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, instance(1, "here", registry.HealthCheck{Fall: 3, Rise: 3}))
		defer w.end()
		defer w.agent("here", Options{})()
		for i := range 200 {
			w.set(name(1), []error{nil, errSick, errSick}[i%3])
			w.callsOf(name(1))
			for len(w.callsOf(name(1))) == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		if w.written() != 0 {
			t.Errorf("%d writes", w.written())
		}
	})
}

// TestSeveralChecks: one that fails is enough, and its reason is told as long as any fails.
func TestSeveralChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, instance(1, "here", registry.HealthCheck{}, registry.HealthCheck{Type: registry.CheckExec, Command: []string{"x"}}))
		defer w.end()
		stop := w.agent("here", Options{})
		time.Sleep(10 * time.Second)
		if n := len(w.callsOf(name(1))); n > 13 {
			t.Errorf("%d checks in ten seconds: the one that this node does not allow was made too", n)
		}
		stop()
		defer w.agent("here", Options{Exec: true})()
		w.callsOf(name(1))
		time.Sleep(10 * time.Second)
		if n := len(w.callsOf(name(1))); n < 18 {
			t.Errorf("%d checks in ten seconds, want two each second", n)
		}
	})
}

// TestTakesOver: an agent that starts believes the registry until its own checks say otherwise.
func TestTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said := registry.InstanceHealth{InstanceID: name(1), Node: "old", Reason: "tcp: refused"}
		// The registry's order is that of its keys: what is known of health comes before the instances.
		w := newWorld(t, registry.Change{Health: &said}, instance(1, "here", registry.HealthCheck{Rise: 3}), instance(2, "here"))
		defer w.end()
		w.set(name(1), errSick)
		for range 5 {
			stop := w.agent("here", Options{})
			time.Sleep(1500 * time.Millisecond)
			stop()
		}
		if h, failing := w.record(name(1)); w.written() != 0 || !failing || h != said {
			t.Fatalf("%d writes by agents that found nothing new; the record is %+v", w.written(), h)
		}
		w.set(name(1), nil)
		defer w.agent("here", Options{})()
		time.Sleep(1500 * time.Millisecond)
		if _, failing := w.record(name(1)); !failing {
			t.Error("well again after less than three checks")
		}
		time.Sleep(1600 * time.Millisecond)
		if _, failing := w.record(name(1)); failing {
			t.Error("not well after three checks")
		}
	})
}

// TestNearest: of several agents one checks an instance, another when that one goes, and nobody writes because of it.
func TestNearest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changes := []registry.Change{lease("a", false), lease("b", false), lease("c", false), instance(0, "b"), instance(1, "nowhere"), instance(2, "")}
		changes = append(changes, registry.Change{Endpoint: &registry.Endpoint{
			EndpointID: registry.EndpointID{Node: "c", ContainerID: "1", Interface: "eth0"}, Addresses: changes[3].Instance.Addresses,
		}})
		w := newWorld(t, changes...)
		defer w.end()
		for _, node := range []string{"a", "b", "c"} {
			defer w.agent(node, Options{})()
		}
		by := func(n int) (agents []string) {
			time.Sleep(2 * lag) // until all have heard
			synctest.Wait()
			w.callsOf(name(n))
			time.Sleep(3 * time.Second)
			calls := w.callsOf(name(n))
			if len(calls) > 4 {
				t.Errorf("instance %d was checked %d times in three seconds", n, len(calls))
			}
			for _, c := range calls {
				agents = append(agents, c.agent)
			}
			slices.Sort(agents)
			return slices.Compact(agents)
		}
		if got := by(0); !slices.Equal(got, []string{"c"}) {
			t.Errorf("checked by %v, want c, which has the container of that address", got)
		}
		w.send(false, lease("c", true))
		if got := by(0); !slices.Equal(got, []string{"b"}) {
			t.Errorf("checked by %v, want b, which the instance names", got)
		}
		for n := 1; n <= 2; n++ {
			if got := by(n); len(got) != 1 || got[0] == "c" {
				t.Errorf("instance %d is checked by %v, want one that is left", n, got)
			}
		}
		w.send(false, lease("b", true), lease("a", true), lease("c", false))
		if got := by(0); !slices.Equal(got, []string{"c"}) {
			t.Errorf("checked by %v, want c again", got)
		}
		if w.written() != 0 {
			t.Errorf("%d writes because agents came and went", w.written())
		}
	})
}

// TestFreshInstances are checked at once, and so is one that says that its status has changed.
func TestFreshInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.end()
		defer w.agent("here", Options{})()
		synctest.Wait()
		slow := registry.HealthCheck{Interval: 60_000}
		w.send(false, instance(1, "here", slow))
		time.Sleep(time.Second + 2*lag)
		if n := len(w.callsOf(name(1))); n != 1 {
			t.Errorf("%d checks in the first second", n)
		}
		changed := instance(1, "here", slow)
		changed.Instance.Metadata = map[string]string{"a": "b"}
		w.send(false, changed)
		time.Sleep(time.Second)
		if n := len(w.callsOf(name(1))); n != 0 {
			t.Errorf("%d checks because of metadata", n)
		}
		down := instance(1, "here", slow)
		down.Instance.Status = registry.InstanceDown
		w.send(false, down)
		time.Sleep(lag)
		synctest.Wait()
		if n := len(w.callsOf(name(1))); n != 1 {
			t.Errorf("%d checks because of another status", n)
		}
		other := instance(1, "here", slow)
		other.Instance.Ports[0].Port++
		w.send(false, other)
		time.Sleep(time.Second + 2*lag)
		if n := len(w.callsOf(name(1))); n != 1 {
			t.Errorf("%d checks because of another port", n)
		}
		w.send(false, registry.Change{Instance: &registry.Instance{InstanceID: name(1)}, Deleted: true})
		time.Sleep(2 * time.Minute)
		if n := len(w.callsOf(name(1))); n != 0 {
			t.Errorf("%d checks of what has gone", n)
		}
	})
}

// TestSomebodyElseSpeaks: who deletes or writes a record is believed until the next check, which comes at once.
func TestSomebodyElseSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, instance(1, "here", registry.HealthCheck{Interval: 60_000, Rise: 2, Fall: 2}))
		defer w.end()
		defer w.agent("here", Options{})()
		for len(w.callsOf(name(1))) == 0 { // the next of its own comes in 54 s
			time.Sleep(time.Second)
		}
		w.send(false, registry.Change{Health: &registry.InstanceHealth{InstanceID: name(1), Reason: "by hand"}})
		time.Sleep(lag)
		synctest.Wait()
		if n := len(w.callsOf(name(1))); n != 1 || w.written() != 0 {
			t.Errorf("%d checks, %d writes", n, w.written())
		}
		time.Sleep(61 * time.Second)
		if _, failing := w.record(name(1)); failing || w.written() != 1 {
			t.Errorf("failing %t after %d writes, want the second pass to make it well", failing, w.written())
		}
	})
}

// TestStoreAway: what cannot be written is written later, if it is still so.
func TestStoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, instance(1, "here"), instance(2, "here"))
		defer w.end()
		defer w.agent("here", Options{})()
		time.Sleep(time.Second)
		w.mu.Lock()
		w.away = true
		w.mu.Unlock()
		w.set(name(1), errSick)
		w.set(name(2), errSick)
		time.Sleep(2 * time.Minute)
		if n := w.written(); n < 4 || n > 100 {
			t.Errorf("%d attempts in two minutes", n)
		}
		w.set(name(2), nil)
		time.Sleep(2 * time.Second)
		w.mu.Lock()
		w.away = false
		w.mu.Unlock()
		time.Sleep(retryMost + time.Second)
		_, one := w.record(name(1))
		_, two := w.record(name(2))
		if !one || two {
			t.Errorf("failing: %t, %t; want the first alone", one, two)
		}
	})
}

// TestManyInstances checks 10 000 as often as they ask for, spread evenly, by few goroutines.
func TestManyInstances(t *testing.T) {
	const many = 10_000
	synctest.Test(t, func(t *testing.T) {
		var all []registry.Change
		for n := range many {
			all = append(all, instance(n, "here", registry.HealthCheck{Interval: 10_000}))
		}
		w := newWorld(t, all...)
		defer w.end()
		before := runtime.NumGoroutine()
		defer w.agent("here", Options{})()
		time.Sleep(10 * time.Second)
		for n := range many {
			w.callsOf(name(n))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := runtime.NumGoroutine() - before; n > 10 {
			t.Errorf("%d goroutines while nothing is under way", n)
		}
		seconds := map[int]int{}
		for n := range many {
			calls := w.callsOf(name(n))
			if len(calls) < 1 || len(calls) > 2 {
				t.Fatalf("instance %d was checked %d times in an interval", n, len(calls))
			}
			seconds[calls[0].at.Second()]++
		}
		for s, n := range seconds {
			if n > many/5 {
				t.Errorf("%d of the checks were made in second %d", n, s)
			}
		}
	})
}

// TestSilentInstances: however many keep silent, there are bounded checks under way, and another that fails is found
// out in its interval.
func TestSilentInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []registry.Change
		for n := range 400 {
			all = append(all, instance(n, "here", registry.HealthCheck{Timeout: 700}))
		}
		w := newWorld(t, all...)
		defer w.end()
		for n := 1; n < 400; n++ {
			w.slow[name(n)] = true
		}
		defer w.agent("here", Options{AtOnce: 4})()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for n := range 400 {
			if _, failing := w.record(name(n)); failing != (n > 0) {
				t.Fatalf("instance %d is failing: %t", n, failing)
			}
		}
		if w.most > 4 {
			t.Errorf("%d checks at once", w.most)
		}
		for i := range 21 {
			sick := []error{errSick, nil}[i%2]
			for w.callsOf(name(0)); len(w.callsOf(name(0))) == 0; {
				time.Sleep(time.Millisecond)
			}
			w.set(name(0), sick) // the check after this one finds it out
			if time.Sleep(time.Second + 50*time.Millisecond); sick == nil {
				time.Sleep(10 * time.Minute) // one that fails has to wait for the others that do
			}
			if _, failing := w.record(name(0)); failing != (sick != nil) {
				t.Fatalf("turn %d: the one that answers is failing %t, %v", i, failing, sick)
			}
		}
		if h, _ := w.record(name(1)); h.Reason != "tcp: no answer within 700 ms" {
			t.Errorf("reason %q", h.Reason)
		}
		for n := range 400 {
			if w.callsOf(name(n)); n > 0 {
				w.mu.Lock()
				w.slow[name(n)] = false
				w.mu.Unlock()
			}
		}
		time.Sleep(10 * time.Minute)
		if len(w.records) != 1 {
			t.Errorf("%d instances fail after the others came back", len(w.records))
		}
	})
}

// TestRegistryGoesBack: a write that the registry will never tell of, because an old copy of it was restored, is made again.
func TestRegistryGoesBack(t *testing.T) {
	k := newKeeper(New(Options{Node: "here"}), nil)
	all := []registry.Change{instance(1, "here")}
	k.apply(registry.Batch{Revision: 100, Snapshot: true, Changes: all})
	w := k.watched[name(1)]
	w.tasks[0].failing = true
	k.wrote(writeResult{of: w, revision: 101})
	k.apply(registry.Batch{Revision: 50, Snapshot: true, Changes: all})
	if w.failing() || w.tasks[0].entry.due.After(time.Now()) {
		t.Error("the check is not made anew")
	}
	w.tasks[0].failing = true
	if k.reconcile(w); len(k.writes) != 1 {
		t.Errorf("%d writes are to be made", len(k.writes))
	}
}

// TestLeavesNothing: what goes leaves no trace in the keeper.
func TestLeavesNothing(t *testing.T) {
	k := newKeeper(New(Options{Node: "here"}), nil)
	var all, gone []registry.Change
	for n := range 50 {
		ch := instance(n, "here")
		ep := registry.Change{Endpoint: &registry.Endpoint{
			EndpointID: registry.EndpointID{Node: fmt.Sprint(n % 3), ContainerID: fmt.Sprint(n)}, Addresses: ch.Instance.Addresses,
		}}
		health := registry.Change{Health: &registry.InstanceHealth{InstanceID: ch.Instance.InstanceID}}
		node := registry.Change{Node: &registry.Node{Name: fmt.Sprint(n), Addresses: ch.Instance.Addresses}}
		for _, ch := range []registry.Change{health, ch, ep, node, lease(fmt.Sprint(n), false)} {
			all = append(all, ch)
			ch.Deleted = true
			gone = append(gone, ch)
		}
	}
	k.apply(registry.Batch{Revision: 1, Snapshot: true, Changes: all})
	k.apply(registry.Batch{Revision: 2, Changes: gone})
	left := len(k.watched) + len(k.byAddr) + len(k.health) + len(k.agenda.list) + len(k.unheard) +
		len(k.places.at) + len(k.places.nodes) + len(k.places.endpoints) + len(k.places.live)
	if left != 0 || k.metrics.checked.Load() != 0 || k.metrics.failing.Load() != 0 {
		t.Errorf("%d entries are left: %+v, %+v", left, k, k.places)
	}
}
