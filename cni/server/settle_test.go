package server

import (
	"bytes"
	"errors"
	"fmt"
	"golang.org/x/sys/unix"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/vishvananda/netlink"

	"github.com/sluice-net/sluice/cni"
	"github.com/sluice-net/sluice/registry"
)

func id(container string) cni.AttachmentID {
	return cni.AttachmentID{ContainerID: container, IfName: "eth0"}
}

func hostOf(container string) string { return cni.HostInterface(id(container)) }

// A namespace that goes without a DEL takes its endpoint with it, but not its address.
func TestVanishedContainerIsWithdrawn(t *testing.T) {
	r := newRig(t)
	empty := r.state()
	c, stay := r.container("c"), r.container("stay")
	r.add(stay)
	r.add(c)
	c.vanish()
	r.until("the endpoint is withdrawn", func() bool {
		endpoints, err := r.book.Endpoints(t.Context())
		return err == nil && len(endpoints) == 1
	})
	if used := r.server.Usage()[0].Used; used != 2 {
		t.Errorf("%d addresses used, want 2", used)
	}
	// Some runtimes send no DEL before the next ADD of the same container.
	again := r.container("c")
	result := r.add(again)
	r.must(again, call{verb: "CHECK", conf: map[string]any{"prevResult": result}})
	r.must(again, call{verb: "DEL"})
	r.must(stay, call{verb: "DEL"})
	r.unchanged(empty)
}

// An ADD that was reserved but never committed is taken up again; its late commit comes to nothing.
func TestAddIsTakenUpAgain(t *testing.T) {
	r := newRig(t)
	client := cni.NewClient(r.socket)
	defer client.Close()
	request := cni.AddRequest{AttachmentID: id("c"), Network: "sluice"}
	first, err := client.Add(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: first.HostInterface, HardwareAddr: []byte{0x02, 0x53, 0x6c, 0x75, 0x63, 0x65}},
		PeerName:  "left",
	}); err != nil {
		t.Fatal(err)
	}
	c := r.container("c")
	result := r.add(c)
	late := cni.CommitRequest{AttachmentID: id("c"), Reservation: first.Reservation}
	var e *types.Error
	if err := client.Commit(t.Context(), late); !errors.As(err, &e) || e.Code != types.ErrUnknownContainer {
		t.Errorf("late commit: %v", err)
	}
	if err := client.Del(t.Context(), cni.DelRequest{AttachmentID: id("c"), Reservation: first.Reservation}); err != nil {
		t.Errorf("late undo: %v", err)
	}
	r.must(c, call{verb: "CHECK", conf: map[string]any{"prevResult": result}})
	r.must(c, call{verb: "DEL"})
}

// A commit may be repeated, also by way of another agent on the same state.
func TestCommitIsIdempotent(t *testing.T) {
	r := newRig(t)
	c := r.container("c")
	result := r.add(c)
	a, _, _ := r.server.get(hostOf("c"))
	commit := cni.CommitRequest{AttachmentID: id("c"), Reservation: a.Reservation}
	before := r.state()
	if _, err := r.server.commit(t.Context(), commit); err != nil {
		t.Error(err)
	}
	r.stop()
	r.start()
	if _, err := r.server.commit(t.Context(), commit); err != nil {
		t.Error(err)
	}
	r.unchanged(before)
	r.must(c, call{verb: "CHECK", conf: map[string]any{"prevResult": result}})
}

