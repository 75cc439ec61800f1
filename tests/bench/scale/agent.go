package scale

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/bench/part"
	"github.com/sluice-net/sluice/tests/bench/sheet"
	"github.com/sluice-net/sluice/tests/nstest"
)

// What an agent is to do with so many services of so many backends each: have them in the kernel's maps soon, and
// take little memory.
const (
	agentBackends = 4
	agentTogether = 500 // services in one request: it may hold 1000 objects
	aimServices   = 10_000
	aimSeconds    = 0.5
	aimMegabytes  = 120
)

// agents measures real agents by the number of services.
func agents(ctx context.Context, env part.Env) error {
	sizes := []int{10, 1000, aimServices}
	if env.Quick {
		sizes = []int{1000}
	}
	for _, services := range sizes {
		err := withoutAgent(ctx, env, services)
		if err == nil {
			err = oneAgent(ctx, env, services)
		}
		if err != nil {
			return fmt.Errorf("an agent with %d services: %w", services, err)
		}
	}
	tellAims(env.Sheet, sizes[len(sizes)-1])
	return nil
}

// agentCase is one of so many services.
func agentCase(services int, step string) sheet.Case {
	return sheet.Of(Name, "grow", "agent", "services", services, "backends", services*agentBackends, "step", step)
}

// withoutAgent measures what the same services take from the registry's telling of them to the maps.
func withoutAgent(ctx context.Context, env part.Env, services int) (err error) {
	c, err := start(ctx, plan{Grow: "agent", N: services, CPU: env.CPU, Scale: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	for round := range env.Rounds {
		var l Loaded
		if err := c.call("Load", struct{}{}, &l); err != nil {
			return err
		}
		env.Sheet.Add(agentCase(services, "told"), round, services,
			sheet.Value{Unit: "load-s", Value: (l.Catalog + l.Sync).Seconds()},
			sheet.Value{Unit: "catalog-s", Value: l.Catalog.Seconds()}, sheet.Value{Unit: "sync-s", Value: l.Sync.Seconds()})
	}
	return nil
}

// tellAims compares with the aims, and says where the time goes.
func tellAims(s *sheet.Sheet, services int) {
	of := func(step, unit string) float64 { return s.Median(agentCase(services, step), unit).Center }
	verdict := map[bool]string{true: "met", false: "missed"}
	told, resident := of("told", "load-s"), of("agent_start", "rss-B")/1e6
	aims := fmt.Sprintf("the aims for %s services, %g s and %d MB, are %s and %s", grouped(aimServices), aimSeconds, aimMegabytes,
		verdict[told <= aimSeconds], verdict[resident <= aimMegabytes])
	if services == aimServices {
		judge(s)
	} else {
		aims = fmt.Sprintf("the aims are for %s services", grouped(aimServices))
	}
	s.Note(Name, "%s services of %d backends are in the maps %.3f s after the registry tells of them (catalog %.3f s, maps %.3f s), and the agent's resident memory is %.0f MB once it has started; %s.",
		grouped(services), agentBackends, told, of("told", "catalog-s"), of("told", "sync-s"), resident, aims)
	s.Note(Name, "From a cold start of the agent it takes %.2f s until the maps have all of them: %.2f s until the programs are loaded, and %.2f s for the store to open, to read and to fill the maps. Given by the API in %d inputs it takes %.2f s until the last answer says that the maps hold them: the store writes them to disk before.",
		of("agent_start", "load-s"), of("agent_start", "programs-s"), of("agent_start", "fill-s"), (services+agentTogether-1)/agentTogether, of("agent_apply", "load-s"))
	s.Note(Name, "Of the agent's %.0f MB, %.0f MB are its own heap, and the others what can be read again or is the kernel's: the program, the store's database, and the parts of the maps that it writes.",
		resident, of("agent_start", "rss-anonymous-B")/1e6)
}

// judge compares with the aims what was measured of so many services.
func judge(s *sheet.Sheet) {
	what := fmt.Sprintf("%s services of %d backends", grouped(aimServices), agentBackends)
	load := sheet.Aim{Part: Name, What: what + ": from the registry to the maps", Unit: "s", Most: aimSeconds}
	load.Found(s.Median(agentCase(aimServices, "told"), "load-s"))
	s.Judge(load)
	resident := sheet.Aim{Part: Name, What: what + ": resident memory of an agent after its start", Unit: "MB", Most: aimMegabytes}
	e := s.Median(agentCase(aimServices, "agent_start"), "rss-B")
	resident.Found(sheet.Estimate{Center: e.Center / 1e6, Lo: e.Lo / 1e6, Hi: e.Hi / 1e6, Rounds: e.Rounds})
	s.Judge(resident)
}

// oneAgent gives an agent its services by its API, and then has it start with them, its maps being empty.
func oneAgent(ctx context.Context, env part.Env, services int) (err error) {
	env.Log("scale: an agent with %d services of %d backends", services, agentBackends)
	node, err := env.Lab.New(ctx, nstest.Settings{MapScale: 1, Attach: env.Attach})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	name := func(step string) sheet.Case { return agentCase(services, step) }
	start := time.Now()
	if err := applyAll(ctx, node, services); err != nil {
		return err
	}
	env.Sheet.Add(name("agent_apply"), 0, services, sheet.Value{Unit: "load-s", Value: time.Since(start).Seconds()})
	u, err := part.UsageOf(node.AgentPID())
	if err != nil {
		return err
	}
	env.Sheet.Add(name("agent_applied"), 0, 1, memory(u)...)
	for round := range env.LongRounds() {
		started, err := coldStart(ctx, node, services)
		if err != nil {
			return err
		}
		if u, err = part.AtRest(ctx, node.AgentPID()); err != nil {
			return err
		}
		env.Sheet.Add(name("agent_start"), round, 1, append(memory(u), started...)...)
	}
	return nil
}

// object is one of Kubernetes', as the API takes it.
type object map[string]any

func agentVIP(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 96, byte((i + 1) >> 8), byte(i + 1)})
}

