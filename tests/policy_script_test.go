package tests

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// script is a file of testdata/policies: what it shows, and sections that begin with a line
//
//	-- COMMAND ARGUMENTS --
//
// apply NAME, delete NAME: the documents of the section, deleted by the name that they were applied by
// refuse FIELD: documents that are not taken, because of that field
// namespaces: documents of namespaces, which are put back at the end
// label MEMBER KEY=VALUE...: put back at the end
// expect: see expectations
//
// What a script has applied and not deleted is deleted at its end.
type script struct {
	title string
	steps []step
}

type step struct {
	command string
	args    []string
	body    string
	line    int
}

var header = regexp.MustCompile(`^-- (\w+)((?: \S+)*) --$`)

func readScript(file string) (*script, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := &script{}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		if m := header.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil {
			s.steps = append(s.steps, step{command: m[1], args: strings.Fields(m[2]), line: number})
			continue
		}
		if len(s.steps) == 0 {
			s.title += line
			continue
		}
		s.steps[len(s.steps)-1].body += line
	}
	if s.title == "" || !slices.ContainsFunc(s.steps, func(s step) bool { return s.command == "expect" }) {
		return nil, fmt.Errorf("%s: want a title and something to expect", file)
	}
	return s, nil
}

// runScripts runs all scripts of a directory.
func (c *cluster) runScripts(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts in %s: %d, %v", dir, len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			s, err := readScript(file)
			if err != nil {
				t.Fatal(err)
			}
			r := &scriptRun{cluster: c, applied: map[string]string{}, labelled: map[*member][]string{}}
			r.run(t, file, s)
		})
	}
}

// scriptRun is one run of a script.
type scriptRun struct {
	*cluster
	applied    map[string]string    // documents by name
	namespaced bool                 // namespaces were changed
	labelled   map[*member][]string // what was said of each
}

func (r *scriptRun) run(t *testing.T, file string, s *script) {
	defer r.restore(t)
	for _, step := range s.steps {
		failed := t.Failed()
		r.do(t, step)
		if t.Failed() && !failed {
			t.Errorf("at %s:%d:\n%s", file, step.line, s.title)
		}
	}
}

func (r *scriptRun) do(t *testing.T, s step) {
	t.Helper()
	switch {
	case s.command == "apply" && len(s.args) == 1:
		r.apply(t, s.body)
		r.applied[s.args[0]] = s.body
	case s.command == "delete" && len(s.args) == 1 && r.applied[s.args[0]] != "":
		r.delete(t, r.applied[s.args[0]])
		delete(r.applied, s.args[0])
	case s.command == "refuse" && len(s.args) == 1:
		_, err := r.node.Sluice(t.Context(), s.body, "apply", "-f", "-")
		if err == nil || !strings.Contains(err.Error(), s.args[0]) {
			t.Errorf("line %d: want an error about %s: %v", s.line, s.args[0], err)
		}
	case s.command == "namespaces":
		r.namespaced = true
		r.apply(t, s.body)
	case s.command == "label" && len(s.args) > 1:
		m := r.member(t, s.args[0])
		r.labelled[m] = append(r.labelled[m], s.args[1:]...)
		r.label(t, m, s.args[1:]...)
	case s.command == "expect":
		r.expect(t, s.body)
	default:
		t.Fatalf("line %d: what is %s %v?", s.line, s.command, s.args)
	}
}

// restore undoes what the script did and did not undo itself.
func (r *scriptRun) restore(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(r.applied)) {
		r.delete(t, r.applied[name])
	}
	if r.namespaced {
		r.apply(t, r.namespaces)
	}
	for m, changes := range r.labelled {
		back := map[string]bool{}
		for _, change := range changes {
			key, _, _ := strings.Cut(strings.TrimSuffix(change, "-"), "=")
			if value, had := m.labels[key]; had {
				back[key+"="+value] = true
			} else if !strings.HasSuffix(change, "-") {
				back[key+"-"] = true
			}
		}
		r.label(t, m, slices.Sorted(maps.Keys(back))...)
	}
}
