package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/registry"
)

// plane is a Dataplane that only remembers.
type plane struct {
	mu         sync.Mutex
	interfaces map[string]Interface
	fail       error // what every change returns
	detaching  func(name string)
}

func (p *plane) Attach(i Interface) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return p.fail
	}
	p.interfaces[i.Name] = i
	return nil
}

func (p *plane) DetachInterface(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return p.fail
	}
	if p.detaching != nil {
		p.detaching(name)
	}
	delete(p.interfaces, name)
	return nil
}

func (p *plane) VerifyInterface(i Interface) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := p.interfaces[i.Name]; fmt.Sprint(got) != fmt.Sprint(i) {
		return fmt.Errorf("the dataplane has %v instead of %v", got, i)
	}
	return nil
}

func (p *plane) Interfaces() []Interface {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.interfaces))
}

// book is a Registry that only remembers.
type book struct {
	mu        sync.Mutex
	endpoints map[registry.EndpointID]registry.Endpoint
	changed   chan struct{} // closed and renewed with each change
	fail      error         // what every call returns
}

func (b *book) PutEndpoint(_ context.Context, e registry.Endpoint) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	b.endpoints[e.EndpointID] = e
	b.change()
	return nil
}

func (b *book) DeleteEndpoint(_ context.Context, id registry.EndpointID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	delete(b.endpoints, id)
	b.change()
	return nil
}

func (b *book) change() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *book) Endpoints(context.Context) ([]registry.Endpoint, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.endpoints)), b.fail
}

func (b *book) Health(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fail
}

func (b *book) setFail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

// rig is a node: a server on a socket, what it works with, and the plugin.
type rig struct {
	t      testing.TB
	plugin string
	opts   Options
	socket string
	plane  *plane
	book   *book
	server *Server
	http   *http.Server
	closed func()        // waits until the socket is closed
	cpu    time.Duration // that the last plugin used
}

func newRig(t testing.TB, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, plugin: pluginPath(t)}
	dir := t.TempDir()
	r.plane = &plane{interfaces: map[string]Interface{}}
	r.book = &book{endpoints: map[registry.EndpointID]registry.Endpoint{}, changed: make(chan struct{})}
	r.socket = filepath.Join(dir, "run", "sluiced.sock")
	r.opts = Options{
		Node:      "n1",
		Prefixes:  prefixes("10.244.1.0/24", "fd00:10:244:1::/64"),
		State:     filepath.Join(dir, "attachments"),
		Spool:     cni.SpoolDir(r.socket),
		Dataplane: r.plane,
		Registry:  r.book,
		Logger:    slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	for _, c := range change {
		c(&r.opts)
	}
	if err := os.MkdirAll(filepath.Dir(r.socket), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.stop()
		links, err := hostLinks()
		if err != nil {
			t.Error(err)
		}
		for _, l := range links {
			t.Log("left behind:", l.Attrs().Name)
			// The container's namespace, which is gone, may take it along at any moment.
			if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
				t.Error(err)
			}
		}
	})
	r.start()
	return r
}

// within lets a subtest use the rig until it ends.
func (r *rig) within(t *testing.T) {
	parent := r.t
	r.t = t
	t.Cleanup(func() { r.t = parent })
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// start opens a server on what is in the rig's directory.
func (r *rig) start() {
	r.t.Helper()
	s, err := New(r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = s
	if err := s.Settle(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.listen()
}

func (r *rig) listen() {
	r.t.Helper()
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		r.t.Fatal(err)
	}
	r.http = &http.Server{Handler: r.server.Handler()}
	served := make(chan error, 1)
	go func(h *http.Server) { served <- h.Serve(l) }(r.http)
	r.closed = func() {
		l.Close() // Serve may not have begun
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			r.t.Error(err)
		}
	}
}

// stop ends the server and removes its socket; what is wired stays.
func (r *rig) stop() {
	r.t.Helper()
	if r.server == nil {
		return
	}
	if err := r.http.Close(); err != nil {
		r.t.Error(err)
	}
	r.closed()
	if err := r.server.Close(); err != nil {
		r.t.Error(err)
	}
	r.server = nil
}

// container is a network namespace; its path leads to a file that this process holds open.
type container struct {
	id     string
	handle netns.NsHandle
	path   string
}

func (r *rig) container(id string) *container {
	r.t.Helper()
	c := &container{id: id, handle: newNetns(r.t)}
	c.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.handle)
	r.t.Cleanup(c.vanish)
	return c
}

// vanish removes the namespace, as a runtime does that sends no DEL.
func (c *container) vanish() {
	if c.handle.IsOpen() {
		c.handle.Close()
	}
}

func newNetns(t testing.TB) netns.NsHandle {
	t.Helper()
	type result struct {
		handle netns.NsHandle
		err    error
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
		var h netns.NsHandle
		if err == nil {
			h, err = netns.Get()
		}
		done <- result{h, err}
	}
	go make()
	got := <-done
	if got.err != nil {
		t.Fatal(got.err)
	}
	return got.handle
}

// inNetns runs f on a thread in a namespace, which ends with it.
func inNetns(h netns.NsHandle, f func() error) error {
	done := make(chan error)
	var enter func()
	enter = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			go enter()
			runtime.UnlockOSThread()
			return
		}
		err := netns.Set(h)
		if err == nil {
			err = f()
		}
		done <- err
	}
	go enter()
	return <-done
}

