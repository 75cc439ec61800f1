package loader

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// The gateway of every container: an address of each family and a MAC that exist nowhere else, for
// which the programs answer. The plugin gives containers the same ones.
const (
	gatewayV4  = "169.254.1.1"
	gatewayV6  = "fe80::1"
	gatewayMAC = "02:53:6c:75:63:65"
)

// hairpinV6 is the client that a container sees when it is its own backend: a unique local address
// (RFC 4193) that no one has.
const hairpinV6 = "fd53:6c75:6963:65::1"

// askedWays is ASKED_WAYS of bpf/asked.h.
const askedWays = 4

// programs is what is attached. Nothing in it is pinned: links and filters keep their program.
type programs struct {
	fromPod, toPod *ebpf.Program
	sock           map[string]*ebpf.Program // by name; empty without socket translation
	asked          *ebpf.Map                // a map of tc's alone, which ends with its programs
}

func (p *programs) close() {
	if p == nil {
		return
	}
	p.fromPod.Close()
	p.toPod.Close()
	p.asked.Close()
	for _, prog := range p.sock {
		prog.Close()
	}
}

// all returns every program by its name.
func (p *programs) all() map[string]*ebpf.Program {
	all := maps.Clone(p.sock)
	all[podProgFromPod], all[podProgToPod] = p.fromPod, p.toPod
	return all
}

// probeConfig finds out what the kernel can do and fills in the programs' config.
func probeConfig(l Lifetimes) (config, error) {
	var c config
	l.tell(&c)
	c.GatewayV4.Bytes = netip.MustParseAddr(gatewayV4).As16()
	c.GatewayV6.Bytes = netip.MustParseAddr(gatewayV6).As16()
	c.HairpinV6.Bytes = netip.MustParseAddr(hairpinV6).As16()
	mac, err := net.ParseMAC(gatewayMAC)
	if err != nil {
		return c, err
	}
	copy(c.GatewayMac[:], mac)

	c.SetRetval, err = probeHelper(ebpf.CGroupSockAddr, asm.FnSetRetval)
	if err != nil {
		return c, err
	}
	if c.KernelCtx, err = probeKfunc("bpf_cast_to_kern_ctx"); err != nil {
		return c, err
	}
	if c.HomeNetns, err = netnsCookie(); err != nil {
		return c, err
	}
	return c, c.tellTime()
}

// probeKfunc finds out whether the kernel has a function for programs. One without BTF has none.
func probeKfunc(name string) (uint8, error) {
	kernel, err := btf.LoadKernelSpec()
	if err == nil {
		var fn *btf.Func
		err = kernel.TypeByName(name, &fn)
	}
	switch {
	case err == nil:
		return 1, nil
	case errors.Is(err, btf.ErrNotFound), errors.Is(err, ebpf.ErrNotSupported):
		return 0, nil
	}
	return 0, fmt.Errorf("probe kernel for %s: %w", name, err)
}

// netnsCookie returns the kernel's number of the calling thread's network namespace; 0: the kernel tells none
// (Linux before 5.14).
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read cookie of own network namespace: %w", err)
	}
	return cookie, nil
}

func probeHelper(t ebpf.ProgramType, fn asm.BuiltinFunc) (uint8, error) {
	err := features.HaveProgramHelper(t, fn)
	switch {
	case err == nil:
		return 1, nil
	case errors.Is(err, ebpf.ErrNotSupported):
		return 0, nil
	}
	return 0, fmt.Errorf("probe kernel for %s in %s programs: %w", fn, t, err)
}

// loadSpecs returns the specs of both objects with config and map sizes filled in.
func loadSpecs(c config, sizes Sizes) (sock, pod *ebpf.CollectionSpec, err error) {
	if sock, err = loadSock(); err != nil {
		return nil, nil, err
	}
	if pod, err = loadPod(); err != nil {
		return nil, nil, err
	}
	c.SockPeers = sizes.sockPeers()
	c.Asked = max(sizes.Flows/2/askedWays, 1) // two entries a flow
	pod.Maps[podMapAsked].MaxEntries = c.Asked
	for _, spec := range []*ebpf.CollectionSpec{sock, pod} {
		if v := spec.Variables[sockVarCfg]; v != nil {
			if err := v.Set(c); err != nil {
				return nil, nil, fmt.Errorf("set program config: %w", err)
			}
		}
		for name, entries := range sizes.byMap() {
			m := spec.Maps[name]
			if m == nil {
				return nil, nil, fmt.Errorf("size map %s: the object has none", name)
			}
			m.MaxEntries = entries
		}
	}
	return sock, pod, nil
}

// pinnedSpecs returns the specs of the maps that the objects share, without those that hold constants.
func pinnedSpecs(spec *ebpf.CollectionSpec) map[string]*ebpf.MapSpec {
	specs := map[string]*ebpf.MapSpec{}
	for name, m := range spec.Maps {
		if m.Pinning == ebpf.PinByName {
			m = m.Copy()
			m.Pinning = ebpf.PinNone // the map set pins
			specs[name] = m
		}
	}
	return specs
}

// loadPrograms loads both objects against the maps. The kernel verifies them; nothing runs yet.
func loadPrograms(sock, pod *ebpf.CollectionSpec, set *mapSet, withSock bool) (_ *programs, err error) {
	replacements := map[string]*ebpf.Map{}
	for name := range set.maps {
		replacements[name] = set.get(name)
	}
	cache := btf.NewCache()
	var types *btf.Spec // nil: the kernel's own
	if _, err := cache.Kernel(); errors.Is(err, ebpf.ErrNotSupported) {
		// The kernel says nothing of its types. What would read them is dead code then; see config.
		types = pod.Types
	}
	load := func(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
		for _, m := range spec.Maps {
			m.Pinning = ebpf.PinNone
		}
		coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
			MapReplacements: replacements, Cache: cache, Programs: ebpf.ProgramOptions{KernelTypes: types},
		})
		if err != nil {
			return nil, fmt.Errorf("load programs: %w", err)
		}
		return coll, nil
	}
	p := &programs{sock: map[string]*ebpf.Program{}}
	coll, err := load(pod)
	if err != nil {
		return nil, err
	}
	p.fromPod, p.toPod = coll.DetachProgram(podProgFromPod), coll.DetachProgram(podProgToPod)
	p.asked = coll.DetachMap(podMapAsked)
	coll.Close()
	if !withSock {
		return p, nil
	}
	if coll, err = load(sock); err != nil {
		p.close()
		return nil, err
	}
	for name := range sock.Programs {
		p.sock[name] = coll.DetachProgram(name)
	}
	coll.Close()
	return p, nil
}

// Objects returns the socket programs and those of tc as they are before they are loaded, without their config:
// what can be counted and measured of them elsewhere.
func Objects() (sock, pod *ebpf.CollectionSpec, err error) {
	if sock, err = loadSock(); err != nil {
		return nil, nil, err
	}
	pod, err = loadPod()
	return sock, pod, err
}
