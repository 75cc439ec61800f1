package loader

import "encoding/binary"

// A slow and literal model of the programs on a container's veth: what becomes of a packet, and of what is
// remembered about its flow and its client. Services, backends and containers change between packets, and
// time passes in whole seconds. No policy is in it.

// modelAddr is an address as the maps have it.
type modelAddr = [16]byte

// modelTuple is a packet's, as it arrives.
type modelTuple struct {
	src, dst     modelAddr
	sport, dport uint16
	proto        uint8
}

func (t modelTuple) reverse() modelTuple {
	return modelTuple{src: t.dst, dst: t.src, sport: t.dport, dport: t.sport, proto: t.proto}
}

// modelPod is a container; the zero value is none.
type modelPod struct {
	ifindex, id uint32
	mac         [6]byte
}

// modelHook is a program on one container's veth.
type modelHook struct {
	ingress bool   // to_pod
	ifindex uint32 // the container's
	from    uint32 // to_pod: where the packet came in; 0: made by the node
	tags    int    // index into modelTags
}

// modelTags are the VLAN tags that a packet may have, the last one outermost.
func modelTags() [][]uint16 { return [][]uint16{nil, {5}, {0}, {0xe000}, {7, 5}, {5, 0}} }

type podModel struct {
	v6        bool
	gateways  []modelAddr // stand for the node towards its containers
	hairpin   modelAddr   // whom a container sees that is its own backend
	lifetimes Lifetimes

	pods     map[modelAddr]modelPod
	epochs   map[uint32]uint32 // by container
	vips     map[modelAddr]bool
	services map[modelPort]*modelService
	backends map[uint32]*modelBackend

	now      int64 // see modelSecond
	flows    map[modelTuple]*modelEntry
	frags    map[modelFragment]modelTuple
	asked    map[modelTuple]modelTuple // by the key of a flow's answers, that of its requests
	buckets  map[uint32][]uint32       // hashes of asked's keys
	affinity map[modelClient]*modelAffinity
	stats    map[uint32]*serviceStats
	count    counters

	hook     modelHook
	out      []byte // the packet as it leaves
	unjudged bool   // the model says nothing about this packet
	touched  bool   // an entry of affinity was written
	crowded  bool   // asked may have forgotten a flow
	broken   string
}

// modelFragment is what names the datagram that a fragment is of.
type modelFragment struct {
	src, dst    modelAddr
	id, ifindex uint32
	proto       uint8
}

// run says what becomes of a packet; what leaves is in m.out.
func (m *podModel) run(hook modelHook, in []byte) verdict {
	m.now++
	m.hook, m.unjudged, m.broken, m.touched = hook, false, "", false
	m.out = append(m.out[:0], in...)
	p := parseModel(in, m.v6, !hook.ingress)
	if tags := modelTags()[hook.tags]; len(tags) > 0 {
		// All but the outermost tag stand in the frame.
		vid := tags[len(tags)-1] & 0xfff
		if m.out = m.out[:12]; len(tags) > 1 {
			m.out = binary.BigEndian.AppendUint32(m.out, etherVLAN<<16|uint32(tags[0]))
		}
		m.out = append(m.out, in[12:]...)
		hides := len(tags) > 1 || p.kind == kindVLAN
		switch {
		case !hook.ingress && (hides || vid == 0):
			return m.drop(&m.count.DropVlan)
		case !hook.ingress, vid != 0, hides:
			return pass
		}
	}
	switch p.kind {
	case kindARP:
		m.unjudged = true
		return pass
	case kindVLAN:
		if hook.ingress {
			return pass
		}
		return m.drop(&m.count.DropVlan)
	case kindOther:
		return pass
	case kindMalformed:
		return m.drop(&m.count.DropMalformed)
	case kindExtensions:
		return m.drop(&m.count.DropExtensions)
	case kindSourceRoute:
		return m.drop(&m.count.DropSourceRoute)
	}
	if hook.ingress {
		return m.toPod(&p)
	}
	return m.fromPod(&p)
}

func (m *podModel) drop(reason *uint64) verdict {
	*reason++
	return drop
}

func (m *podModel) fromPod(p *modelPacket) verdict {
	if p.kind == kindICMP {
		switch {
		case p.isRouterMessage():
			return m.drop(&m.count.DropRouter)
		case p.isNeighbourMessage():
			m.unjudged = true
			return pass
		case p.isError():
			if !m.own(p) {
				return m.dropForeign(p)
			}
			if v, done := m.icmpError(p); done {
				return v
			}
		}
	}
	if !m.name(p) {
		return m.drop(&m.count.DropFragment)
	}
	var e *modelEntry
	if !p.single {
		e = m.flows[p.tuple]
		if e != nil && e.in == m.hook.ifindex && e.inMAC == p.smac() && m.holds(p, e) {
			return m.follow(p, e)
		}
	}
	return m.decide(p, e)
}

// own says whether the sender's address and MAC are those of the container behind the veth.
func (m *podModel) own(p *modelPacket) bool {
	pod, ok := m.pods[p.tuple.src]
	return ok && pod.ifindex == m.hook.ifindex && pod.mac == p.smac()
}

