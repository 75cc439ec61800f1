package peers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sluice-net/sluice/tests/bench/load/batch"
	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/path"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// kubeProxy is a way whose router's rules are those of kube-proxy. Its process is idle while calls are made, so that its
// CPU time is not theirs.
type kubeProxy struct {
	*pair
	mode string // iptables or nftables
	talk *nstest.Talk
	pid  int
}

// kubeProxyOrder and kubeProxyAnswer are what the command kubeproxy reads and writes.
type kubeProxyOrder struct{ Services int }

type kubeProxyAnswer struct {
	Families []kubeProxyFamily
	Error    string
}

type kubeProxyFamily struct {
	Family  path.Family
	Seconds float64
	VIP     netip.Addr
	Rules   int
	Before  []int
}

// The commands of iptables that kube-proxy runs.
var xtables = []string{
	"iptables", "iptables-restore", "iptables-save", "ip6tables", "ip6tables-restore", "ip6tables-save",
}

func newKubeProxy(ctx context.Context, env part.Env, dir, name string) (_ path.Way, err error) {
	program := filepath.Join(dir, "kubeproxy")
	if _, err := os.Stat(program); err != nil {
		return nil, absent(name, program)
	}
	k := &kubeProxy{mode: "nftables"}
	needed := []string{"nft"}
	if name == IPTables {
		k.mode, needed = "iptables", xtables
	}
	if command := missing(needed...); command != "" {
		return nil, absent(name, command)
	}
	if k.pair, err = newPair(env, name); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	cmd := exec.Command(program, k.args()...)
	cmd.Env = os.Environ()
	if name == IPTables {
		if cmd.Env, err = k.legacy(ctx); err != nil {
			return nil, err
		}
	}
	if k.talk, err = k.direct.Talk(nstest.AtRouter, cmd); err != nil {
		return nil, fmt.Errorf("start kube-proxy: %w", err)
	}
	k.pid = cmd.Process.Pid
	if name == NFTables {
		env.Sheet.Note(path.Name, "%s is given services some hundreds at a time, as they could come: a transaction of all takes the "+
			"kernel more than in proportion.", name)
	}
	return k, nil
}

func (k *kubeProxy) args() []string {
	args := []string{
		"-mode", k.mode, "-pods", "10.9.0.0/16", "-pods", "fd09::/64",
		"-service", fmt.Sprintf("%s=%s", k.v4, k.direct.ServerV4),
		"-service", fmt.Sprintf("%s=%s", k.v6, k.direct.ServerV6),
		"-new", fmt.Sprint(batch.Echo), "-new", fmt.Sprint(batch.Accept),
	}
	for _, e := range endpoints() {
		args = append(args, "-port", fmt.Sprintf("%s/%d", e.protocol, e.port))
	}
	return args
}

// legacy returns an environment in which iptables is the one of the kernel's own tables, if the machine has it. The
// one that writes nftables (1.8.9) takes minutes for 10 000 services, each time.
func (k *kubeProxy) legacy(ctx context.Context) ([]string, error) {
	multi, err := exec.LookPath("xtables-legacy-multi")
	if err == nil {
		_, err = k.direct.Exec(ctx, nstest.AtRouter, exec.Command(multi, "iptables", "-t", "nat", "-S"))
	}
	if err != nil {
		k.env.Sheet.Note(path.Name, "%s uses the machine's own iptables: there is no iptables-legacy that works.", k.name)
		return os.Environ(), nil
	}
	k.env.Sheet.Note(path.Name, "%s uses iptables-legacy, whose rules are written sooner than those of iptables-nft.", k.name)
	dir, err := k.direct.Dir()
	if err != nil {
		return nil, err
	}
	for _, name := range xtables {
		if err := os.Symlink(multi, filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "XTABLES_LOCKFILE="+filepath.Join(dir, "lock")), nil
}

// Services has kube-proxy program services until there are n, which is what is timed, and calls then go to that of the measured ones whose iptables rules
// lie in the middle of all.
func (k *kubeProxy) Services(ctx context.Context, n int) error {
	if n <= k.stood {
		return nil
	}
	var a kubeProxyAnswer
	if err := k.talk.Do(kubeProxyOrder{n}, &a); err != nil {
		return err
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	usage, err := part.UsageOf(k.pid)
	if err != nil {
		return err
	}
	for _, f := range a.Families {
		if f.Family == path.IPv4 {
			k.v4 = f.VIP
		} else {
			k.v6 = f.VIP
		}
		k.programmed(string(f.Family), n, append(placed(f), sheet.Value{Unit: "load-s", Value: f.Seconds},
			sheet.Value{Unit: "rss-B", Value: usage.Resident})...)
	}
	k.stood = n
	return nil
}

// Units of how many rules of iptables lead to services, and how many of them come before the one that TCP_CRR meets.
const (
	rulesUnit  = "rules"
	beforeUnit = "rules-before-crr"
)

// placed are these figures of a family; none: its rules have no order.
func placed(f kubeProxyFamily) []sheet.Value {
	if len(f.Before) == 0 {
		return nil
	}
	return []sheet.Value{{Unit: rulesUnit, Value: float64(f.Rules)}, {Unit: beforeUnit, Value: float64(f.Before[0])}}
}
