package tests

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

// TestInstall: make install puts everything below DESTDIR where runtimes look for it, and make
// uninstall takes it away but for a configuration that was changed.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	run := func(target string) {
		t.Helper()
		cmd := exec.Command("make", "-C", "..", target, "DESTDIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	run("install")
	want := []string{
		"-rw------- etc/sluice/sluiced.yaml",
		"-rw-r--r-- etc/cni/net.d/10-sluice.conflist",
		"-rw-r--r-- etc/cni/net.d/10-sluice.conflist.1.0.0",
		"-rw-r--r-- etc/cni/net.d/10-sluice.conflist.1.1.0",
		"-rw-r--r-- lib/systemd/system/sluiced.service",
		"-rwxr-xr-x opt/cni/bin/sluice-cni",
		"-rwxr-xr-x usr/local/bin/sluice",
		"-rwxr-xr-x usr/local/bin/sluiced",
	}
	if got := installed(t, dir); !slices.Equal(got, want) {
		t.Errorf("installed:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	conf := filepath.Join(dir, "etc/cni/net.d")
	files, err := libcni.ConfFiles(conf, []string{".conf", ".conflist", ".json"})
	if err != nil || len(files) != 1 {
		t.Errorf("a runtime sees the configurations %v, %v", files, err)
	}
	for _, version := range []string{"1.0.0", "1.1.0"} {
		list, err := libcni.ConfListFromFile(filepath.Join(conf, "10-sluice.conflist."+version))
		if err != nil || list.CNIVersion != version || list.Plugins[0].Network.Type != "sluice-cni" {
			t.Errorf("conflist of %s: %+v, %v", version, list, err)
		}
	}
	config := filepath.Join(dir, "etc/sluice/sluiced.yaml")
	if err := os.WriteFile(config, []byte("node: {name: mine}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run("install")
	run("uninstall")
	if got := installed(t, dir); !slices.Equal(got, []string{"-rw------- etc/sluice/sluiced.yaml"}) {
		t.Errorf("after uninstall: %v", got)
	}
}

// installed lists mode and path of each file below dir.
func installed(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		files = append(files, info.Mode().String()+" "+strings.TrimPrefix(path, dir+"/"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}
