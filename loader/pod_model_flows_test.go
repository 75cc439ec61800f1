package loader

import "time"

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
	src, dst         modelAddr
	sport, dport     uint16
	in, out          uint32
	inMAC, outMAC    [6]byte
	flags            uint8
	service, backend uint32
	srcEP, dstEP     uint32
	epoch            uint32
	seen             int64 // when the last packet was noted
	unanswered       bool  // the answering half: no answer came yet
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

// modelSecond is a second of the model's time; what is left of that counts packets.
const modelSecond = 1 << 32

// silent is for how long no packet was noted, in whole seconds.
func (m *podModel) silent(seen int64) time.Duration {
	return time.Duration(m.now/modelSecond-seen/modelSecond) * time.Second
}

// lifetime is how long a flow of such halves may be silent.
func (m *podModel) lifetime(proto, either, both uint8, answered bool) time.Duration {
	l := &m.lifetimes
	fin, finBoth, rst := either&flowFIN != 0, both&flowFIN != 0, either&flowRST != 0
	switch {
	case proto == protoTCP && rst:
		return l.TCPReset
	case proto == protoTCP && finBoth:
		return l.TCPTimeWait
	case proto == protoTCP && fin:
		return l.TCPClosing
	case proto == protoTCP && answered:
		return l.TCPEstablished
	case proto == protoTCP:
		return l.TCPOpening
	case proto == protoUDP && answered:
		return l.UDPAnswered
	case proto == protoUDP:
		return l.UDPUnanswered
	case proto == protoSCTP && rst:
		return 0
	case proto == protoSCTP && fin:
		return l.SCTPClosing
	case proto == protoSCTP && answered:
		return l.SCTPEstablished
	case proto == protoSCTP:
		return l.SCTPOpening
	}
	return l.Other
}

// lastSeen is when a packet of either half of the entry's flow was noted.
func (m *podModel) lastSeen(e *modelEntry, proto uint8) int64 {
	if twin := m.flows[e.answersKey(proto)]; twin != nil {
		return max(e.seen, twin.seen)
	}
	return e.seen
}

// closed says whether both ends have closed the entry's connection.
func (m *podModel) closed(e *modelEntry) bool {
	both := e.flags
	if twin := m.flows[e.answersKey(protoTCP)]; twin != nil {
		both &= twin.flags
	}
	return both&flowFIN != 0
}

// alive says whether no one else may have the entry's tuple. One that was reset is over to who begins
// another flow in its place.
func (m *podModel) alive(e *modelEntry, proto uint8, anew bool) bool {
	either, both, answered := e.flags, e.flags, !e.unanswered
	if twin := m.flows[e.answersKey(proto)]; twin != nil {
		either, both = either|twin.flags, both&twin.flags
		answered = answered && !twin.unanswered
	}
	if anew && either&flowRST != 0 {
		return false
	}
	return m.silent(m.lastSeen(e, proto)) < m.lifetime(proto, either, both, answered)
}

func isStreamProto(proto uint8) bool { return proto == protoTCP || proto == protoSCTP }

// over says whether the packet begins a new flow where the entry's has ended.
func (m *podModel) over(p *modelPacket, e *modelEntry) bool {
	proto := p.tuple.proto
	if isStreamProto(proto) {
		return p.opens() && (e.flags&(flowFIN|flowRST) != 0 || !m.alive(e, proto, true))
	}
	patience := m.lifetimes.Other
	if proto == protoUDP {
		patience = min(m.lifetimes.UDPUnanswered, m.lifetimes.UDPAnswered)
	}
	return m.silent(e.seen) > patience && !m.alive(e, proto, false)
}