// netlink returns a netlink socket in the container.
func (c *container) netlink(t testing.TB) *netlink.Handle {
	t.Helper()
	h, err := netlink.NewHandleAt(c.handle, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// call is one run of the plugin.
type call struct {
	verb    string
	version string         // of the specification; empty: 1.1.0
	conf    map[string]any // beside the usual keys
	stdin   string         // instead of the configuration
	args    string         // CNI_ARGS
	netns   string         // instead of the container's path; "-": none
	env     []string
}

// run runs the plugin and returns what it printed, and its error when it failed.
func (r *rig) run(c *container, in call) ([]byte, *types.Error) {
	r.t.Helper()
	conf := map[string]any{"cniVersion": "1.1.0", "name": "sluice", "type": "sluice-cni", "socket": r.socket}
	if in.version != "" {
		conf["cniVersion"] = in.version
	}
	maps.Copy(conf, in.conf)
	stdin, err := json.Marshal(conf)
	if err != nil {
		r.t.Fatal(err)
	}
	if in.stdin != "" {
		stdin = []byte(in.stdin)
	}
	path := ""
	if c != nil {
		path = c.path
	}
	switch in.netns {
	case "":
	case "-":
		path = ""
	default:
		path = in.netns
	}
	cmd := exec.Command(r.plugin)
	cmd.Env = append([]string{"CNI_COMMAND=" + in.verb, "CNI_PATH=/none", "CNI_NETNS=" + path, "CNI_ARGS=" + in.args}, in.env...)
	if c != nil {
		cmd.Env = append(cmd.Env, "CNI_CONTAINERID="+c.id, "CNI_IFNAME=eth0")
	}
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if cmd.ProcessState != nil {
		r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	if err == nil {
		return out, nil
	}
	if !errors.As(err, new(*exec.ExitError)) {
		r.t.Fatal(err)
	}
	var refusal types.Error
	if err := json.Unmarshal(out, &refusal); err != nil {
		r.t.Fatalf("%s failed without an error on its output: %q, %q", in.verb, out, stderr.String())
	}
	return nil, &refusal
}

// add wires a container.
func (r *rig) add(c *container, change ...func(*call)) *current.Result {
	r.t.Helper()
	in := call{verb: "ADD"}
	for _, f := range change {
		f(&in)
	}
	out, refusal := r.run(c, in)
	if refusal != nil {
		r.t.Fatalf("ADD %s: code %d: %v", c.id, refusal.Code, refusal)
	}
	var result current.Result
	if err := json.Unmarshal(out, &result); err != nil {
		r.t.Fatalf("ADD %s: %v in %s", c.id, err, out)
	}
	return &result
}

// must runs a verb that has to succeed.
func (r *rig) must(c *container, in call) {
	r.t.Helper()
	if _, refusal := r.run(c, in); refusal != nil {
		r.t.Fatalf("%s: code %d: %v", in.verb, refusal.Code, refusal)
	}
}

// refuse runs a verb that has to fail with a code and words.
func (r *rig) refuse(c *container, in call, code uint, words ...string) {
	r.t.Helper()
	_, refusal := r.run(c, in)
	if refusal == nil {
		r.t.Fatalf("%s succeeded, want code %d", in.verb, code)
	}
	if refusal.Code != code {
		r.t.Errorf("%s: code %d, want %d: %v", in.verb, refusal.Code, code, refusal)
	}
	for _, w := range words {
		if !strings.Contains(refusal.Error(), w) {
			r.t.Errorf("%s: %q does not say %q", in.verb, refusal.Error(), w)
		}
	}
}

// state is everything that a failed verb must leave as it was.
func (r *rig) state() string {
	r.t.Helper()
	var b strings.Builder
	links, err := cni.Dump(netlink.LinkList)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, l := range links {
		fmt.Fprintln(&b, "link", l.Attrs().Index, l.Attrs().Name, l.Attrs().Flags, l.Attrs().MTU)
	}
	routes, err := cni.Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		r.t.Fatal(err)
	}
	for _, route := range routes {
		fmt.Fprintln(&b, "route", route)
	}
	for _, dir := range []string{r.opts.State, r.opts.Spool} {
		files, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			r.t.Fatal(err)
		}
		for _, f := range files {
			if f.Name() != "last-addresses" {
				fmt.Fprintln(&b, "file", f.Name())
			}
		}
	}
	r.plane.mu.Lock()
	fmt.Fprintln(&b, "dataplane", r.plane.interfaces)
	r.plane.mu.Unlock()
	r.book.mu.Lock()
	fmt.Fprintln(&b, "registry", r.book.endpoints)
	r.book.mu.Unlock()
	if r.server != nil {
		fmt.Fprintln(&b, "addresses", r.server.Usage())
	}
	return b.String()
}

// unchanged fails when the state is not what it was before.
func (r *rig) unchanged(before string) {
	r.t.Helper()
	if after := r.state(); after != before {
		r.t.Errorf("state before:\n%s\nafter:\n%s", before, after)
	}
}

// until waits for a condition that a registry change or, failing that, time brings about.
func (r *rig) until(what string, condition func() bool) {
	r.t.Helper()
	for !condition() {
		r.book.mu.Lock()
		changed := r.book.changed
		r.book.mu.Unlock()
		if condition() {
			return
		}
		select {
		case <-changed:
		case <-r.t.Context().Done():
			r.t.Fatal("waited in vain: " + what)
		}
	}
}
