package loader

// The flags of struct flow.
const (
	flowNATSrc = 1 << iota
	flowNATDst
	flowReply
	flowFIN
	flowRST
	flowNode
	flowNAT = flowNATSrc | flowNATDst
)

// modelEntry is an entry in flows.
type modelEntry struct {
	src, dst      modelAddr
	sport, dport  uint16
	in, out       uint32
	inMAC, outMAC [6]byte
	flags         uint8
	service       uint32
	srcEP, dstEP  uint32
	stale         bool // its next packet decides anew
	unanswered    bool // the answering half: no answer came yet
}

// answersKey is the key under which the answers to what the entry sends arrive.
func (e *modelEntry) answersKey(proto uint8) modelTuple {
	return modelTuple{src: e.dst, dst: e.src, sport: e.dport, dport: e.sport, proto: proto}
}

// answers says whether the entry turns answers into the exact inverse of key.
func (e *modelEntry) answers(key modelTuple) bool {
	return e.src == key.dst && e.dst == key.src && e.sport == key.dport && e.dport == key.sport
}

// What becomes of the entry that no longer decides a packet.
const (
	staleNone = iota
	staleOver // the flow has ended: the packet begins another
	staleAnew // the flow is decided as if it were new
	staleKept // the flow keeps its translation
)

// alive says whether no one else may have the entry's tuple: by default it is free from a reset on.
func (m *podModel) alive(e *modelEntry, proto uint8) bool {
	reset := e.flags&flowRST != 0
	if twin := m.flows[e.answersKey(proto)]; twin != nil {
		reset = reset || twin.flags&flowRST != 0
	}
	return !reset
}

// over says whether the packet begins a new flow where the entry's has ended.
func (m *podModel) over(p *modelPacket, e *modelEntry) bool {
	proto := p.tuple.proto
	if proto != protoTCP && proto != protoSCTP || !p.opens() {
		return false
	}
	return e.flags&(flowFIN|flowRST) != 0 || !m.alive(e, proto)
}

// twinLost says whether the other half of a translated flow is not there.
func (m *podModel) twinLost(p *modelPacket, e *modelEntry) bool {
	if e.flags&flowNAT == 0 {
		return false
	}
	twin := m.flows[e.answersKey(p.tuple.proto)]
	return twin == nil || e.flags&flowReply == 0 && !twin.answers(p.tuple)
}

func noteModel(p *modelPacket, e *modelEntry) {
	if p.flags&flagSYN != 0 {
		e.flags &^= flowFIN | flowRST
	}
	if p.flags&flagFIN != 0 {
		e.flags |= flowFIN
	}
	if p.flags&flagRST != 0 {
		e.flags |= flowRST
	}
}

// holds says whether the entry still decides the packet.
func (m *podModel) holds(p *modelPacket, e *modelEntry) bool {
	if e.stale {
		return false
	}
	if p.flags&(flagSYN|flagFIN|flagRST) != 0 {
		if m.over(p, e) || p.opens() && e.flags&flowReply != 0 {
			return false
		}
		noteModel(p, e)
	}
	if e.unanswered {
		if m.over(p, e) || m.twinLost(p, e) {
			return false
		}
		e.unanswered = false
	}
	return true
}

// begin starts a decision with what the packet is, or with what is kept of a stale entry.
func (m *podModel) begin(p *modelPacket, stale *modelEntry) (modelEntry, int) {
	fwd := modelEntry{src: p.tuple.src, dst: p.tuple.dst, sport: p.tuple.sport, dport: p.tuple.dport}
	if stale == nil {
		twin := m.flows[p.tuple.reverse()]
		if p.single || p.opens() || twin == nil || twin.flags&(flowReply|flowNAT) != 0 ||
			!m.alive(twin, p.tuple.proto) || !m.sameEnds(fwd.src, twin.dstEP, fwd.dst, twin.srcEP) {
			return fwd, staleNone
		}
		fwd.flags, fwd.service = flowReply|twin.flags&flowNode, twin.service
		return fwd, staleKept
	}
	reply := stale.flags&flowReply != 0
	switch {
	case m.over(p, stale),
		reply && p.opens() && stale.flags&flowNAT == 0,
		reply && !m.sameEnds(p.tuple.src, stale.srcEP, stale.dst, stale.dstEP):
		return fwd, staleOver
	case stale.flags&(flowReply|flowNAT) == 0:
		return fwd, staleAnew
	}
	fwd.src, fwd.dst, fwd.sport, fwd.dport = stale.src, stale.dst, stale.sport, stale.dport
	fwd.service, fwd.flags = stale.service, stale.flags
	return fwd, staleKept
}