// Whatever was left half done while no agent was there is put right at the next start.
func TestSettle(t *testing.T) {
	for name, test := range map[string]struct {
		// damage is done between two agents, after the container "c" was wired.
		damage func(r *rig, c *container) error
		gone   bool // the container is no longer wired afterwards
	}{
		"nothing": {func(*rig, *container) error { return nil }, false},
		"dataplane lost it": {func(r *rig, _ *container) error {
			return r.plane.DetachInterface(hostOf("c"))
		}, false},
		"registry lost it": {func(r *rig, _ *container) error {
			return r.book.DeleteEndpoint(t.Context(), registry.EndpointID{Node: "n1", ContainerID: "c", Interface: "eth0"})
		}, false},
		"host side is down": {func(*rig, *container) error {
			link, err := netlink.LinkByName(hostOf("c"))
			if err != nil {
				return err
			}
			return netlink.LinkSetDown(link)
		}, false},
		"record is unreadable": {func(r *rig, _ *container) error {
			return os.WriteFile(filepath.Join(r.opts.State, hostOf("c")+".json"), []byte("{"), 0o600)
		}, false},
		"strangers": {func(r *rig, _ *container) error {
			return errors.Join(
				netlink.LinkAdd(&netlink.Veth{
					LinkAttrs: netlink.LinkAttrs{Name: hostOf("x"), HardwareAddr: []byte{0x02, 0x53, 0x6c, 0x75, 0x63, 0x65}},
					PeerName:  "left",
				}),
				r.plane.Attach(Interface{Name: hostOf("y")}),
				r.book.PutEndpoint(t.Context(), registry.Endpoint{EndpointID: registry.EndpointID{Node: "n1", ContainerID: "z", Interface: "eth0"}}),
			)
		}, false},
		"another boot": {func(r *rig, c *container) error {
			path := filepath.Join(r.opts.State, hostOf("c")+".json")
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			c.vanish()
			return errors.Join(
				os.WriteFile(path, bytes.ReplaceAll(b, []byte(`"boot": "`), []byte(`"boot": "x`)), 0o600),
				deleteLink(hostOf("c")),
			)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			empty := r.state()
			c := r.container("c")
			result := r.add(c)
			wired := r.state()
			r.stop()
			if err := test.damage(r, c); err != nil {
				t.Fatal(err)
			}
			r.start()
			if test.gone {
				r.unchanged(empty)
				return
			}
			if name != "host side is down" { // its routes come back in another order
				r.unchanged(wired)
			}
			r.must(c, call{verb: "CHECK", conf: map[string]any{"prevResult": result}})
			r.must(c, call{verb: "DEL"})
			r.unchanged(empty)
		})
	}
}