// twinLost says whether the other half of a flow is not there, or another's has its place.
func (m *podModel) twinLost(p *modelPacket, e *modelEntry) bool {
	translated, reply := e.flags&flowNAT != 0, e.flags&flowReply != 0
	key := e.answersKey(p.tuple.proto)
	if translated && !reply {
		m.noteAsked(key, p.tuple)
	}
	twin := m.flows[key]
	if twin == nil {
		return translated
	}
	return !reply && !twin.answers(p.tuple)
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
	if e.epoch != m.epochOf(e) {
		return false
	}
	if p.flags&(flagSYN|flagFIN|flagRST) != 0 {
		if m.over(p, e) || p.opens() && e.flags&flowReply != 0 {
			return false
		}
		noteModel(p, e)
	}
	if m.silent(e.seen) > 0 {
		if m.over(p, e) || m.twinLost(p, e) {
			return false
		}
		e.seen, e.unanswered = m.now, false
	}
	return true
}

// begin starts a decision with what the packet is, or with what is kept of a stale entry.
func (m *podModel) begin(p *modelPacket, stale *modelEntry) (modelEntry, int) {
	fwd := modelEntry{src: p.tuple.src, dst: p.tuple.dst, sport: p.tuple.sport, dport: p.tuple.dport, seen: m.now}
	if stale == nil {
		if !p.single && !p.opens() && (m.answersKnown(p, &fwd) || m.answersAsked(p, &fwd)) {
			return fwd, staleKept
		}
		return fwd, staleNone
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
	backend := stale.backend
	if !reply && stale.flags&flowNATDst != 0 {
		if !m.mayStay(p, stale) {
			return fwd, staleAnew
		}
		if !m.serves(stale) {
			backend = 0
		}
	}
	fwd.src, fwd.dst, fwd.sport, fwd.dport = stale.src, stale.dst, stale.sport, stale.dport
	fwd.service, fwd.backend, fwd.flags = stale.service, backend, stale.flags
	return fwd, staleKept
}

// serves says whether the backend of a translated flow is still its service's, with or without new flows.
func (m *podModel) serves(e *modelEntry) bool {
	be := m.backends[e.backend]
	return be != nil && be.state != backendFree && be.service == e.service
}

// mayStay says whether a flow may stay with what it was given. A connection may finish with a container that
// is there.
func (m *podModel) mayStay(p *modelPacket, e *modelEntry) bool {
	if m.serves(e) && m.backends[e.backend].modelEnd == (modelEnd{e.dst, e.dport}) {
		return true
	}
	if p.tuple.proto == protoUDP || p.opens() {
		return false
	}
	return e.dstEP == 0 || m.pods[e.dst].ifindex != 0
}

// gone says whether the packet can only be refused: its service's backend was a container that is no more.
func (m *podModel) gone(p *modelPacket, stale *modelEntry) bool {
	if stale.service == 0 || stale.dstEP == 0 || stale.flags&flowReply != 0 || p.opens() {
		return false
	}
	if isStreamProto(p.tuple.proto) {
		return m.pods[stale.dst].id != stale.dstEP
	}
	return m.pods[stale.dst].ifindex == 0 && stale.flags&flowNATDst == 0
}

// answersKnown recognizes the answer to an untranslated flow that lost its other half.
func (m *podModel) answersKnown(p *modelPacket, fwd *modelEntry) bool {
	twin := m.flows[p.tuple.reverse()]
	if twin == nil || twin.flags&(flowReply|flowNAT) != 0 || !m.alive(twin, p.tuple.proto, false) ||
		!m.sameEnds(fwd.src, twin.dstEP, fwd.dst, twin.srcEP) {
		return false
	}
	fwd.flags, fwd.service = flowReply|twin.flags&flowNode, twin.service
	return true
}

// answersAsked does so for a translated one.
func (m *podModel) answersAsked(p *modelPacket, fwd *modelEntry) bool {
	key, ok := m.asked[p.tuple]
	twin := m.flows[key]
	if !ok || twin == nil || twin.flags&flowReply != 0 || !twin.answers(p.tuple) ||
		!m.alive(twin, p.tuple.proto, false) || !m.sameEnds(p.tuple.src, twin.dstEP, key.src, twin.srcEP) {
		return false
	}
	fwd.src, fwd.dst, fwd.sport, fwd.dport = key.dst, key.src, key.dport, key.sport
	fwd.flags, fwd.service, fwd.backend = flowReply|inverseFlags(twin.flags), twin.service, twin.backend
	return true
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
