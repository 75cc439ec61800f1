package etcd

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/etcd/etcdtest"
)

// TestMain runs the tests, or is the process that TestKill kills, or a member of a cluster.
func TestMain(m *testing.M) {
	etcdtest.Main()
	if dir := os.Getenv("SLUICE_KILL_ME"); dir != "" {
		writeForever(dir)
	}
	if dir := os.Getenv("SLUICE_REGISTER_IN"); dir != "" {
		registerAndWait(dir)
	}
	os.Exit(m.Run())
}

// writeForever writes and deletes services, and says of each when it is done.
func writeForever(dir string) {
	ctx := context.Background()
	s, err := Open(ctx, Options{Dir: filepath.Join(dir, "etcd"), Run: dir, ServiceCIDRs: []netip.Prefix{
		netip.MustParsePrefix("10.96.0.0/24"), netip.MustParsePrefix("fd00::/120"),
	}})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	fmt.Println("open")
	for {
		req := dual(fmt.Sprint("s", r.IntN(20)))
		if r.IntN(3) == 0 {
			fmt.Println("try", req.Name.Name)
			if _, err := s.DeleteService(ctx, req.Name); err == nil {
				fmt.Println("deleted", req.Name.Name)
			}
			continue
		}
		fmt.Println("try", req.Name.Name)
		svc, _, err := s.PutService(ctx, req)
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println("put", req.Name.Name, svc.VIPs[0])
	}
}

// TestKill kills a writing process at random moments. What it was told is done must be there, what
// it was not may be; VIPs and services always agree.
func TestKill(t *testing.T) {
	dir := runDir(t)
	acknowledged := map[string]string{} // service: VIP, or "" when it is deleted
	for round := range 8 {
		tried := killOnce(t, dir, acknowledged)
		s, err := Open(t.Context(), Options{Dir: filepath.Join(dir, "etcd"), Run: dir})
		if err != nil {
			t.Fatalf("round %d: open after the kill: %v", round, err)
		}
		services := audit(t, s)
		for name, vip := range acknowledged {
			svc := services[registry.Name{Namespace: "default", Name: name}]
			got := ""
			if len(svc.VIPs) > 0 {
				got = svc.VIPs[0].String()
			}
			if got != vip && name != tried {
				t.Errorf("round %d: service %s has VIP %q, was told %q", round, name, got, vip)
			}
			acknowledged[name] = got
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killOnce returns the service that was being written or deleted at the end.
func killOnce(t *testing.T, dir string, acknowledged map[string]string) (tried string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SLUICE_KILL_ME="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := rand.IntN(300)
	for in := bufio.NewScanner(out); in.Scan(); lines-- {
		if lines == 0 {
			time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		}
		switch word := strings.Fields(in.Text()); word[0] {
		case "error":
			t.Errorf("writer: %s", in.Text())
		case "try":
			tried = word[1]
		case "put":
			acknowledged[word[1]], tried = word[2], ""
		case "deleted":
			acknowledged[word[1]], tried = "", ""
		}
	}
	_ = cmd.Wait() // killed, as it was meant to be
	return tried
}
