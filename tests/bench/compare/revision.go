package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/sluice-net/sluice/tests/nstest"
)

// buildOld builds the revision from a working tree of its own, which it removes again, and returns what git calls it.
func buildOld(ctx context.Context, o options, to string) (name string, b nstest.Binaries, err error) {
	commit, err := git(ctx, "rev-parse", "--verify", "--end-of-options", o.ref+"^{commit}")
	if err != nil {
		return "", b, fmt.Errorf("find revision %s, which has to be fetched first if this is a shallow clone: %w", o.ref, err)
	}
	if name, err = git(ctx, "describe", "--tags", "--always", commit); err != nil {
		return "", b, err
	}
	tree, err := filepath.Abs(filepath.Join(o.out, "tree-"+commit[:12]))
	if err != nil {
		return "", b, err
	}
	// One that an earlier, killed run has left is in the way; there need not be one. While git checks out, it is locked.
	remove := func(ctx context.Context) error {
		_, _ = git(ctx, "worktree", "unlock", tree)
		_, _ = git(ctx, "worktree", "remove", "--force", tree)
		if err := os.RemoveAll(tree); err != nil {
			return err
		}
		_, err := git(ctx, "worktree", "prune")
		return err
	}
	if err := remove(ctx); err != nil {
		return "", b, err
	}
	defer func() { err = errors.Join(err, remove(context.WithoutCancel(ctx))) }()
	if _, err := git(ctx, "worktree", "add", "--quiet", "--detach", tree, commit); err != nil {
		return "", b, fmt.Errorf("check out %s: %w", name, err)
	}
	return name, nstest.In(to), build(ctx, tree, to, "./cmd/sluiced", "./cmd/sluice", "./cmd/sluice-cni")
}

// buildNew builds what is in the working tree, with what measures.
func buildNew(ctx context.Context, to string) (nstest.Binaries, error) {
	if err := os.Mkdir(to, 0o755); err != nil {
		return nstest.Binaries{}, err
	}
	return nstest.Build(ctx, to)
}

func build(ctx context.Context, tree, to string, packages ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-o", to + "/"}, packages...)...)
	cmd.Dir, cmd.Env = tree, append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", tree, err, said)
	}
	return nil
}

// describe is what git calls the working tree.
func describe(ctx context.Context) string {
	name, err := git(ctx, "describe", "--tags", "--always", "--dirty")
	if err != nil {
		return "working tree"
	}
	return name
}

func git(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}
