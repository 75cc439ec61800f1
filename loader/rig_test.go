package loader

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// verdict is what a tc program returns.
type verdict uint32

const (
	pass     verdict = 0xffffffff // TC_ACT_UNSPEC
	drop     verdict = 2          // TC_ACT_SHOT
	redirect verdict = 7          // TC_ACT_REDIRECT
)

func (v verdict) String() string {
	switch v {
	case pass:
		return "pass"
	case drop:
		return "drop"
	case redirect:
		return "redirect"
	}
	return fmt.Sprintf("verdict %#x", uint32(v))
}

// skBuff is the part of struct __sk_buff that Program.Run may set.
type skBuff struct {
	_              [9]uint32
	IngressIfindex uint32
	Ifindex        uint32
	_              [30]uint32
	GSOSegs        uint32
	_              [2]uint32
	GSOSize        uint32
	_              [3]uint32
}

// rig runs the tc programs on crafted packets, in a network namespace with a veth for each of the
// containers A, B and C.
type rig struct {
	t       testing.TB
	f       family
	coll    *ebpf.Collection
	netns   int // file descriptor
	ifindex map[string]uint32
	ports   map[string]uint16 // source ports that a program chose, by the name given in a fixture
	before  counters
	slots   uint32
}

// rigOptions change how the programs are loaded. The zero value will do.
type rigOptions struct {
	plain     bool      // as on a kernel without what is newer than 5.10
	exact     bool      // time to the nanosecond and not to the tick
	lifetimes Lifetimes // a field that is 0 has its default
	flows     func(*ebpf.MapSpec)
	edit      func(*ebpf.CollectionSpec)
}

// podConfig is the configuration that the fixtures expect.
func podConfig(t testing.TB, plain bool) config {
	t.Helper()
	c := config{GatewayMac: mac("G"), SockPeers: 256}
	DefaultLifetimes().tell(&c)
	c.GatewayV4.Bytes = families()[0].addr("G").As16()
	c.GatewayV6.Bytes = families()[1].addr("G").As16()
	c.HairpinV6.Bytes = families()[1].addr("H").As16()
	if plain {
		return c
	}
	found, err := probeConfig(DefaultLifetimes())
	if err != nil {
		t.Fatal(err)
	}
	c.SetRetval, c.KernelCtx, c.Tick, c.Epoch = found.SetRetval, found.KernelCtx, found.Tick, found.Epoch
	return c
}

// unpinned prepares a spec to be loaded alone, with small maps.
func unpinned(t testing.TB, spec *ebpf.CollectionSpec, cfg config) {
	t.Helper()
	for name, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		switch name {
		case "flows":
			m.MaxEntries = 4096
		case "services", "slots", "backends", "endpoints", "epochs", "service_stats", "frags",
			"sock_origin", "sock_choices", "prefixes", "subjects", "policy", "rulesets", "outcomes",
			"policy_stats", "numbers", "affinity":
			m.MaxEntries = 256
		case "sock_peers":
			m.MaxEntries = cfg.SockPeers
		case "port_nodes":
			m.MaxEntries = 64
		}
	}
	if err := spec.Variables["cfg"].Set(cfg); err != nil {
		t.Fatal(err)
	}
}

func newRig(t testing.TB, f family, o rigOptions) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	// The thread is not unlocked: it dies with the goroutine, and its namespace with it.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ns) })
	r := &rig{t: t, f: f, netns: ns, ifindex: map[string]uint32{}}
	for _, name := range []string{"A", "B", "C"} {
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "host" + name}, PeerName: "pod" + name,
		})
		if err != nil {
			t.Fatal(err)
		}
		link, err := netlink.LinkByName("host" + name)
		if err != nil {
			t.Fatal(err)
		}
		r.ifindex[name] = uint32(link.Attrs().Index)
	}
	spec, err := loadPod()
	if err != nil {
		t.Fatal(err)
	}
	cfg := podConfig(t, o.plain)
	if o.exact {
		cfg.Tick = 0
	}
	l, err := o.lifetimes.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l.tell(&cfg)
	cfg.Asked = 16384
	spec.Maps["asked"].MaxEntries = cfg.Asked
	unpinned(t, spec, cfg)
	if o.flows != nil {
		o.flows(spec.Maps["flows"])
	}
	if o.edit != nil {
		o.edit(spec)
	}
	if r.coll, err = ebpf.NewCollection(spec); err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(r.coll.Close)
	return r
}

// enter moves the calling goroutine, which may be a subtest's, to the rig's network namespace.
func (r *rig) enter() {
	r.t.Helper()
	runtime.LockOSThread() // see newRig
	if err := unix.Setns(r.netns, unix.CLONE_NEWNET); err != nil {
		r.t.Fatal(err)
	}
}

// run gives a packet to from_pod ("A>": what A sent) or to_pod (">A": what the node made for A, "->A":
// what came to the node for A, "B>A": what B sent and the node's stack forwards to A).
func (r *rig) run(hook string, in []byte) (verdict, []byte) {
	r.t.Helper()
	prog, opts := r.hook(hook)
	opts.Data, opts.DataOut = in, make([]byte, len(in)+256)
	ret, err := prog.Run(&opts)
	if errors.Is(err, unix.EINVAL) && opts.Context.(skBuff).IngressIfindex != 0 {
		r.t.Skip("the kernel does not let tests say by which interface a packet came")
	}
	if err != nil {
		r.t.Fatalf("run %s on %d bytes: %v", hook, len(in), err)
	}
	return verdict(ret), opts.DataOut
}

