package loader

import "encoding/binary"

// modelEnd is an address and a port.
type modelEnd struct {
	addr modelAddr
	port uint16
}

// modelPort is what a client dials.
type modelPort struct {
	modelEnd
	proto uint8
}

// modelService is where a VIP's port leads.
type modelService struct {
	id       uint32
	maglev   bool
	affinity int64    // seconds
	run      []uint32 // ids of backends
}

type modelBackend struct {
	modelEnd
	state          uint8
	epoch, service uint32
}

// modelClient is whose flows stay with a backend.
type modelClient struct {
	addr    modelAddr
	service uint32
}

type modelAffinity struct {
	backend, epoch uint32
	seen           int64
	said           uint64 // what the map has for it, see modelRig.pinAffinity; 0: what the programs wrote
}

// modelHash is a hash of words. What it spreads is the programs' own, and told from outside of them so that
// their choices are known.
func modelHash(seed uint64, words ...uint32) uint32 {
	h := 0x9e3779b97f4a7c15 ^ seed
	for _, w := range words {
		h = (h ^ uint64(w)) * 0xff51afd7ed558ccd
		h ^= h >> 32
	}
	return uint32(h)
}

func addrWords(a modelAddr) []uint32 {
	words := make([]uint32, 4, 10)
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(a[4*i:])
	}
	return words
}

func (t modelTuple) hash() uint32 {
	words := append(addrWords(t.src), addrWords(t.dst)...)
	var ports [4]byte
	binary.NativeEndian.PutUint16(ports[:], t.sport)
	binary.NativeEndian.PutUint16(ports[2:], t.dport)
	return modelHash(0, append(words, binary.NativeEndian.Uint32(ports[:]), uint32(t.proto))...)
}

// tryPort is the source port that a flow of this tuple tries in the i-th place.
func (t modelTuple) tryPort(i uint32) uint16 {
	return uint16(32768 + modelHash(uint64(i)+2, t.hash())%28232)
}

// epochOf is the sum of the epochs of what the entry is decided from.
func (m *podModel) epochOf(e *modelEntry) uint32 {
	sum := m.epochs[e.srcEP] + m.epochs[e.dstEP]
	if be := m.backends[e.backend]; be != nil {
		sum += be.epoch
	}
	return sum
}

// noteAsked notes where the asking half is of the flow whose answers have a key.
func (m *podModel) noteAsked(answers, asks modelTuple) {
	m.asked[answers] = asks
	hash := answers.hash()
	bucket := m.buckets[hash%modelBuckets]
	for _, h := range bucket {
		if h == hash {
			return
		}
	}
	m.buckets[hash%modelBuckets] = append(bucket, hash)
	m.crowded = m.crowded || len(bucket) == modelWays
}

// Of the map named asked: what the rig has, and the programs.
const (
	modelBuckets = 16384
	modelWays    = 4
)

// translate gives a new flow to a VIP a backend. It returns false when there is none.
func (m *podModel) translate(p *modelPacket, fwd *modelEntry) bool {
	svc, ok := m.services[modelPort{modelEnd{fwd.dst, fwd.dport}, p.tuple.proto}]
	if !ok {
		return true
	}
	id := m.backendFor(svc, p.tuple)
	if id == 0 {
		m.stats[svc.id].Refused++
		return false
	}
	m.stats[svc.id].Connections++
	be := m.backends[id]
	fwd.dst, fwd.dport, fwd.service, fwd.backend = be.addr, be.port, svc.id, id
	fwd.flags |= flowNATDst
	return true
}

// backendFor is the backend that a new flow is given, by its client or by its own tuple.
func (m *podModel) backendFor(svc *modelService, flow modelTuple) uint32 {
	if svc.affinity == 0 {
		return m.choose(svc, flow.hash())
	}
	client := modelClient{flow.src, svc.id}
	known, seen := m.affinity[client], uint64(0)
	if known != nil {
		be := m.backends[known.backend]
		if m.now < known.seen+svc.affinity*modelSecond && m.open(svc, be) && be.epoch == known.epoch {
			known.seen, known.said, m.touched = m.now, 0, true
			return known.backend
		}
		seen = known.said
	}
	id := m.choose(svc, modelHash(seen, append(addrWords(flow.src), svc.id, 0)...))
	if id != 0 {
		m.affinity[client] = &modelAffinity{backend: id, epoch: m.backends[id].epoch, seen: m.now}
		m.touched = true
	}
	return id
}

// open says whether a backend takes new flows of the service.
func (m *podModel) open(svc *modelService, be *modelBackend) bool {
	return be.state == backendActive && be.service == svc.id
}

// choose is the backend in the slot that hash falls on, or in one of two others.
func (m *podModel) choose(svc *modelService, hash uint32) uint32 {
	for range 3 {
		if len(svc.run) == 0 {
			return 0
		}
		id := svc.run[uint64(hash)*uint64(len(svc.run))>>32]
		if m.open(svc, m.backends[id]) {
			return id
		}
		if !svc.maglev {
			m.broken = "chance decides; the rig must not let it"
		}
		hash = modelHash(1, hash)
	}
	return 0
}
