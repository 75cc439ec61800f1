package loader

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// fixture is a test of the tc programs: packets in, what must come out, and what is in the maps then.
type fixture struct {
	name     string
	steps    []step
	counters counters                // what the steps add
	flows    []string                // as rig.flows writes them; nil: those created, whatever they are
	stats    map[uint32]serviceStats // by the number for TCP; what the steps add. Bytes are not compared
	policies []string                // as rig.policyStats writes them; nil: whatever they are
	events   []string                // as rig.events writes them; nil: whatever they are
}

// step is a packet that goes through a hook, or a change of the maps.
type step struct {
	do      func(*rig)
	hook    string
	in      any // frame or []byte
	verdict verdict
	out     any // frame or []byte; nil: the packet is dropped, or unchanged
}

// at begins a step: the packet in comes by the hook ("A>" or ">A").
func at(hook string, in any) step { return step{hook: hook, in: in} }

func (s step) drops() step            { s.verdict = drop; return s }
func (s step) passes() step           { s.verdict = pass; return s }
func (s step) passesAs(out any) step  { s.verdict, s.out = pass, out; return s }
func (s step) redirects(out any) step { s.verdict, s.out = redirect, out; return s }

func do(f func(*rig)) step { return step{do: f} }

// runFixtures runs each fixture with empty maps but for what rig.reset writes.
func (r *rig) runFixtures(t *testing.T, fixtures []fixture) {
	for _, x := range fixtures {
		t.Run(x.name, func(t *testing.T) {
			outer := r.t
			r.t = t
			defer func() { r.t = outer }()
			r.enter()
			r.reset()
			for i, s := range x.steps {
				if s.do != nil {
					s.do(r)
					continue
				}
				r.step(fmt.Sprintf("step %d (%s)", i, s.hook), s)
			}
			r.compare(x)
		})
	}
}

func (r *rig) step(where string, s step) {
	r.t.Helper()
	in := r.render(s.in)
	got, out := r.run(s.hook, in)
	if got != s.verdict {
		r.t.Errorf("%s: verdict is %v, want %v\nin:\n%sout:\n%s", where, got, s.verdict,
			hex.Dump(in), hex.Dump(out))
		return
	}
	if got == drop {
		return
	}
	if s.out == nil {
		s.out = in
	}
	if p, ok := s.out.(frame); ok {
		r.learnPort(p, out)
	}
	if want := r.render(s.out); !bytes.Equal(out, want) {
		r.t.Errorf("%s:\nin:\n%sout:\n%swant:\n%s", where, hex.Dump(in), hex.Dump(out),
			hex.Dump(want))
	}
	if verifyChecksums(in) == nil {
		if err := verifyChecksums(out); err != nil && !errors.Is(err, errNotChecked) {
			r.t.Errorf("%s: %v\n%s", where, err, hex.Dump(out))
		}
	}
}

// learnPort gives a named source port that no packet had before its number.
func (r *rig) learnPort(p frame, out []byte) {
	_, name, _ := strings.Cut(p.src, ":")
	if name != "P" && name != "Q" || r.ports[name] != 0 {
		return
	}
	at := 14 + 20 + len(p.options)
	if r.f.v6 {
		at = 14 + 40
		if p.cut != nil {
			at += 8
		}
	}
	if len(out) < at+2 {
		return
	}
	r.ports[name] = binary.BigEndian.Uint16(out[at:])
	if r.ports[name] < 32768 || r.ports[name] > 60999 {
		r.t.Errorf("chosen port %d is not an ephemeral one", r.ports[name])
	}
}

// render makes bytes of a frame, with named ports by number.
func (r *rig) render(p any) []byte {
	switch p := p.(type) {
	case []byte:
		return p
	case func(*rig) frame:
		return r.render(p(r))
	case frame:
		p.src, p.dst = r.number(p.src), r.number(p.dst)
		return p.bytes(r.f)
	}
	panic(fmt.Sprintf("no packet: %T", p))
}

func (r *rig) number(endpoint string) string {
	for name, port := range r.ports {
		endpoint = strings.ReplaceAll(endpoint, ":"+name, fmt.Sprintf(":%d", port))
	}
	return endpoint
}

// compare compares the maps with what the fixture expects.
func (r *rig) compare(x fixture) {
	r.t.Helper()
	if got := r.counters().minus(r.before); got != x.counters {
		r.t.Errorf("counters are\n\t%s, want\n\t%s", show(got), show(x.counters))
	}
	want := slices.Sorted(slices.Values(x.flows))
	if got := r.flows(); !slices.Equal(got, want) && (want != nil || x.counters.FlowsCreated == 0) {
		r.t.Errorf("flows are\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"),
			strings.Join(want, "\n\t"))
	}
	if got := r.policyStats(); x.policies != nil && !slices.Equal(got, x.policies) {
		r.t.Errorf("policies counted\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"),
			strings.Join(x.policies, "\n\t"))
	}
	if x.events != nil {
		if got := r.events(); !slices.Equal(got, x.events) {
			r.t.Errorf("events are\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"),
				strings.Join(x.events, "\n\t"))
		}
	}
	if x.stats == nil {
		return
	}
	for id := range uint32(10) {
		var got serviceStats
		for _, proto := range protocols() {
			s := r.stats(number(id, proto))
			got.Connections += s.Connections
			got.Refused += s.Refused
			got.Packets += s.Packets
		}
		if got != x.stats[id] {
			r.t.Errorf("stats of service %d are %+v, want %+v", id, got, x.stats[id])
		}
	}
}