// hook returns the program and the context that run's hook stands for.
func (r *rig) hook(hook string) (*ebpf.Program, ebpf.RunOptions) {
	from, to, _ := strings.Cut(hook, ">")
	if to == "" {
		return r.coll.Programs["from_pod"], ebpf.RunOptions{Context: skBuff{Ifindex: r.ifindex[from]}}
	}
	ctx := skBuff{Ifindex: r.ifindex[to], IngressIfindex: r.ifindex[from]}
	if from == "-" {
		ctx.IngressIfindex = 1 // lo: any that is no container's
	}
	return r.coll.Programs["to_pod"], ebpf.RunOptions{Context: ctx}
}

// lookup reads a map's entry, and fails the test when there is none.
func (r *rig) lookup(name string, key, value any) {
	r.t.Helper()
	if err := r.coll.Maps[name].Lookup(key, value); err != nil {
		r.t.Fatalf("look up %v in %s: %v", key, name, err)
	}
}

func (r *rig) put(name string, key, value any) {
	r.t.Helper()
	if err := r.coll.Maps[name].Put(key, value); err != nil {
		r.t.Fatalf("write %v to %s: %v", key, name, err)
	}
}

func (r *rig) remove(name string, key any) {
	r.t.Helper()
	if err := r.coll.Maps[name].Delete(key); err != nil {
		r.t.Fatalf("delete %v from %s: %v", key, name, err)
	}
}

func protocols() []uint8 { return []uint8{protoTCP, protoUDP, protoSCTP} }

// number makes the numbers of services and backends differ by protocol; fixtures and dumps have the
// number for TCP.
func number(n uint32, proto uint8) uint32 {
	return n + 10*uint32(slices.Index(protocols(), proto))
}

// reset empties the maps and writes what every fixture begins with.
func (r *rig) reset() {
	r.t.Helper()
	r.ports, r.slots = map[string]uint16{}, 0
	for _, name := range []string{
		"services", "endpoints", "flows", "frags", "sock_origin", "prefixes", "policy", "affinity",
	} {
		r.empty(name)
	}
	r.resetPolicy()
	for i := range r.coll.Maps["backends"].MaxEntries() {
		r.put("backends", i, backend{})
		r.put("epochs", i, uint32(0))
	}
	for i := range uint32(40) {
		r.put("service_stats", i, make([]serviceStats, ebpf.MustPossibleCPU()))
	}
	for i, name := range []string{"A", "B", "C"} {
		r.endpoint(name, uint32(i+1))
	}
	for _, proto := range protocols() {
		r.backend(1, "B:7000", proto, 1)
		r.backend(2, "B:7000", proto, 2)
		r.backend(4, "A:7000", proto, 4)
		r.backend(5, "R:7000", proto, 5)
		r.backend(6, "C:7000", proto, 1) // not in use yet
		r.service("V:80", proto, 1, 1)
		r.service("W:81", proto, 2, 2)
		r.service("V:90", proto, 3)
		r.service("V:100", proto, 4, 4)
		r.service("V:110", proto, 5, 5)
	}
	for _, vip := range []string{"V", "W"} {
		r.put("services", markerKey(r.f.addr(vip)), service{})
	}
	r.before = r.counters()
}

func (r *rig) count(name string) (n int) {
	var key, value []byte
	for it := r.coll.Maps[name].Iterate(); it.Next(&key, &value); {
		n++
	}
	return n
}

// empty deletes a hash map's entries.
func (r *rig) empty(name string) {
	r.t.Helper()
	m := r.coll.Maps[name]
	var keys [][]byte
	var key, value []byte
	for it := m.Iterate(); it.Next(&key, &value); {
		keys = append(keys, slices.Clone(key))
	}
	for _, key := range keys {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			r.t.Fatalf("empty %s: %v", name, err)
		}
	}
}

// endpoint wires a container. All are of one network, and of the identities A, B and C by name.
func (r *rig) endpoint(name string, id uint32) {
	r.t.Helper()
	r.put("endpoints", toAddress(r.f.addr(name)), endpoint{
		Ifindex: r.ifindex[name], Id: id, Mac: mac(name), Identity: identities[name], Network: 1,
	})
}

// backend makes an entry active.
func (r *rig) backend(id uint32, to string, proto uint8, svc uint32) {
	r.t.Helper()
	name, port := parseEndpoint(to)
	r.put("backends", number(id, proto), backend{
		Addr: toAddress(r.f.addr(name)), Port: port, Proto: proto, State: backendActive,
		Service: number(svc, proto), Epoch: 1,
	})
}

// freeBackend takes an entry out of service, as the loader does.
func (r *rig) freeBackend(id uint32, proto uint8) {
	r.t.Helper()
	var b backend
	r.lookup("backends", number(id, proto), &b)
	b.State, b.Epoch = backendFree, b.Epoch+1
	r.put("backends", number(id, proto), b)
}

// drainBackend keeps new flows from an entry, as the loader does: no epoch is raised.
func (r *rig) drainBackend(id uint32, proto uint8) {
	r.t.Helper()
	var b backend
	r.lookup("backends", number(id, proto), &b)
	b.State = backendDraining
	r.put("backends", number(id, proto), b)
}

// service writes a service with a fresh run of these backends.
func (r *rig) service(at string, proto uint8, id uint32, backends ...uint32) {
	r.t.Helper()
	name, port := parseEndpoint(at)
	svc := service{First: r.slots, Count: uint32(len(backends)), Id: number(id, proto)}
	for _, b := range backends {
		r.put("slots", r.slots, number(b, proto))
		r.slots++
	}
	r.put("services", serviceKey{Addr: toAddress(r.f.addr(name)), Port: port, Proto: proto}, svc)
}

// raise raises a container's epoch.
func (r *rig) raise(id uint32) {
	r.t.Helper()
	var epoch uint32
	r.lookup("epochs", id, &epoch)
	r.put("epochs", id, epoch+1)
}