// A container whose record is unreadable, and of which nothing else tells either, keeps its wire until
// a DEL.
func TestUnreadableRecord(t *testing.T) {
	r := newRig(t)
	empty := r.state()
	c := r.container("c")
	r.add(c)
	r.stop()
	if err := os.WriteFile(filepath.Join(r.opts.State, hostOf("c")+".json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.book.DeleteEndpoint(t.Context(), registry.EndpointID{Node: "n1", ContainerID: "c", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	r.start()
	if _, err := netlink.LinkByName(hostOf("c")); err != nil {
		t.Errorf("the wire was cut: %v", err)
	}
	if used := r.server.Usage()[0].Used; used != 1 {
		t.Errorf("%d addresses are held, want the container's", used)
	}
	r.refuse(c, call{verb: "ADD"}, cni.CodeAttached, "unreadable")
	r.must(c, call{verb: "DEL"})
	r.unchanged(empty)
	r.add(c)
	r.must(c, call{verb: "DEL"})
}

// What no container has is unreachable at once, not sent out by the default route.
func TestUnusedAddressIsUnreachable(t *testing.T) {
	newRig(t)
	for _, addr := range []string{"10.244.1.99", "fd00:10:244:1::99"} {
		conn, err := net.Dial("udp", net.JoinHostPort(addr, "9"))
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("%s: %v, want %v", addr, err, unix.EHOSTUNREACH)
		}
	}
}

// A record that is lost, while registry, device and dataplane tell of the container, is written anew.
func TestLostRecord(t *testing.T) {
	r := newRig(t)
	c := r.container("c")
	r.add(c)
	wired := r.state()
	r.stop()
	if err := os.Remove(filepath.Join(r.opts.State, hostOf("c")+".json")); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.unchanged(wired)
	r.must(c, call{verb: "DEL"})
}

func TestReservationExpires(t *testing.T) {
	r := newRig(t)
	empty := r.state()
	reply, err := r.server.add(t.Context(), cni.AddRequest{AttachmentID: id("c"), Network: "sluice"})
	if err != nil {
		t.Fatal(err)
	}
	waiting := r.state()
	if err := r.server.tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.unchanged(waiting) // its plugin may be at work
	a, _, _ := r.server.get(reply.HostInterface)
	a.ReservedAt = time.Now().Add(-2 * reservationLimit)
	if err := r.server.put(a); err != nil {
		t.Fatal(err)
	}
	if err := r.server.tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.unchanged(empty)
}

// Every step of the agent fails in turn: a failed ADD leaves nothing behind, a DEL succeeds and is
// completed later, by the same agent or by the next.
func TestEveryStepFails(t *testing.T) {
	for _, verb := range []string{"ADD", "DEL"} {
		r := newRig(t)
		c := r.container("c")
		seen := map[string]bool{}
		r.server.fault = func(step string) error { seen[step] = true; return nil }
		r.add(c)
		if verb == "DEL" {
			clear(seen)
		}
		r.must(c, call{verb: "DEL"})
		r.server.fault = nil
		empty := r.state()
		for step := range seen {
			for _, next := range []string{"same agent", "next agent"} {
				t.Run(fmt.Sprintf("%s/%s/%s", verb, step, next), func(t *testing.T) {
					r.within(t)
					fault := func(s string) error {
						if s == step {
							return errors.New("step fails")
						}
						return nil
					}
					if verb == "DEL" {
						r.add(c)
					}
					r.server.fault = fault
					_, refusal := r.run(c, call{verb: verb})
					if (refusal != nil) != (verb == "ADD" && isAddStep(step)) {
						t.Errorf("%s: %v", verb, refusal)
					}
					r.server.fault = nil
					if refusal == nil && verb == "ADD" {
						r.must(c, call{verb: "DEL"})
					}
					if next == "next agent" {
						r.stop()
						r.start()
					}
					if err := r.server.tidy(t.Context()); err != nil {
						t.Error(err)
					}
					r.unchanged(empty)
				})
			}
		}
	}
}

func isAddStep(step string) bool {
	for _, s := range []string{"reserve", "attach", "host", "register", "record"} {
		if s == step {
			return true
		}
	}
	return false
}

// The agent dies at random steps of random verbs. What the last plugin was told must hold: a wired
// container is wired with the address it was given, which no other has.
func TestCrashesAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t, func(o *Options) { o.Prefixes = prefixes("10.244.1.0/28", "fd00:10:244:1::/64"); o.Logger = nil })
	empty := r.state()
	type wired struct {
		*container
		addr string
	}
	model := map[string]wired{}
	for step := range 60 {
		name := fmt.Sprint("c", random.IntN(5))
		w, is := model[name]
		if w.container == nil {
			w.container = r.container(name)
		}
		countdown := random.IntN(12)
		dead := false
		r.server.fault = func(string) error { // once dead, nothing more is done
			countdown--
			if dead = dead || countdown == 0; dead {
				return errors.New("killed")
			}
			return nil
		}
		if is {
			r.must(w.container, call{verb: "DEL"})
			delete(model, name)
			w.vanish()
		} else if result, refusal := r.run(w.container, call{verb: "ADD"}); refusal == nil {
			model[name] = wired{w.container, string(result)}
		}
		r.server.fault = nil
		if dead {
			r.stop()
			r.start()
		}
		if err := r.server.tidy(t.Context()); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		if used := r.server.Usage()[0].Used; used != uint64(len(model)) || len(r.plane.Interfaces()) != len(model) {
			t.Fatalf("step %d: %d addresses, %d interfaces, want %d", step, used, len(r.plane.Interfaces()), len(model))
		}
	}
	for _, w := range model {
		r.must(w.container, call{verb: "DEL"})
	}
	r.unchanged(empty)
}

func TestMetrics(t *testing.T) {
	r := newRig(t)
	c := r.container("c")
	r.add(c)
	r.refuse(c, call{verb: "ADD"}, cni.CodeAttached)
	metrics := prometheus.NewPedanticRegistry()
	metrics.MustRegister(r.server)
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{
		`sluice_cni_addresses_used{range="10.244.1.0/24"} 1`,
		`sluice_cni_addresses_limit{range="10.244.1.0/24"} 253`,
		`sluice_cni_errors_total{code="102",verb="add"} 1`,
		`sluice_cni_request_duration_seconds_count{verb="commit"} 1`,
	} {
		if !bytes.Contains(b.Bytes(), []byte(want)) {
			t.Errorf("no %s in\n%s", want, b.String())
		}
	}
	r.must(c, call{verb: "DEL"})
}