// show writes the counters that are not 0.
func show(c counters) string {
	var words []string
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Uint64 && v.Field(i).Uint() != 0 {
			words = append(words, fmt.Sprintf("%s: %d", v.Type().Field(i).Name, v.Field(i).Uint()))
		}
	}
	return "{" + strings.Join(words, ", ") + "}"
}

func (c counters) minus(d counters) counters {
	v, w := reflect.ValueOf(&c).Elem(), reflect.ValueOf(d)
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Uint64 {
			v.Field(i).SetUint(v.Field(i).Uint() - w.Field(i).Uint())
		}
	}
	return c
}

// counters sums the counters of all CPUs.
func (r *rig) counters() (sum counters) {
	var each []counters
	r.lookup("counters", uint32(0), &each)
	v := reflect.ValueOf(&sum).Elem()
	for _, c := range each {
		w := reflect.ValueOf(c)
		for i := range v.NumField() {
			if v.Field(i).Kind() == reflect.Uint64 {
				v.Field(i).SetUint(v.Field(i).Uint() + w.Field(i).Uint())
			}
		}
	}
	return sum
}

// stats sums what all CPUs counted for a service.
func (r *rig) stats(id uint32) (sum serviceStats) {
	var each []serviceStats
	r.lookup("service_stats", id, &each)
	for _, s := range each {
		sum.Connections += s.Connections
		sum.Refused += s.Refused
		sum.Packets += s.Packets
		sum.Bytes += s.Bytes
	}
	return sum
}

// flows writes each entry as a line:
//
//	tcp A:1234>V:80 = A:1234>B:7000 A->B dst svc1 be1 [A B]
//
// that is: the key, what it becomes, the veth it comes from and goes to (- is the stack), flags,
// service and backend if any, and the containers at both ends. Entries that the next packet would
// have to renew say "stale"; those with a wrong MAC say so.
func (r *rig) flows() []string {
	r.t.Helper()
	var lines []string
	var key sockFlowKey
	var f sockFlow
	for it := r.coll.Maps["flows"].Iterate(); it.Next(&key, &f); {
		lines = append(lines, r.line(key, f))
	}
	slices.Sort(lines)
	return lines
}

func (r *rig) line(key sockFlowKey, f sockFlow) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s>%s = %s>%s %s->%s", protoName(key.Proto), r.who(key.Saddr, key.Sport),
		r.who(key.Daddr, key.Dport), r.who(f.Saddr, f.Sport), r.who(f.Daddr, f.Dport),
		r.veth(f.InIfindex), r.veth(f.OutIfindex))
	for i, flag := range []string{"src", "dst", "reply", "fin", "rst", "node"} {
		if f.Flags&(1<<i) != 0 {
			b.WriteString(" " + flag)
		}
	}
	if f.Service != 0 {
		fmt.Fprintf(&b, " svc%d", f.Service%10)
	}
	if f.Backend != 0 {
		fmt.Fprintf(&b, " be%d", f.Backend%10)
	}
	ends := []string{"-", "A", "B", "C", "D"} // D has another's address
	fmt.Fprintf(&b, " [%s %s]", ends[f.SrcEndpoint], ends[f.DstEndpoint])
	if r.epoch(f) != f.Epoch {
		b.WriteString(" stale")
	}
	if r.macOf(f.InIfindex) != f.InMac || r.macOf(f.OutIfindex) != f.OutMac {
		b.WriteString(" wrong-mac")
	}
	return b.String()
}

func (r *rig) epoch(f sockFlow) (sum uint32) {
	var b backend
	var epoch uint32
	r.lookup("backends", f.Backend, &b)
	sum = b.Epoch
	for _, id := range []uint32{f.SrcEndpoint, f.DstEndpoint} {
		r.lookup("epochs", id, &epoch)
		sum += epoch
	}
	return sum
}

func (r *rig) who(a address, port uint16) string {
	names := []string{"A", "B", "C", "N", "R", "X", "V", "W", "H", "G", "L", "0", "M"}
	ip := netip.AddrFrom16(a.Bytes).Unmap()
	name := ip.String()
	if i := slices.IndexFunc(names, func(n string) bool { return r.f.addr(n) == ip }); i >= 0 {
		name = names[i]
	}
	for p, n := range r.ports {
		if n == port {
			return name + ":" + p
		}
	}
	return fmt.Sprintf("%s:%d", name, port)
}

func (r *rig) veth(ifindex uint32) string {
	for name, i := range r.ifindex {
		if i == ifindex {
			return name
		}
	}
	if ifindex == 0 {
		return "-"
	}
	return fmt.Sprint(ifindex)
}

func (r *rig) macOf(ifindex uint32) [6]uint8 {
	if ifindex == 0 {
		return [6]uint8{}
	}
	return mac(r.veth(ifindex))
}