func (m *podModel) dropForeign(p *modelPacket) verdict {
	a := p.tuple.src
	v4 := modelIsV4(a)
	if a == (modelAddr{}) || v4 && a[12]|a[13]|a[14]|a[15] == 0 ||
		a[0] == 0xfe && a[1]&0xc0 == 0x80 || v4 && a[12] == 169 && a[13] == 254 {
		return m.drop(&m.count.DropLinkLocal)
	}
	return m.drop(&m.count.DropSpoofed)
}

// name completes the packet's tuple. It returns false for a later fragment whose first was not seen.
func (m *podModel) name(p *modelPacket) bool {
	name := modelFragment{src: p.tuple.src, dst: p.tuple.dst, id: p.fragID, ifindex: m.hook.ifindex, proto: p.tuple.proto}
	if m.v6 {
		name.proto = 0
	}
	if p.fragment == fragmentLater {
		first, ok := m.frags[name]
		p.tuple.sport, p.tuple.dport, p.tuple.proto = first.sport, first.dport, first.proto
		return ok
	}
	if p.kind == kindICMP {
		p.single = !p.nameEcho()
	}
	if p.fragment == fragmentFirst {
		m.frags[name] = p.tuple
	}
	return true
}

// decide is the slow path for what a container sends.
func (m *podModel) decide(p *modelPacket, stale *modelEntry) verdict {
	ports := hasPorts(p.tuple.proto)
	if m.isDHCPAnswer(p.tuple.proto, p.tuple.sport, p.tuple.dport) {
		return m.drop(&m.count.DropDhcp)
	}
	if !m.own(p) {
		return m.dropForeign(p)
	}
	src := m.pods[p.tuple.src]
	if stale != nil && m.gone(p, stale) {
		return m.refuse(p, stale)
	}
	fwd, how := m.begin(p, stale)
	if how != staleKept && ports && !m.translate(p, &fwd) {
		return m.refuse(p, stale)
	}
	if fwd.flags&flowReply == 0 {
		for _, g := range m.gateways {
			if fwd.dst == g {
				return m.drop(&m.count.DropLinkLocal)
			}
		}
	}
	dst := m.pods[fwd.dst]
	if dst.ifindex == 0 && fwd.flags&(flowReply|flowNAT) == 0 && m.vips[fwd.dst] {
		return m.refuse(p, stale)
	}
	fwd.srcEP, fwd.dstEP = src.id, dst.id
	fwd.in, fwd.inMAC, fwd.out, fwd.outMAC = src.ifindex, src.mac, dst.ifindex, dst.mac
	if src.id == dst.id && how != staleKept && ports {
		fwd.src = m.hairpin
		fwd.flags |= flowNATSrc
	}
	if !m.conclude(p, stale, &fwd, how, dst) {
		return drop
	}
	return m.follow(p, &fwd)
}

func (m *podModel) isDHCPAnswer(proto uint8, sport, dport uint16) bool {
	if m.v6 {
		return proto == protoUDP && sport == 547 && dport == 546
	}
	return proto == protoUDP && sport == 67 && dport == 68
}

func (m *podModel) toPod(p *modelPacket) verdict {
	if p.kind == kindICMP && p.isError() {
		if _, done := m.icmpError(p); done {
			return pass
		}
	}
	if !m.name(p) {
		return m.drop(&m.count.DropFragment)
	}
	var e *modelEntry
	if !p.single {
		e = m.flows[p.tuple]
		if e != nil && m.forWhom(e) && m.holds(p, e) {
			return m.passOn(p, e)
		}
	}
	fwd, how := m.begin(p, e)
	src, dst := m.pods[p.tuple.src], m.pods[fwd.dst]
	fwd.srcEP, fwd.dstEP = src.id, dst.id
	if dst.ifindex != m.hook.ifindex {
		return pass
	}
	if fwd.flags&flowReply == 0 {
		fwd.flags &^= flowNode
		if m.hook.from == 0 {
			fwd.flags |= flowNode
		}
	}
	if !m.conclude(p, e, &fwd, how, dst) {
		return drop
	}
	return m.passOn(p, &fwd)
}

// forWhom says whether the entry was made for packets that come this way.
func (m *podModel) forWhom(e *modelEntry) bool {
	if e.dstEP == 0 || e.in != 0 && e.in != m.hook.from {
		return false
	}
	return e.flags&(flowNode|flowReply) != flowNode || m.hook.from == 0
}

// apply does what the entry says, but for the delivery.
func (m *podModel) apply(p *modelPacket, e *modelEntry) bool {
	if e.service != 0 {
		stats := m.stats[e.service]
		stats.Packets++
		stats.Bytes += uint64(len(p.b))
	}
	return e.flags&flowNAT == 0 || m.rewrite(p, e)
}

func (m *podModel) passOn(p *modelPacket, e *modelEntry) verdict {
	if !m.apply(p, e) {
		return m.drop(&m.count.DropRewrite)
	}
	return pass
}

func (m *podModel) follow(p *modelPacket, e *modelEntry) verdict {
	if !m.apply(p, e) {
		return m.drop(&m.count.DropRewrite)
	}
	return m.deliver(e.out, e.outMAC)
}

// deliver hands the packet to the container behind a veth, or to the node's stack if there is none.
func (m *podModel) deliver(out uint32, to [6]byte) verdict {
	if out == 0 {
		return pass
	}
	from := mac("G")
	copy(m.out, to[:])
	copy(m.out[6:], from[:])
	return redirect
}
