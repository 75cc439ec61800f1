package tests

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/tests/nstest"
)

// private is the shell script that gives a command directories of its own where containerd and ctr
// have fixed paths: the configuration and plugins of CNI, and /run. $1 is a directory to work in, $2
// the plugin, the rest is the command.
const private = `set -e
dir=$1 plugin=$2
shift 2
mount -t tmpfs tmpfs "$dir/etc"
mkdir "$dir/etc/upper" "$dir/etc/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$dir/etc/upper,workdir=$dir/etc/work" /etc
mount -t tmpfs tmpfs /opt
mount -t tmpfs tmpfs /run
mkdir -p /etc/cni/net.d /opt/cni/bin
cp "$dir/sluice.conflist" /etc/cni/net.d/10-sluice.conflist
cp "$plugin" /opt/cni/bin/sluice-cni
exec "$@"`

// containerd is a daemon of its own on a test node.
type containerd struct {
	node   *nstest.Node
	dir    string
	plugin string
}

// newContainerd starts the daemon and imports an image that holds nothing but the probe.
func newContainerd(t *testing.T, n *nstest.Node) *containerd {
	t.Helper()
	for _, tool := range []string{"containerd", "ctr", "runc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("make test installs it: %v", err)
		}
	}
	c := &containerd{node: n, dir: filepath.Join(n.Dir, "containerd"), plugin: lab.Binaries.Plugin}
	for _, dir := range []string{c.dir, c.dir + "/etc"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c.write(t, "sluice.conflist", fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "sluice",
		"plugins": [{"type": "sluice-cni", "socket": %q}]}`, n.Socket()))
	c.write(t, "config.toml", fmt.Sprintf(`version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "%[1]s/c.sock"
`, c.dir))
	daemon := c.command("containerd", "--config", c.dir+"/config.toml")
	log, err := os.Create(c.dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon.Stdout, daemon.Stderr = log, log
	if err := n.Start(daemon); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			data, _ := os.ReadFile(c.dir + "/log")
			t.Logf("containerd:\n%s", data[max(0, len(data)-4000):])
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = nstest.Await(ctx, "containerd", func() (bool, error) {
		_, err := c.ctr(ctx, "version")
		return err == nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(c.dir, "image.tar")
	if err := writeImage(image, lab.Binaries.Probe); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ctr(t.Context(), "image", "import", "--snapshotter", "native", image); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *containerd) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *containerd) command(args ...string) *exec.Cmd {
	return exec.Command("unshare", append([]string{"--mount", "--propagation", "private",
		"sh", "-c", private, "sh", c.dir, c.plugin}, args...)...)
}

func (c *containerd) ctr(ctx context.Context, args ...string) ([]byte, error) {
	return c.node.Exec(ctx, c.command(append([]string{"ctr", "--address", c.dir + "/c.sock"}, args...)...))
}

// TestContainerd: a container that ctr runs is wired, reaches a service, and becomes a backend when
// it is labelled; when it ends, DEL comes without a namespace and takes its wire away.
func TestContainerd(t *testing.T) {
	paths(t, func(t *testing.T, settings nstest.Settings) {
		n := newNode(t, settings)
		client := addContainer(t, n, "client", nil)
		calls := kinds(apply(t, n, "web", web("web", "web")))
		before := wires(t, n)
		c := newContainerd(t, n)

		// The node's cgroup, so that the socket programs see it. ctr waits for the container's end.
		port := strconv.Itoa(nstest.Port)
		ended := make(chan error, 1)
		go func() {
			_, err := c.ctr(context.WithoutCancel(t.Context()), "run", "--rm", "--null-io", "--cni", "--snapshotter", "native",
				"--cgroup", "/"+n.Name+"/ctr", imageName, "ctr-web",
				"/probe", "serve", "--stay", "--name", "ctr-web", "--tcp", port, "--udp", port)
			ended <- err
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := nstest.Await(ctx, "the container", func() (bool, error) {
			select {
			case err := <-ended:
				return false, fmt.Errorf("ctr run ended: %w", err)
			default:
			}
			out, err := c.ctr(ctx, "task", "ls")
			return err == nil && strings.Contains(string(out), "RUNNING"), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Sluice(t.Context(), "", "label", "default-ctr-web", "app=web"); err != nil {
			t.Fatal(err)
		}
		for _, call := range calls {
			call.Count = 20
			err := nstest.Await(ctx, "the probe to listen", func() (bool, error) {
				r, err := client.Call(ctx, nstest.Call{Net: call.Net, To: call.To, Connect: true, Count: 1})
				return r.Answers["ctr-web"] == 1, err
			})
			if err != nil {
				t.Fatal(err)
			}
			r, err := client.Call(ctx, call)
			if err != nil {
				t.Fatal(err)
			}
			if r.Answers["ctr-web"] != call.Count {
				t.Errorf("%s: answers %v, %d failed: %v", title(call), r.Answers, r.Failed, r.Failures)
			}
		}
		c.callFrom(ctx, t, "ctr-web", n.Cgroup+"/ctr", calls)

		if _, err := c.ctr(ctx, "task", "kill", "--signal", "KILL", "ctr-web"); err != nil {
			t.Error(err)
		}
		select {
		case <-ended: // with an error: the container was killed
		case <-ctx.Done():
			t.Error("ctr run did not end")
		}
		if after := wires(t, n); len(after) != len(before) {
			t.Errorf("wired before: %v, after: %v", before, after)
		}
	})
}

// callFrom makes calls from the container's namespace and cgroup. Not with ctr task exec: it loses
// what a process prints that ends at once.
func (c *containerd) callFrom(ctx context.Context, t *testing.T, name, cgroup string, calls []nstest.Call) {
	t.Helper()
	tasks, err := c.ctr(ctx, "task", "ls")
	if err != nil {
		t.Fatal(err)
	}
	pid := regexp.MustCompile(`(?m)^` + name + ` +(\d+) `).FindSubmatch(tasks)
	if pid == nil {
		t.Fatalf("no process of %s among\n%s", name, tasks)
	}
	for _, call := range calls {
		call.Count = 20
		r, err := c.node.CallIn(ctx, fmt.Sprintf("/proc/%s/ns/net", pid[1]), cgroup, call)
		if err != nil || r.Answers[name] != call.Count {
			t.Errorf("%s from inside: %v, answers %v, %v", title(call), err, r.Answers, r.Failures)
		}
	}
}

const imageName = "sluice.test/probe:latest"

// writeImage makes an OCI image archive of one layer that holds the probe alone.
func writeImage(path, probe string) error {
	program, err := os.ReadFile(probe)
	if err != nil {
		return err
	}
	layer, err := archive(map[string][]byte{"probe": program}, 0o755)
	if err != nil {
		return err
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	add := func(kind string, blob []byte) map[string]any {
		sum := fmt.Sprintf("%x", sha256.Sum256(blob))
		files["blobs/sha256/"+sum] = blob
		return map[string]any{
			"mediaType": "application/vnd.oci.image." + kind,
			"digest":    "sha256:" + sum,
			"size":      len(blob),
		}
	}
	object := func(v any) []byte {
		text, merr := json.Marshal(v)
		if merr != nil {
			err = merr
		}
		return text
	}
	layerBlob := add("layer.v1.tar", layer)
	config := add("config.v1+json", object(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Cmd": []string{"/probe"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []any{layerBlob["digest"]}},
	}))
	manifest := add("manifest.v1+json", object(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config, "layers": []any{layerBlob},
	}))
	manifest["annotations"] = map[string]string{"io.containerd.image.name": imageName}
	files["index.json"] = object(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}})
	if err != nil {
		return err
	}
	image, err := archive(files, 0o644)
	if err != nil {
		return err
	}
	return os.WriteFile(path, image, 0o600)
}

func archive(files map[string][]byte, mode int64) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, data := range files {
		h := &tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}
