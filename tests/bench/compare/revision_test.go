package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// repository makes one with two commits, of which the second does not build, and goes there.
func repository(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	commit := func(tag string) {
		for _, args := range [][]string{
			{"add", "-A"}, {"-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", tag}, {"tag", tag},
		} {
			if said, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
				t.Fatalf("git %v: %v\n%s", args, err, said)
			}
		}
	}
	if said, err := exec.CommandContext(t.Context(), "git", "init", "-q").CombinedOutput(); err != nil {
		t.Fatalf("git init: %v\n%s", err, said)
	}
	write("go.mod", "module example.org/m\n\ngo 1.26\n")
	write(".gitignore", "out/\n")
	for _, name := range []string{"sluiced", "sluice", "sluice-cni"} {
		write(filepath.Join("cmd", name, "main.go"), "package main\n\nfunc main() {}\n")
	}
	commit("good")
	write("cmd/sluice/main.go", "package main\n\nfunc main() { nothing }\n")
	commit("bad")
}

// What a revision is built from goes again, whether or not it could be.
func TestBuildOld(t *testing.T) {
	repository(t)
	for _, tt := range []struct{ ref, name, err string }{
		{"good", "good", ""},
		{"bad", "bad", "undefined: nothing"},
		{"none", "", "find revision"},
		{"--all", "", "find revision"},
	} {
		to := t.TempDir()
		name, binaries, err := buildOld(t.Context(), options{ref: tt.ref, out: "out"}, to)
		if tt.err == "" {
			if err != nil || name != tt.name {
				t.Errorf("%s: built %q: %v", tt.ref, name, err)
			}
			if _, err := os.Stat(binaries.Agent); err != nil {
				t.Errorf("%s: %v", tt.ref, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: error %v, want %q", tt.ref, err, tt.err)
		}
		trees, err := git(t.Context(), "worktree", "list")
		if err != nil || strings.Contains(trees, "\n") {
			t.Errorf("%s: trees %q: %v", tt.ref, trees, err)
		}
		if left, _ := filepath.Glob("out/*"); len(left) > 0 {
			t.Errorf("%s: left %v", tt.ref, left)
		}
	}
}

// What a killed run has left is no obstacle.
func TestBuildOldAgain(t *testing.T) {
	repository(t)
	commit, err := git(t.Context(), "rev-parse", "good")
	if err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join("out", "tree-"+commit[:12])
	if _, err := git(t.Context(), "worktree", "add", "--detach", tree, "good"); err != nil {
		t.Fatal(err)
	}
	if _, err := git(t.Context(), "worktree", "lock", tree); err != nil { // as one that was killed while git checked out
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(tree, "cmd")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := buildOld(t.Context(), options{ref: "good", out: "out"}, t.TempDir()); err != nil {
		t.Error(err)
	}
	trees, err := git(t.Context(), "worktree", "list")
	if err != nil || strings.Contains(trees, "\n") {
		t.Errorf("trees %q: %v", trees, err)
	}
}
