package loader

// A slow and literal model of the programs on a container's veth: what becomes of a packet, and of what is
// remembered about its flow. Nothing in it changes while it runs: no service, no container, no policy, and
// no time passes. What the programs choose freely among what they may (a backend, another source port) is
// read from their entry in flows, and checked.

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

// modelService is where a VIP's port leads.
type modelService struct {
	id       uint32
	backends []modelEnd
}

type modelEnd struct {
	addr modelAddr
	port uint16
}

type modelPort struct {
	modelEnd
	proto uint8
}

// modelHook is a program on one container's veth.
type modelHook struct {
	ingress bool   // to_pod
	ifindex uint32 // the container's
	from    uint32 // to_pod: where the packet came in; 0: made by the node
}

type podModel struct {
	v6       bool
	pods     map[modelAddr]modelPod
	vips     map[modelAddr]bool
	services map[modelPort]modelService
	gateways []modelAddr // stand for the node towards its containers
	hairpin  modelAddr   // whom a container sees that is its own backend
	chosen   func(modelTuple) (modelEntry, bool)

	flows    map[modelTuple]*modelEntry
	frags    map[modelFragment]modelTuple
	count    counters
	hook     modelHook
	out      []byte // the packet as it leaves
	unjudged bool   // the model says nothing about this packet
	broken   string // what the programs chose and may not
}

// modelFragment is what names the datagram that a fragment is of.
type modelFragment struct {
	src, dst    modelAddr
	id, ifindex uint32
	proto       uint8
}

// run says what becomes of a packet; what leaves is in m.out.
func (m *podModel) run(hook modelHook, in []byte) verdict {
	m.hook, m.unjudged, m.broken = hook, false, ""
	m.out = append(m.out[:0], in...)
	p := parseModel(in, m.v6, !hook.ingress)
	switch p.kind {
	case kindOther:
		m.unjudged = true
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
	m.conclude(p, stale, &fwd, how, dst)
	return m.follow(p, &fwd)
}

// translate gives a new flow to a VIP a backend. It returns false when there is none.
func (m *podModel) translate(p *modelPacket, fwd *modelEntry) bool {
	svc, ok := m.services[modelPort{modelEnd{fwd.dst, fwd.dport}, p.tuple.proto}]
	if !ok {
		return true
	}
	if len(svc.backends) == 0 {
		return false
	}
	choice := svc.backends[0]
	if len(svc.backends) > 1 {
		// Which one is the programs' to choose.
		if e, found := m.chosen(p.tuple); found {
			choice = modelEnd{e.dst, e.dport}
		}
		legal := false
		for _, b := range svc.backends {
			legal = legal || b == choice
		}
		if !legal {
			m.broken = "the flow goes to what is no backend of the service"
		}
	}
	fwd.dst, fwd.dport, fwd.service = choice.addr, choice.port, svc.id
	fwd.flags |= flowNATDst
	return true
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
	m.conclude(p, e, &fwd, how, dst)
	return m.passOn(p, &fwd)
}

// forWhom says whether the entry was made for packets that come this way.
func (m *podModel) forWhom(e *modelEntry) bool {
	if e.dstEP == 0 || e.in != 0 && e.in != m.hook.from {
		return false
	}
	return e.flags&(flowNode|flowReply) != flowNode || m.hook.from == 0
}

func (m *podModel) passOn(p *modelPacket, e *modelEntry) verdict {
	if e.flags&flowNAT != 0 && !m.rewrite(p, e) {
		return m.drop(&m.count.DropRewrite)
	}
	return pass
}

func (m *podModel) follow(p *modelPacket, e *modelEntry) verdict {
	if e.flags&flowNAT != 0 && !m.rewrite(p, e) {
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