func agentService(i int) object {
	return object{
		"apiVersion": "v1", "kind": "Service", "metadata": object{"name": fmt.Sprintf("s%d", i)},
		"spec": object{"clusterIP": agentVIP(i), "ports": []object{{"name": "http", "port": 80, "targetPort": 8080}}},
	}
}

// agentSlice lists backends that nobody can reach.
func agentSlice(i int) object {
	name := fmt.Sprintf("s%d", i)
	endpoints := make([]object, agentBackends)
	for j := range endpoints {
		n := i*agentBackends + j
		endpoints[j] = object{"addresses": []netip.Addr{netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)})}}
	}
	return object{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
		"metadata":  object{"name": name, "labels": object{"kubernetes.io/service-name": name}},
		"ports":     []object{{"name": "http", "port": 8080, "protocol": "TCP"}},
		"endpoints": endpoints,
	}
}

// applyAll gives the agent all services with their backends, in as few requests as it takes.
func applyAll(ctx context.Context, node *nstest.Node, services int) error {
	for from := 0; from < services; from += agentTogether {
		var items []object
		for i := from; i < min(from+agentTogether, services); i++ {
			items = append(items, agentService(i), agentSlice(i))
		}
		documents, err := json.Marshal(object{"apiVersion": "v1", "kind": "List", "items": items})
		if err != nil {
			return err
		}
		r, err := node.API().Apply(ctx, documents)
		if err == nil && !r.Synced {
			err = errors.New("apply: " + r.Warning)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// coldStart ends the agent, takes all that it had in the kernel away, and starts it again. The time counts from the
// start of the process until the maps hold every service, as whoever looks into them can tell.
func coldStart(ctx context.Context, node *nstest.Node, services int) ([]sheet.Value, error) {
	if err := node.StopAgent(); err != nil {
		return nil, err
	}
	agent := exec.CommandContext(ctx, node.Binaries().Agent, "--config", node.Config, "--detach")
	if _, err := node.Exec(ctx, agent); err != nil {
		return nil, err
	}
	start := time.Now()
	if err := node.LaunchAgent(); err != nil {
		return nil, err
	}
	pinned, complete, err := awaitMaps(ctx, node, services)
	if err != nil {
		return nil, err
	}
	if err := node.Ready(ctx); err != nil {
		return nil, err
	}
	status, err := node.API().Status(ctx)
	if err != nil {
		return nil, err
	}
	if status.Counts.Services != services || status.Counts.Backends != services*agentBackends {
		return nil, fmt.Errorf("the agent knows of %d services and %d backends", status.Counts.Services, status.Counts.Backends)
	}
	return []sheet.Value{
		{Unit: "load-s", Value: complete.Sub(start).Seconds()},
		{Unit: "programs-s", Value: pinned.Sub(start).Seconds()},
		{Unit: "fill-s", Value: complete.Sub(pinned).Seconds()},
	}, nil
}

// awaitMaps tells when the map of services was there, and when it held all of them. The agent writes entries in the
// order of addresses, each after all that it leads to: so the last one is looked for.
func awaitMaps(ctx context.Context, node *nstest.Node, services int) (pinned, complete time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var m *ebpf.Map
	path := filepath.Join(node.BPFFS, "services")
	if err := nstest.Await(ctx, "the map of services", func() (bool, error) {
		m, err = ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}); err != nil {
		return pinned, complete, err
	}
	defer m.Close()
	pinned = time.Now()
	addr := agentVIP(services - 1).As16()
	key := append(binary.NativeEndian.AppendUint16(bytes.Clone(addr[:]), 80), unix.IPPROTO_TCP, 0) // struct service_key
	value := make([]byte, m.ValueSize())
	err = nstest.Await(ctx, "the last service in the map", func() (bool, error) {
		err := m.Lookup(key, value)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return false, nil
		}
		return err == nil, err
	})
	return pinned, time.Now(), err
}

// memory is what a process has of it: all that is in RAM, of which files are what is mapped and can be read again,
// such as the program, or is the kernel's own: the maps. The rest is the process's.
func memory(u part.Usage) []sheet.Value {
	return []sheet.Value{
		{Unit: "rss-B", Value: u.Resident}, {Unit: "rss-anonymous-B", Value: u.Resident - u.Files},
		{Unit: "rss-peak-B", Value: u.Peak},
	}
}
