package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// countSockets counts what the socket programs execute: for a while, counted copies take their places.
func (s *situ) countSockets(ctx context.Context, env part.Env) (_ map[sheet.Case][]sheet.Value, err error) {
	specs, err := objects()
	if err != nil {
		return nil, err
	}
	twins := map[string]*twin{}
	defer func() {
		for name, t := range twins {
			err = errors.Join(err, s.attach(name, s.programs[name]))
			t.close()
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(s.programs)) {
		if name == fromPod || name == toPod {
			continue
		}
		prog := s.programs[name]
		if err := static(env, name, prog); err != nil {
			return nil, err
		}
		t, err := newTwin(prog, specs[name], name)
		if err != nil {
			env.Sheet.Note(Name, "What %s executes could not be counted: %v.", name, err)
			continue
		}
		twins[name] = t
		if err := s.attach(name, t.prog); err != nil {
			return nil, err
		}
	}
	if err := untestable(env, s.programs); err != nil {
		return nil, err
	}
	executed, last := map[sheet.Case][]sheet.Value{}, map[string]Counts{}
	return executed, s.each(ctx, env, func(class, family string, requests int, _ map[string]ebpf.ProgramStats) error {
		for name, t := range twins {
			sum, err := t.read()
			if err != nil {
				return err
			}
			if now := sum.minus(last[name]); now.Instructions > 0 {
				executed[situCase(name, class, family)] = now.values(requests)
			}
			last[name] = sum
		}
		return nil
	})
}

// attach has a pinned link run another program.
func (s *situ) attach(name string, prog *ebpf.Program) error {
	return linked(filepath.Join(s.node.BPFFS, "links", name), func(l link.Link, _ *ebpf.Program) error {
		if err := l.Update(prog); err != nil {
			return fmt.Errorf("attach %s: %w", name, err)
		}
		return nil
	})
}

// untestable notes why socket programs are measured under traffic only.
func untestable(env part.Env, programs map[string]*ebpf.Program) error {
	prog := programs["sock_connect4"]
	if prog == nil {
		return errors.New("find sock_connect4: the agent has attached none")
	}
	t := testRun{repeat: 1}
	if _, err := t.do(prog, make([]byte, 60), skb{}); err != nil {
		env.Sheet.Note(Name, "Socket programs are measured under traffic only: a test run of them fails (%v).", err)
	}
	return nil
}
