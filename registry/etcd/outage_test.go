package etcd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluice-net/sluice/registry"
)

const briefLease = 3 // seconds

// registerAndWait registers instances, says so, and waits to be killed.
func registerAndWait(dir string) {
	s, err := Open(context.Background(), Options{Dir: filepath.Join(dir, "etcd"), Run: dir, ServiceCIDRs: []netip.Prefix{
		netip.MustParsePrefix("10.96.0.0/24"), netip.MustParsePrefix("fd00::/120"),
	}})
	for n := 0; n < 4 && err == nil; n++ {
		i := instance("web", n)
		i.Lease = briefLease
		_, _, err = s.Register(context.Background(), i)
	}
	if err == nil {
		err = s.Renew(context.Background(), instance("web", 0).InstanceID)
	}
	fmt.Println("done", err)
	select {}
}

// TestKilledRegistry kills the agent with the store in it, and has it come back when all leases would be over. They
// are judged afresh: the instances are there and can be renewed, and who does not renew goes after all.
func TestKilledRegistry(t *testing.T) {
	dir := runDir(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SLUICE_REGISTER_IN="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "done <nil>\n" {
		t.Errorf("the child said %q, %v", line, err)
	}
	over := time.Now().Add(briefLease * time.Second)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	time.Sleep(time.Until(over)) // the condition that is tested
	s, err := Open(t.Context(), Options{Dir: filepath.Join(dir, "etcd"), Run: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	kept := instance("web", 1).InstanceID
	_, lease := stored(t, s, kept)
	if got := ids(t, s, "web"); len(got) != 4 || lease == 0 {
		t.Errorf("after the outage there are %v, and lease %d", got, lease)
	}
	if err := s.Renew(t.Context(), kept); err != nil {
		t.Error(err)
	}
	if _, now := stored(t, s, kept); now != lease {
		t.Errorf("the lease is another: %d, was %d", now, lease)
	}
	until(t, "one that does not renew is gone", func() bool {
		if err := s.Renew(t.Context(), kept); err != nil {
			t.Error(err)
		}
		return len(ids(t, s, "web")) < 4
	})
}

// TestRenewWhileAway: without a majority of the cluster known instances can renew, nothing can be written, and
// what was renewed is when the majority is back.
func TestRenewWhileAway(t *testing.T) {
	c := startCluster(t)
	s := join(t, c)
	var all []registry.InstanceID
	for n := range 5 {
		i := instance("web", n)
		i.Lease = 600
		register(t, s, i)
		all = append(all, i.InstanceID)
		if err := s.Renew(t.Context(), i.InstanceID); err != nil {
			t.Fatal(err)
		}
	}
	known(t, s)
	if err := errors.Join(c.Kill(0), c.Kill(1)); err != nil {
		t.Fatal(err)
	}
	// A leader that is left alone renews leases until it notices.
	until(t, "all renewals are owed", func() bool {
		for _, id := range all {
			k, _ := s.instances.get(id)
			s.instances.renewed(id, k.lease, time.Time{}) // or else it is too early for the next
			if err := s.Renew(t.Context(), id); err != nil {
				t.Fatalf("renew %s: %v", id, err)
			}
		}
		return s.owed.len() == len(all)
	})
	if err := s.Renew(t.Context(), instance("web", 99).InstanceID); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("renew who is not known: %v", err)
	}
	if _, _, err := s.Register(t.Context(), instance("web", 99)); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("register: %v", err)
	}
	if _, err := s.Deregister(t.Context(), all[0]); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("deregister: %v", err)
	}
	back := []<-chan error{c.Restart(0), c.Restart(1)}
	if err := errors.Join(<-back[0], <-back[1]); err != nil {
		t.Fatal(err)
	}
	until(t, "nothing is owed", func() bool { return s.owed.len() == 0 && !s.owed.isAway() })
	for _, id := range all[1:] {
		if k, ok := s.instances.get(id); !ok || k.renewed.IsZero() {
			t.Errorf("%s was not renewed: %+v", id, k)
		}
	}
}

// TestElection: of two agents one deletes what has lapsed, and when it goes the other does.
func TestElection(t *testing.T) {
	c := startCluster(t)
	stores := []*Store{join(t, c), join(t, c)}
	for round := range 2 {
		for i, s := range stores {
			inst := instance(fmt.Sprintf("s%d-%d", round, i), 1)
			register(t, s, inst)
			lapse(t, s, inst.InstanceID)
			until(t, inst.Service+" is gone", func() bool { return len(ids(t, s, inst.Service)) == 0 })
		}
		until(t, "all are counted", func() bool {
			var n int64
			for _, s := range stores {
				n += s.expired.Load()
			}
			return n == int64(len(stores))
		})
		var worked []int
		for i, s := range stores {
			if s.expired.Load() > 0 {
				worked = append(worked, i)
			}
		}
		if len(worked) != 1 {
			t.Fatalf("round %d: stores %v deleted what had lapsed", round, worked)
		}
		if len(stores) == 1 {
			break
		}
		if err := stores[worked[0]].Close(); err != nil {
			t.Error(err)
		}
		stores = append(stores[:worked[0]], stores[worked[0]+1:]...)
	}
}
