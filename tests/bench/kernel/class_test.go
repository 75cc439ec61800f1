package kernel

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// Every class makes its program do what the class says, and counts come out as what the code does.
func TestClasses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	env := part.Env{Sheet: &sheet.Sheet{}, CPU: 1, Log: t.Logf}
	err := alone(env.CPU, func() (err error) {
		w, err := newWorld(4)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.close()) }()
		list, err := subjectsOf(&w.plane, 2)
		defer closeAll(list)
		if err != nil {
			return err
		}
		if err := countAll(env, &w.plane, list); err != nil {
			return err
		}
		return lookups(list)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range env.Sheet.Notes(Name) {
		t.Error(n.Text)
	}
}

// lookups tells whether what is not ours looks up nothing, and what is established its flow.
func lookups(list []*subject) error {
	for _, s := range list {
		want := map[string]float64{"not_ours": 0, "established_vip": 1, "established_direct": 1, "established_uplink": 1}
		n, known := want[s.class.name]
		for _, v := range s.executed {
			if known && v.Unit == "lookups/op" && v.Value != n {
				return fmt.Errorf("%s looks up %v, want %v", s.name(s.step()), v.Value, n)
			}
		}
	}
	return nil
}

// A class whose program does something else is an error, whatever that costs.
func TestWrongClass(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	err := alone(1, func() (err error) {
		w, err := newWorld(2)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.close()) }()
		s := stage{&w.plane, 0}
		good := s.judged()[0]
		for name, spoil := range map[string]func(*class){
			"another verdict":  func(c *class) { c.verdict = verdictRedirect },
			"another counter":  func(c *class) { c.counts = []string{"flows_created"} },
			"another receiver": func(c *class) { c.becomes.dst = s.addr(server, targetPort) },
		} {
			bad := good
			spoil(&bad)
			if sub, err := newSubject(s, bad); err == nil {
				sub.close()
				return fmt.Errorf("%s was taken for right", name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
