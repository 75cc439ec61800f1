package peers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/path"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// nginx is a way whose router accepts connections to the VIP itself and makes others to the server.
type nginx struct {
	*pair
	program, module string
	dir             string // holds its configuration and what it writes
	master          int    // process ids; 0: it does not run
	worker          int
}

// Where nginx calls from: addresses of the router's.
var (
	nginxV4 = netip.MustParseAddr("10.9.0.254")
	nginxV6 = netip.MustParseAddr("fd09::fe")
)

func newNginx(env part.Env, dir string) (_ path.Way, err error) {
	program, module, ok := findNginx(dir)
	if !ok {
		return nil, absent(Nginx, "nginx with its module stream")
	}
	n := &nginx{program: program, module: module}
	if n.pair, err = newPair(env, Nginx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.dir, err = n.direct.Dir(); err != nil {
		return nil, err
	}
	return n, n.direct.InNetns(nstest.AtRouter, n.addresses)
}

// findNginx looks where make bench has unpacked Debian's packages, and then where they are installed.
func findNginx(dir string) (program, module string, ok bool) {
	for _, root := range []string{filepath.Join(dir, "nginx"), "/"} {
		program = filepath.Join(root, "usr/sbin/nginx")
		module = filepath.Join(root, "usr/lib/nginx/modules/ngx_stream_module.so")
		_, err := os.Stat(program)
		_, err2 := os.Stat(module)
		if err == nil && err2 == nil {
			abs, err := filepath.Abs(module)
			return program, abs, err == nil
		}
	}
	return "", "", false
}

// addresses makes VIPs the router's own. Those of services that nobody calls are bound without being there.
func (n *nginx) addresses() error {
	for _, key := range []string{"ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind"} {
		if err := os.WriteFile("/proc/sys/net/"+key, []byte("1"), 0); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, ip := range []netip.Addr{n.v4, n.v6, nginxV4, nginxV6} {
		addr := &netlink.Addr{IPNet: netlink.NewIPNet(ip.AsSlice()), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return fmt.Errorf("add %s: %w", ip, err)
		}
	}
	return nil
}

// Services starts nginx anew with n services. Each VIP is a socket that listens: when the machine does not let a
// process have so many, there are fewer services, and a note.
func (n *nginx) Services(ctx context.Context, services int) error {
	if services <= n.stood {
		return nil
	}
	others, err := others(services)
	if err != nil {
		return err
	}
	if others < services-1 {
		n.env.Sheet.Note(path.Name, "nginx has %d services instead of %d: a process may have no more files open here.", others+1, services)
	}
	c := nginxConfig{
		dir: n.dir, module: n.module, cpu: n.env.CPU, others: others,
		vips: []netip.Addr{n.v4, n.v6}, servers: []netip.Addr{n.direct.ServerV4, n.direct.ServerV6},
		from: []netip.Addr{nginxV4, nginxV6},
	}
	if err := os.WriteFile(filepath.Join(n.dir, "nginx.conf"), []byte(c.text()), 0o600); err != nil {
		return err
	}
	if err := n.stop(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := n.start(ctx); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	usage, err := part.UsageOf(n.worker)
	if err != nil {
		return err
	}
	n.programmed("", services, sheet.Value{Unit: "load-s", Value: took}, sheet.Value{Unit: "rss-B", Value: usage.Resident})
	n.stood = services
	return nil
}

// others is how many services there can be besides the measured one: each has a listening socket for each family.
func others(services int) (int, error) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return 0, fmt.Errorf("read limit of open files: %w", err)
	}
	const room = 1000 // for connections, and what else it has open
	return max(0, min(services-1, int(min(files.Max, 1<<30)-room)/2)), nil
}

// start returns when nginx listens: it writes its pid and forks its worker after it has bound the sockets.
func (n *nginx) start(ctx context.Context) error {
	said, err := os.Create(filepath.Join(n.dir, "said"))
	if err != nil {
		return err
	}
	defer said.Close()
	cmd := exec.Command("sh", "-c", `ulimit -n "$(ulimit -Hn)" && exec "$@"`, "sh",
		n.program, "-p", n.dir, "-c", filepath.Join(n.dir, "nginx.conf"), "-e", "stderr")
	cmd.Stderr = said
	if err := n.direct.Start(nstest.AtRouter, cmd); err != nil {
		return err
	}
	n.master = cmd.Process.Pid
	return nstest.Await(ctx, "nginx", func() (bool, error) {
		if gone(n.master) {
			text, err := os.ReadFile(said.Name())
			return false, errors.Join(fmt.Errorf("start nginx: %s", strings.TrimSpace(string(text))), err)
		}
		if _, err := os.Stat(filepath.Join(n.dir, "pid")); err != nil {
			return false, nil // a child would still be one of the shell's
		}
		n.worker = child(n.master)
		return n.worker != 0, nil
	})
}

// child is a process's first one; 0: it has none.
func child(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	first, _, _ := strings.Cut(string(text), " ")
	number, _ := strconv.Atoi(first)
	return number
}

func gone(pid int) bool { return unix.Kill(pid, 0) == unix.ESRCH }

// stop ends nginx, if it runs, and waits until it is gone.
func (n *nginx) stop(ctx context.Context) error {
	if n.master == 0 {
		return nil
	}
	if err := unix.Kill(n.master, unix.SIGTERM); err != nil && err != unix.ESRCH {
		return fmt.Errorf("end nginx: %w", err)
	}
	err := nstest.Await(ctx, "nginx to end", func() (bool, error) { return gone(n.master), nil })
	n.master, n.worker = 0, 0
	return err
}

// PIDs has what forwards besides.
func (n *nginx) PIDs() []int {
	if n.worker == 0 {
		return n.pair.PIDs()
	}
	return append(n.pair.PIDs(), n.worker)
}
