package nstest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Binaries are the paths of the built programs.
type Binaries struct {
	Agent  string // sluiced
	CLI    string // sluice
	Plugin string // sluice-cni
	Probe  string
	Load   string // what loads a path and measures it: the benchmark's
}

// In names the binaries in one directory.
func In(dir string) Binaries {
	return Binaries{
		Agent:  filepath.Join(dir, "sluiced"),
		CLI:    filepath.Join(dir, "sluice"),
		Plugin: filepath.Join(dir, "sluice-cni"),
		Probe:  filepath.Join(dir, "probe"),
		Load:   filepath.Join(dir, "load"),
	}
}

// Build builds the binaries of the module that the working directory lies in into dir.
func Build(ctx context.Context, dir string) (Binaries, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("find module: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", dir+"/",
		"./cmd/sluiced", "./cmd/sluice", "./cmd/sluice-cni", "./tests/probe", "./tests/bench/load")
	cmd.Dir = strings.TrimSpace(string(out))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the probe also runs in empty images
	if said, err := cmd.CombinedOutput(); err != nil {
		return Binaries{}, fmt.Errorf("build: %w\n%s", err, said)
	}
	return In(dir), nil
}
