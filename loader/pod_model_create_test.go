package loader

import "time"

// conclude enters the decision. It returns false when there is no source port for the flow.
func (m *podModel) conclude(p *modelPacket, stale, fwd *modelEntry, how int, dst modelPod) bool {
	if stale != nil && how == staleAnew && (stale.flags|fwd.flags)&flowNAT == 0 {
		fwd.flags |= stale.flags & (flowFIN | flowRST)
	} else if how != staleKept {
		m.forget(stale, p.tuple.proto)
	}
	if p.single {
		return true
	}
	fwd.epoch = m.epochOf(fwd)
	if dst.ifindex != 0 && m.isDHCPAnswer(p.tuple.proto, fwd.dport, fwd.sport) {
		fwd.epoch--
	}
	noteModel(p, fwd)
	if fwd.flags&flowReply == 0 {
		if !m.create(p, fwd, dst) {
			return false
		}
		if stale != nil {
			m.count.FlowsRenewed++
		} else {
			m.count.FlowsCreated++
		}
		return true
	}
	m.enter(p.tuple, *fwd)
	m.count.FlowsRenewed++
	key := fwd.answersKey(p.tuple.proto)
	if fwd.flags&flowNAT != 0 && m.flows[key] == nil {
		e := m.invert(p, fwd, dst)
		e.epoch--
		m.enter(key, e)
	}
	return true
}

func (m *podModel) enter(key modelTuple, e modelEntry) { m.flows[key] = &e }

// inverseFlags are those of what answers to an entry with these.
func inverseFlags(flags uint8) uint8 {
	inverse := flags & flowNode
	if flags&flowNATDst != 0 {
		inverse |= flowNATSrc
	}
	if flags&flowNATSrc != 0 {
		inverse |= flowNATDst
	}
	return inverse
}

// invert is what turns the answers to fwd into answers to the packet.
func (m *podModel) invert(p *modelPacket, fwd *modelEntry, dst modelPod) modelEntry {
	return modelEntry{src: p.tuple.dst, dst: p.tuple.src, sport: p.tuple.dport, dport: p.tuple.sport,
		in: dst.ifindex, inMAC: dst.mac, out: fwd.in, outMAC: fwd.inMAC, flags: inverseFlags(fwd.flags),
		service: fwd.service, backend: fwd.backend, srcEP: fwd.dstEP, dstEP: fwd.srcEP, epoch: fwd.epoch,
		seen: fwd.seen}
}

// findPort gives the flow another source port if its answers would be another's. It returns what the flow's
// own answering half was, and false when there is no port.
func (m *podModel) findPort(p *modelPacket, fwd *modelEntry) (*modelEntry, bool) {
	key, port := p.tuple, fwd.sport
	take := func(other uint16) {
		port, fwd.sport = other, other
		fwd.flags |= flowNATSrc
	}
	at := func(port uint16) (modelTuple, *modelEntry) {
		to := *fwd
		to.sport = port
		rkey := to.answersKey(key.proto)
		return rkey, m.flows[rkey]
	}
	if !p.opens() && port == key.sport {
		if _, old := at(key.tryPort(0)); old != nil && old.answers(key) {
			take(key.tryPort(0))
		}
	}
	eldest, eldestPort := m.now, uint16(0)
	for i := range uint32(16) {
		rkey, old := at(port)
		switch {
		case old == nil, old.answers(key):
			return old, true
		case !m.alive(old, key.proto, false):
			delete(m.flows, rkey)
		default:
			gives := key.proto == protoUDP || key.proto == protoTCP && m.closed(old)
			if last := m.lastSeen(old, key.proto); gives && old.flags&flowReply != 0 && last < eldest {
				eldest, eldestPort = last, port
			}
			take(key.tryPort(i))
		}
	}
	// A flow of datagrams, or a closed connection, that was silent for a while gives way.
	if eldestPort == 0 || m.silent(eldest) < 2*time.Second {
		return nil, false
	}
	take(eldestPort)
	return nil, true
}

// create enters both halves of a flow.
func (m *podModel) create(p *modelPacket, fwd *modelEntry, dst modelPod) bool {
	key := p.tuple
	own := fwd.sport
	old, found := m.findPort(p, fwd)
	if !found {
		m.count.DropPortsSpent++
		return false
	}
	if fwd.sport != own {
		m.count.PortsRewritten++
	}
	e := m.invert(p, fwd, dst)
	e.flags |= flowReply
	if !isStreamProto(key.proto) || p.opens() {
		e.unanswered, e.seen = true, fwd.seen-modelSecond
	}
	if old != nil {
		e.flags |= old.flags & (flowFIN | flowRST)
		e.unanswered, e.seen = old.unanswered, old.seen
	}
	rkey := fwd.answersKey(key.proto)
	m.enter(rkey, e)
	m.enter(key, *fwd)
	if fwd.flags&flowNAT != 0 {
		m.noteAsked(rkey, key)
	}
	return true
}
