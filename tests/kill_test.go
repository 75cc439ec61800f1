package tests

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

const kills = 50

// TestAgentKilled ends the agent with SIGKILL at random moments, under load and while containers
// come and go and services change. Calls to a service whose backends stay must never fail, on new
// sockets and lasting ones alike; calls to one whose backends come and go may fail only while one is
// being removed.
func TestAgentKilled(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		settings.MapScale = 1 // the default: caches so small that they overflow lose flows
		k := &killer{n: newNode(t, settings), random: rand.New(rand.NewPCG(seed, 0))}
		k.run(t)
	})
}

type killer struct {
	n      *nstest.Node
	random *rand.Rand
	steady *load
	made   int                 // containers so far, for their names
	extras []*nstest.Container // backends that come and go
	// removals are the times in which a backend was being removed.
	removals []window
}

type window struct{ from, to time.Time }

// covers tells whether a call was under way within the window.
func (w window) covers(f report.Failure) bool { return !f.End.Before(w.from) && !f.Start.After(w.to) }

func (k *killer) run(t *testing.T) {
	client := addContainer(t, k.n, "client", nil)
	for _, name := range []string{"web-1", "web-2"} {
		addContainer(t, k.n, name, map[string]string{"app": "web"})
	}
	addContainer(t, k.n, "extra-0", map[string]string{"app": "extra"})
	before := wires(t, k.n)
	calls := kinds(apply(t, k.n, "web", web("web", "web")))
	k.steady = startLoad(t, client, append(calls, lasting(calls)...))
	changing := startLoad(t, client, kinds(apply(t, k.n, "extra", web("extra", "extra"))))

	for i := range kills {
		k.once(t, i)
	}
	for len(k.extras) > 0 {
		k.remove(t.Context(), t)
	}
	k.steady.more(t, 10)
	for i, r := range k.steady.stop(t) {
		if r.Failed > 0 {
			t.Errorf("steady service, %s: %d of %d calls failed, the first: %v",
				title(k.steady.calls[i]), r.Failed, r.Calls, r.Failures[0])
		}
		if k.steady.calls[i].Keep && len(r.Answers) != 1 {
			t.Errorf("steady service, %s: answers changed over: %v", title(k.steady.calls[i]), r.Answers)
		}
	}
	for i, r := range changing.stop(t) {
		k.judge(t, title(changing.calls[i]), r)
	}
	if after := wires(t, k.n); len(after) != len(before) {
		t.Errorf("wired before: %v, after: %v", before, after)
	}
	check(t, k.n)
}

// judge wants each failure to fall into the time of a removal.
func (k *killer) judge(t *testing.T, name string, r report.Report) {
	for _, f := range r.Failures {
		covered := false
		for _, w := range k.removals {
			covered = covered || w.covers(f)
		}
		if !covered {
			t.Errorf("changing service, %s: a call failed while no backend was being removed: %v", name, f)
		}
	}
	if r.Failed > report.Most {
		t.Errorf("changing service, %s: %d of %d calls failed", name, r.Failed, r.Calls)
	}
}

// once kills the agent while something is being done, and starts it again; now and then it kills it
// once more during its start.
func (k *killer) once(t *testing.T, i int) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	from := time.Now()
	name, doing := k.operation(ctx, t)
	// A random number of calls is a random time, and certain to fall under load.
	k.steady.more(t, k.random.IntN(20))
	if err := k.n.KillAgent(); err != nil {
		t.Fatal(err)
	}
	k.steady.more(t, k.random.IntN(20))
	if k.random.IntN(4) == 0 {
		if err := k.n.LaunchAgent(); err != nil {
			t.Fatal(err)
		}
		k.steady.more(t, k.random.IntN(20))
		if err := k.n.KillAgent(); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.n.StartAgent(ctx); err != nil {
		t.Fatalf("kill %d: %v", i, err)
	}
	if err := <-doing; err != nil {
		t.Fatalf("kill %d: %v", i, err)
	}
	if strings.HasPrefix(name, "remove") {
		k.removals = append(k.removals, window{from, time.Now()})
	}
	t.Logf("kill %d: %s, from %s to %s", i, name, from.UTC().Format(timeFormat), time.Now().UTC().Format(timeFormat))
	check(t, k.n)
}

const timeFormat = "15:04:05.000000"

// operation begins one of ADD, DEL, apply and nothing. The channel tells how it ended.
func (k *killer) operation(ctx context.Context, t *testing.T) (name string, doing chan error) {
	doing = make(chan error, 1)
	switch choice := k.random.IntN(4); {
	case choice == 0, choice == 1 && len(k.extras) == 0:
		c, err := k.container()
		if err != nil {
			t.Fatal(err)
		}
		go func() { doing <- c.Add(ctx) }() // the plugin waits for an agent that is starting
		return "add " + c.Name, doing
	case choice == 1:
		c := k.extras[0]
		k.extras = k.extras[1:]
		go func() { doing <- c.Delete(ctx) }()
		return "remove " + c.Name, doing
	case choice == 2:
		manifest := web(fmt.Sprintf("other-%d", k.random.IntN(3)), "web")
		go func() { doing <- k.apply(ctx, manifest) }()
		return "apply", doing
	}
	doing <- nil
	return "nothing", doing
}

func (k *killer) container() (*nstest.Container, error) {
	k.made++
	labels := map[string]string{"app": "extra"}
	c, err := k.n.NewContainer(nstest.Spec{Name: fmt.Sprintf("extra-%d", k.made), Labels: labels})
	if err == nil {
		k.extras = append(k.extras, c)
	}
	return c, err
}

// apply is tried until an agent is there to take it.
func (k *killer) apply(ctx context.Context, manifest string) error {
	return nstest.Await(ctx, "apply", func() (bool, error) {
		_, err := k.n.Sluice(ctx, manifest, "apply", "-f", "-")
		return err == nil, nil
	})
}

func (k *killer) remove(ctx context.Context, t *testing.T) {
	from := time.Now()
	if err := k.extras[0].Delete(ctx); err != nil {
		t.Fatal(err)
	}
	k.extras = k.extras[1:]
	k.removals = append(k.removals, window{from, time.Now()})
}
