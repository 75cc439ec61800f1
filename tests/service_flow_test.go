package tests

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sluice-net/sluice/loader"
	"github.com/sluice-net/sluice/tests/nstest"
	"github.com/sluice-net/sluice/tests/probe/report"
)

// flowing is a node with a client that no socket hook sees and a service of two backends, of which one gets no new
// flows after a while: whoever it still answers has a flow that is remembered.
type flowing struct {
	*testing.T
	*nstest.Node
	client *nstest.Container
	hand   *nstest.Hand
	vips   []netip.Addr
}

func newFlowing(t *testing.T, settings nstest.Settings) *flowing {
	t.Helper()
	f := &flowing{T: t, Node: newNode(t, settings)}
	f.client = addContainer(t, f.Node, "client", nil)
	for _, name := range []string{"a", "b"} {
		addContainer(t, f.Node, name, map[string]string{"app": "web"})
	}
	f.vips = apply(t, f.Node, "web", web("web", "web"))
	var err error
	if f.hand, err = f.client.Hand(true); err != nil {
		t.Fatal(err)
	}
	return f
}

// dial opens sockets to a VIP until one is answered by name; the others are left as they are.
func (f *flowing) dial(network string, vip netip.Addr, name string) int {
	f.Helper()
	for range 100 { // all of them answered by the other: once in 10^30 times
		did, err := f.hand.Do(report.Act{Do: report.Open, Net: network, To: netip.AddrPortFrom(vip, 80)})
		if err != nil {
			f.Fatal(err)
		}
		if f.ask(did.Socket) == name {
			return did.Socket
		}
	}
	f.Fatalf("%s never answers", name)
	return 0
}

// ask returns who answers.
func (f *flowing) ask(socket int) string {
	f.Helper()
	did, err := f.hand.Do(report.Act{Do: report.Ask, Socket: socket})
	if err != nil {
		f.Fatal(err)
	}
	return did.Name
}

// want wants each of some sockets to be answered by name.
func (f *flowing) want(what, name string, sockets []int) {
	f.Helper()
	for _, s := range sockets {
		if got := f.ask(s); got != name {
			f.Fatalf("%s: %s answers, want %s", what, got, name)
		}
	}
}

// drain has a container get no new flows.
func (f *flowing) drain(c string) {
	f.Helper()
	if _, err := f.Sluice(f.Context(), "", "drain", f.Node.Name+"-"+c); err != nil {
		f.Fatal(err)
	}
}

// TestSilence: a flow that is silent for longer than its lifetime is decided anew; one that is not goes on.
func TestSilence(t *testing.T) {
	const lifetime = 2 * time.Second
	f := newFlowing(t, nstest.Settings{Flows: "{udp: {unanswered: 2s, answered: 2s}}"})
	var silent, busy []int
	for _, vip := range f.vips {
		silent, busy = append(silent, f.dial("udp", vip, "a")), append(busy, f.dial("udp", vip, "a"))
	}
	f.drain("a")
	f.want("before its lifetime is over", "a", slices.Concat(silent, busy))
	for start := time.Now(); time.Since(start) < 2*lifetime; time.Sleep(lifetime / 10) {
		f.want("never silent for long", "a", busy)
	}
	f.want("silent for twice its lifetime", "b", silent)
}

// TestFlowPressure: when there are more flows than the map holds, those that are used stay, and idle ones go.
func TestFlowPressure(t *testing.T) {
	const (
		entries = 2048
		flows   = 4 * entries / 2 // of two entries each: the map is filled four times
		burst   = flows / 100     // between two signs of life
	)
	f := newFlowing(t, nstest.Settings{MapScale: float64(entries) / float64(loader.DefaultSizes().Flows)})
	sink, err := f.AddContainer(t.Context(), nstest.Spec{Name: "sink", Empty: true})
	if err != nil {
		t.Fatal(err)
	}
	var active, idle []int
	for _, vip := range f.vips {
		active = append(active, f.dial("tcp", vip, "a"), f.dial("udp", vip, "a"))
		idle = append(idle, f.dial("udp", vip, "a"))
	}
	f.drain("a")
	f.want("before there was any pressure", "a", slices.Concat(active, idle))
	out := openWire(t, f.client)
	for i := range flows {
		from, to := netip.AddrPortFrom(f.client.V4, uint16(10000+i)), netip.AddrPortFrom(sink.V4, 9)
		for range 2 { // one packet would be a scan, for which the map takes room from none that was ever used
			out.send(t, framed(out, datagram(from, to, nil)))
		}
		if i%burst == 0 {
			f.want("in use all the time", "a", active)
		}
	}
	f.want("in use all the time", "a", active)
	f.want("idle all the time", "b", idle)
}