// sameEnds says whether the ids are those of the containers that have these addresses.
func (m *podModel) sameEnds(src modelAddr, srcEP uint32, dst modelAddr, dstEP uint32) bool {
	return m.pods[src].id == srcEP && m.pods[dst].id == dstEP
}

// forget forgets the answering half of a flow that is decided as if it were new, unless it was closed.
func (m *podModel) forget(stale *modelEntry, proto uint8) {
	if stale != nil && stale.flags&flowFIN == 0 {
		delete(m.flows, stale.answersKey(proto))
	}
}

// conclude enters the decision.
func (m *podModel) conclude(p *modelPacket, stale, fwd *modelEntry, how int, dst modelPod) {
	if stale != nil && how == staleAnew && (stale.flags|fwd.flags)&flowNAT == 0 {
		fwd.flags |= stale.flags & (flowFIN | flowRST)
	} else if how != staleKept {
		m.forget(stale, p.tuple.proto)
	}
	if p.single {
		return
	}
	if dst.ifindex != 0 && m.isDHCPAnswer(p.tuple.proto, fwd.dport, fwd.sport) {
		fwd.stale = true
	}
	noteModel(p, fwd)
	if fwd.flags&flowReply == 0 {
		m.create(p, fwd, dst)
		if stale != nil {
			m.count.FlowsRenewed++
		} else {
			m.count.FlowsCreated++
		}
		return
	}
	m.enter(p.tuple, *fwd)
	m.count.FlowsRenewed++
	key := fwd.answersKey(p.tuple.proto)
	if fwd.flags&flowNAT != 0 && m.flows[key] == nil {
		e := m.invert(p, fwd, dst)
		e.stale = true
		m.enter(key, e)
	}
}

func (m *podModel) enter(key modelTuple, e modelEntry) { m.flows[key] = &e }

// invert is what turns the answers to fwd into answers to the packet.
func (m *podModel) invert(p *modelPacket, fwd *modelEntry, dst modelPod) modelEntry {
	e := modelEntry{src: p.tuple.dst, dst: p.tuple.src, sport: p.tuple.dport, dport: p.tuple.sport,
		in: dst.ifindex, inMAC: dst.mac, out: fwd.in, outMAC: fwd.inMAC, flags: fwd.flags & flowNode,
		service: fwd.service, srcEP: fwd.dstEP, dstEP: fwd.srcEP, stale: fwd.stale}
	if fwd.flags&flowNATDst != 0 {
		e.flags |= flowNATSrc
	}
	if fwd.flags&flowNATSrc != 0 {
		e.flags |= flowNATDst
	}
	return e
}

// free says whether the flow of key may have its answers arrive under rkey.
func (m *podModel) free(rkey, key modelTuple) bool {
	old := m.flows[rkey]
	return old == nil || old.answers(key) || !m.alive(old, key.proto)
}

// create enters both halves of a flow. One whose answers would be another's gets another source port.
func (m *podModel) create(p *modelPacket, fwd *modelEntry, dst modelPod) {
	key, own := p.tuple, fwd.sport
	rkey := fwd.answersKey(key.proto)
	free := m.free(rkey, key)
	if !free || !p.opens() {
		e, found := m.chosen(key)
		port := e.sport
		if !found {
			port = own
		}
		fwd.sport = port
		rkey = fwd.answersKey(key.proto)
		switch old := m.flows[rkey]; {
		case port == own && !free:
			m.broken = "the flow has the tuple of another"
		case port != own && (port < 32768 || port > 60999 || !m.free(rkey, key)):
			m.broken = "the source port is not free"
		case port != own && free && (old == nil || !old.answers(key)):
			m.broken = "another source port without need"
		}
	}
	e := m.invert(p, fwd, dst)
	e.flags |= flowReply
	stream := key.proto == protoTCP || key.proto == protoSCTP
	e.unanswered = !stream || p.opens()
	if fwd.sport != own {
		m.count.PortsRewritten++
		fwd.flags |= flowNATSrc
		e.flags |= flowNATDst
	}
	if old := m.flows[rkey]; old != nil && old.answers(key) {
		e.flags |= old.flags & (flowFIN | flowRST)
		e.unanswered = old.unanswered
	}
	m.enter(rkey, e)
	m.enter(key, *fwd)
}
