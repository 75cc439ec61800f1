package control

import (
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// explain notes what the figures consist of, and what is to be known to read them.
func explain(s *sheet.Sheet) {
	for _, c := range s.Cases(Name) {
		switch c.Get("step") {
		case "registered":
			if c.Get("from") == "request" {
				explainWrite(s, c)
			}
		case "restart":
			explainStart(s, c)
		case "ADD":
			explainADD(s, c)
		}
	}
}

// explainWrite compares a registration with the least that a write to the same store takes, in the same rounds.
func explainWrite(s *sheet.Sheet, c sheet.Case) {
	ratio := s.Ratio(c, beside(c, etcdPutWatched), "p50-ns")
	stored := s.Median(c.With("from", "stored"), "p50-ns")
	if ratio.Rounds == 0 || stored.Rounds == 0 {
		return
	}
	s.Note(Name, "With %s services a registration is in the map (node: %s) after %s, which is %.1f x what etcd alone takes to store a "+
		"value and tell a watcher; %s of it come after etcd has told its watchers (p50).",
		c.Get("services"), c.Get("node"), millis(s.Median(c, "p50-ns").Center), ratio.Center, millis(stored.Center))
}

// beside is the case of a step that is measured in the same rounds as a write, at the node that takes the writes.
func beside(c sheet.Case, step string) sheet.Case {
	node := c.Get("node")
	if node == secondNode {
		node = sameOfCluster
	}
	return c.With("kind", "writes_"+node).With("node", node).With("step", step)
}

// explainStart compares what callers feel while an agent starts with what they feel otherwise.
func explainStart(s *sheet.Sheet, c sheet.Case) {
	ready, cpu := s.Median(c, "ready-s"), s.Median(c, "cpu-s")
	const worst = "connecting-worst-ns"
	with, without := s.Median(c, worst), s.Median(c.With("step", "none"), worst)
	if ready.Rounds == 0 || without.Rounds == 0 {
		return
	}
	s.Note(Name, "With %s services of %d backends and %s containers an agent is ready, its maps reconciled, %.2f s after its start, of which it "+
		"computes %.2f s; for 0.1 to 0.6 s etcd's only member waits to elect itself. No call failed meanwhile; the slowest "+
		"new connection took %s, and %s in as much time without a start.",
		c.Get("services"), startBackends, c.Get("wired"), ready.Center, cpu.Center, millis(with.Center), millis(without.Center))
}

// explainADD says what of an ADD is the plugin's process itself, and what the agent computes.
func explainADD(s *sheet.Sheet, c sheet.Case) {
	add, floor := s.Median(c, "p50-ns"), s.Median(c.With("step", "VERSION"), "p50-ns")
	agent, rate := s.Median(c, "agent-cpu-ns/op"), s.Median(c, "ops/s")
	switch {
	case add.Rounds == 0 || floor.Rounds == 0 || agent.Rounds == 0 || rate.Rounds == 0:
	case c.Get("parallel") == "1":
		s.Note(Name, "An ADD takes %s (p50), of which the plugin's process takes %s to start and end, and the agent computes %s.",
			millis(add.Center), millis(floor.Center), millis(agent.Center))
	default:
		s.Note(Name, "%s ADDs at a time: %.0f containers a second.", c.Get("parallel"), rate.Center)
	}
}
