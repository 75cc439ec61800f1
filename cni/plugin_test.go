package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestMain runs the tests once more in a network namespace of their own, without a way out: the plugin
// works on the namespace of its process.
func TestMain(m *testing.M) {
	const marker = "SLUICE_TEST_NETNS"
	if os.Geteuid() != 0 || os.Getenv(marker) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// agent answers like the agent and remembers what it was asked.
type agent struct {
	mu     sync.Mutex
	asked  []string
	refuse map[string]*types.Error // by path
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, r.URL.Path)
	if e := a.refuse[r.URL.Path]; e != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(e)
		return
	}
	if r.URL.Path == PathAttach {
		link, err := netlink.LinkByName(HostInterface(testID()))
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
	}
	if r.URL.Path == PathAdd {
		_ = json.NewEncoder(w).Encode(AddReply{
			Reservation: "r1", HostInterface: HostInterface(testID()), MAC: DefaultMAC(testID()).String(), MTU: 1400,
			Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00::2")},
		})
		return
	}
	_ = json.NewEncoder(w).Encode(struct{}{})
}

func testID() AttachmentID { return AttachmentID{ContainerID: "c1", IfName: "eth0"} }

// startAgent serves an agent on a socket in a new directory.
func startAgent(t *testing.T, a *agent) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "sluiced.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: a}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return socket
}

// newNetns makes a namespace and returns a path to it.
func newNetns(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result)
	var make func()
	make = func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if unix.Gettid() == unix.Getpid() {
			go make() // on another thread, since this one does not end
			runtime.UnlockOSThread()
			return
		}
		err := unix.Unshare(unix.CLONE_NEWNET)
		var file *os.File
		if err == nil {
			file, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- result{file, err}
	}
	go make()
	got := <-done
	if got.err != nil {
		t.Fatal(got.err)
	}
	t.Cleanup(func() { got.file.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", got.file.Fd())
}

func cmdArgs(socket, netns string) *skel.CmdArgs {
	return &skel.CmdArgs{
		ContainerID: testID().ContainerID, IfName: testID().IfName, Netns: netns,
		StdinData: []byte(conf(`"socket": "` + socket + `"`)),
	}
}

// interfaces lists the devices of a namespace; of the tests' own when the path is empty.
func interfaces(t *testing.T, path string) []string {
	t.Helper()
	var names []string
	list := func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			names = append(names, l.Attrs().Name)
		}
		return err
	}
	var err error
	if path == "" {
		err = list()
	} else {
		var ns *netns
		if ns, err = openNetns(path); err == nil {
			err = ns.do(list)
			ns.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Each step of ADD fails in turn: what those before it made is gone, and the agent was told.
func TestAddUndoesItself(t *testing.T) {
	container := newNetns(t)
	before, inside := interfaces(t, ""), interfaces(t, container)
	var steps []string
	count := func(step string) error { steps = append(steps, step); return nil }
	a := &agent{}
	p := &Plugin{Out: new(bytes.Buffer), Log: new(bytes.Buffer), fault: count}
	socket := startAgent(t, a)
	if err := p.add(cmdArgs(socket, container)); err != nil {
		t.Fatal(err)
	}
	if err := removeVeth(HostInterface(testID())); err != nil {
		t.Fatal(err)
	}
	for _, failing := range steps {
		for _, away := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, agent away %v", failing, away), func(t *testing.T) {
				a.asked, a.refuse = nil, nil
				if away {
					a.refuse = map[string]*types.Error{PathDel: types.NewError(types.ErrInternal, "no", "")}
				}
				p.fault = func(step string) error {
					if step == failing {
						return errors.New("step fails")
					}
					return nil
				}
				if err := p.add(cmdArgs(socket, container)); err == nil || !strings.Contains(err.Error(), "step fails") {
					t.Fatalf("ADD: %v", err)
				}
				if told := slices.Contains(a.asked, PathDel); told != (failing != "reserve") {
					t.Errorf("asked of the agent: %v", a.asked)
				}
				if spooled := IsSpooled(SpoolDir(socket), testID()); spooled != (away && failing != "reserve") {
					t.Errorf("spooled: %v", spooled)
				}
				if err := Unspool(SpoolDir(socket), testID()); err != nil {
					t.Error(err)
				}
				if !away { // this agent removes nothing
					if err := removeVeth(HostInterface(testID())); err != nil {
						t.Error(err)
					}
				}
				if got := interfaces(t, ""); !slices.Equal(got, before) {
					t.Errorf("interfaces %v, before %v", got, before)
				}
				if got := interfaces(t, container); !slices.Equal(got, inside) {
					t.Errorf("in the container %v, before %v", got, inside)
				}
			})
		}
	}
}

func TestClientWaitsOnlyWhereItHelps(t *testing.T) {
	dir := t.TempDir()
	absent := NewClient(filepath.Join(dir, "none.sock"))
	if err := absent.Del(t.Context(), DelRequest{AttachmentID: testID()}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("no socket: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := NewClient(file).Status(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a file that is no socket: %v", err)
	}

	// The agent comes while an ADD waits for it.
	socket := filepath.Join(dir, "late.sock")
	done := make(chan error)
	go func() {
		_, err := NewClient(socket).Add(t.Context(), AddRequest{})
		done <- err
	}()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	first, err := l.Accept() // and dies at once
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	s := &http.Server{Handler: &agent{}}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	if err := <-done; err != nil {
		t.Errorf("ADD: %v", err)
	}
}

func TestClientBoundsReplies(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "x.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	replies := make(chan string, 1)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(<-replies))
	})}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	for reply, want := range map[string]string{
		strings.Repeat("x", MaxReply+1):   "exceeds",
		"garbage":                         `answered 500 Internal Server Error: "garbage"`,
		`{"code": 101, "msg": "no luck"}`: "no luck",
	} {
		replies <- reply
		if err := NewClient(socket).Status(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: %v, want %q", reply, err, want)
		}
	}
}

func TestOpenNetns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"":                  "no such file",
		"/run/netns/none":   "no such file",
		file:                "no namespace",
		"/proc/self/ns/uts": "another kind",
		"/proc/self/ns/net": "the node's own",
	} {
		ns, err := openNetns(path)
		var e *types.Error
		if !errors.As(err, &e) || e.Code != types.ErrInvalidNetNS || !strings.Contains(e.Msg, want) {
			t.Errorf("%q: %v, %v, want %q", path, ns, err, want)
		}
	}
}
