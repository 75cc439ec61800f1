package loader

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// worldService is a service as an episode begins with it, once for each protocol.
type worldService struct {
	at       string
	number   uint32
	maglev   bool
	affinity uint32         // seconds
	members  []worldBackend // those of id 6 come later
}

type worldBackend struct {
	number uint32
	at     string
}

func worldServices() []worldService {
	return []worldService{
		{at: "V:80", number: 1, members: []worldBackend{{1, "B:7000"}, {6, "C:7000"}}},
		{at: "W:81", number: 2, members: []worldBackend{{2, "B:7000"}}},
		{at: "V:90", number: 3},
		{at: "V:100", number: 4, members: []worldBackend{{4, "A:7000"}}},
		{at: "V:110", number: 5, members: []worldBackend{{5, "R:7000"}}},
		{at: "W:82", number: 6, members: []worldBackend{{7, "B:80"}, {8, "C:7000"}, {9, "C:7001"}}},
		{at: "W:83", number: 7, maglev: true, members: []worldBackend{{10, "A:7000"}, {11, "B:7001"}, {12, "C:80"}}},
		{at: "V:84", number: 8, affinity: 5, members: []worldBackend{{13, "B:7002"}, {14, "C:7002"}, {15, "R:7001"}}},
		{at: "V:85", number: 9, maglev: true, affinity: 8, members: []worldBackend{{16, "A:7001"}, {17, "C:7003"}}},
	}
}

// worldEntry is a service's entry in the maps.
type worldEntry struct {
	*modelService
	key     serviceKey
	members []uint32 // ids of backends
	ends    []maglevBackend
	slots   uint32 // the first of two runs that it has in turn
	second  bool   // the second of them is in use
	empty   bool   // whatever its backends are
}

const (
	worldTableSize = 251
	worldRun       = 256
	worldSlots     = 27 * 2 * worldRun
	worldBackends  = 64
	worldContainer = 4 // the id of one that has another's address
)

// restore makes maps and model what an episode begins with.
func (m *modelRig) restore() {
	w := m.model
	w.pods, w.epochs, w.backends = map[modelAddr]modelPod{}, map[uint32]uint32{}, map[uint32]*modelBackend{}
	w.services, w.stats, m.entries = map[modelPort]*modelService{}, map[uint32]*serviceStats{}, m.entries[:0]
	for i, name := range []string{"A", "B", "C"} {
		m.wire(name, uint32(i+1))
	}
	for id := range uint32(worldContainer + 1) {
		w.epochs[id] = 0
		m.put("epochs", id, uint32(0))
	}
	for _, s := range worldServices() {
		for i, proto := range protocols() {
			m.restoreService(s, proto, uint32(i))
		}
	}
}

func (m *modelRig) restoreService(s worldService, proto uint8, place uint32) {
	name, port := parseEndpoint(s.at)
	addr := toAddress(m.f.addr(name))
	svc := &modelService{id: number(s.number, proto), maglev: s.maglev, affinity: int64(s.affinity)}
	m.model.services[modelPort{modelEnd{addr.Bytes, port}, proto}] = svc
	m.model.stats[svc.id] = &serviceStats{}
	e := &worldEntry{modelService: svc, key: serviceKey{Addr: addr, Port: port, Proto: proto},
		slots: uint32(len(m.entries)) * 2 * worldRun}
	for _, b := range s.members {
		name, port := parseEndpoint(b.at)
		id, end := 3*b.number+place, m.f.addr(name)
		e.members = append(e.members, id)
		e.ends = append(e.ends, maglevBackend{netip.AddrPortFrom(end, port), 1})
		be := &modelBackend{modelEnd: modelEnd{toAddress(end).Bytes, port}, state: backendActive, epoch: 1, service: svc.id}
		if b.number == 6 {
			be.state = backendFree
		}
		m.model.backends[id] = be
		m.writeBackend(id)
	}
	m.entries = append(m.entries, e)
	m.publish(e)
}

// wire gives a container's address to the container of an id.
func (m *modelRig) wire(name string, id uint32) {
	m.endpoint(name, id)
	m.model.pods[toAddress(m.f.addr(name)).Bytes] = modelPod{ifindex: m.ifindex[name], id: id, mac: mac(name)}
}

func (m *modelRig) writeBackend(id uint32) {
	be := m.model.backends[id]
	m.put("backends", id, backend{Addr: address{Bytes: be.addr}, Port: be.port, State: be.state, Epoch: be.epoch, Service: be.service})
}

// publish writes a service's run: of the backends that may be chosen.
func (m *modelRig) publish(e *worldEntry) {
	var ids []uint32
	var ends []maglevBackend
	for i, id := range e.members {
		if be := m.model.backends[id]; !e.empty && be.state == backendActive && be.service == e.id {
			ids, ends = append(ids, id), append(ends, e.ends[i])
		}
	}
	e.run = ids
	if e.maglev && len(ids) > 0 {
		e.run = nil
		for _, place := range maglevTable(ends, worldTableSize) {
			e.run = append(e.run, ids[place])
		}
	}
	e.second = !e.second
	if n := len(e.run); n > 0 {
		places := make([]uint32, n)
		for i := range places {
			places[i] = e.first() + uint32(i)
		}
		if _, err := m.coll.Maps["slots"].BatchUpdate(places, e.run, nil); err != nil {
			m.t.Fatal(err)
		}
	}
	m.writeService(e)
}

func (e *worldEntry) first() uint32 {
	if e.second {
		return e.slots + worldRun
	}
	return e.slots
}

func (m *modelRig) writeService(e *worldEntry) {
	svc := service{First: e.first(), Count: uint32(len(e.run)), Id: e.id, AffinityTimeout: uint32(e.affinity)}
	if e.maglev {
		svc.Algorithm = algorithmMaglev
	}
	m.put("services", e.key, svc)
}

// change changes something between two packets.
func (m *modelRig) change() error {
	random := m.gen.random
	switch random.IntN(16) {
	case 0, 1, 2, 3, 4:
		return m.age(pick(random, []int64{1, 1, 1, 2, 3, 4}))
	case 5, 6:
		m.lose()
	case 7, 8:
		m.turnBackend(pick(random, m.entries))
	case 9: // of those that begin with affinity
		m.turnBackend(m.entries[len(m.entries)-1-random.IntN(2*len(protocols()))])
	case 10:
		e := pick(random, m.entries)
		e.empty = !e.empty
		m.publish(e)
	case 11, 12:
		m.turnContainer(pick(random, []string{"A", "B", "B", "C", "C"}))
	case 13:
		m.raiseEpoch(uint32(1 + random.IntN(worldContainer)))
	case 14:
		m.bySocket()
	case 15:
		e := pick(random, m.entries)
		e.affinity = pick(random, []int64{0, 5, 8})
		m.writeService(e)
		m.pinAffinity()
	}
	return nil
}

// age lets seconds pass: it takes them off what flows remembers.
func (m *modelRig) age(seconds int64) error {
	if m.model.now/modelSecond+seconds > modelSeconds {
		return nil
	}
	m.model.now += seconds * modelSecond
	flows := m.coll.Maps["flows"]
	var cursor ebpf.MapBatchCursor
	n, err := flows.BatchLookup(&cursor, m.flowKeys, m.flowVals, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	for i := range n {
		m.flowVals[i].Seen -= uint64(seconds) * 1e9
	}
	if n > 0 {
		if _, err := flows.BatchUpdate(m.flowKeys[:n], m.flowVals[:n], nil); err != nil {
			return err
		}
	}
	m.pinAffinity()
	return nil
}

// sortedFlows makes choices among flows those of the seed.
func (m *modelRig) sortedFlows() []modelTuple {
	return slices.SortedFunc(maps.Keys(m.model.flows), func(a, b modelTuple) int {
		return cmp.Or(slices.Compare(a.src[:], b.src[:]), slices.Compare(a.dst[:], b.dst[:]),
			cmp.Compare(a.sport, b.sport), cmp.Compare(a.dport, b.dport), cmp.Compare(a.proto, b.proto))
	})
}

// lose takes entries from flows, as the kernel's LRU does.
func (m *modelRig) lose() {
	for range 3 {
		if keys := m.sortedFlows(); len(keys) > 0 {
			key := pick(m.gen.random, keys)
			delete(m.model.flows, key)
			m.remove("flows", flowKeyOf(key))
		}
	}
}

// turnBackend has a backend drain, leave, serve another service, or serve again.
func (m *modelRig) turnBackend(e *worldEntry) {
	if len(e.members) == 0 {
		return
	}
	id := pick(m.gen.random, e.members)
	be := m.model.backends[id]
	switch m.gen.random.IntN(6) {
	case 0, 1:
		if be.state == backendActive {
			be.state = backendDraining
		}
	case 2:
		if be.state != backendFree {
			be.state, be.epoch = backendFree, be.epoch+1
		}
	case 3:
		be.state, be.service, be.epoch = backendActive, pick(m.gen.random, m.entries).id, be.epoch+1
	case 4: // away and back
		be.state, be.service, be.epoch = backendActive, e.id, be.epoch+1
	default:
		if be.service != e.id {
			be.service, be.epoch = e.id, be.epoch+1
		}
		be.state = backendActive
	}
	m.writeBackend(id)
	// Maglev tells where to go when a slot leads nowhere any more. Otherwise chance does, and the run follows.
	if !e.maglev || m.gen.random.IntN(3) > 0 {
		m.publish(e)
	}
}

// turnContainer takes a container away, gives its address to another, or brings it back.
func (m *modelRig) turnContainer(name string) {
	addr := m.f.addr(name)
	old := m.model.pods[toAddress(addr).Bytes].id
	id := uint32(name[0]-'A') + 1
	switch m.gen.random.IntN(5) {
	case 0:
		id = 0
	case 1:
		id = worldContainer
		for _, pod := range m.model.pods {
			if pod.id == worldContainer {
				id = 0
			}
		}
	}
	switch {
	case id == old:
		return
	case id != 0:
		m.wire(name, id)
	default:
		delete(m.model.pods, toAddress(addr).Bytes)
		m.remove("endpoints", toAddress(addr))
	}
	if old != 0 {
		m.raiseEpoch(old)
	}
}

func (m *modelRig) raiseEpoch(id uint32) {
	m.model.epochs[id]++
	m.raise(id)
}

// bySocket makes a direct flow one that a socket hook has translated.
func (m *modelRig) bySocket() {
	for _, key := range m.sortedFlows() {
		e := m.model.flows[key]
		twin := m.model.flows[e.answersKey(key.proto)]
		if !hasPorts(key.proto) || e.flags&(flowNAT|flowReply) != 0 || e.service != 0 || twin == nil || m.gen.random.IntN(4) > 0 {
			continue
		}
		id := number(1, key.proto)
		for tuple, e := range map[modelTuple]*modelEntry{key: e, e.answersKey(key.proto): twin} {
			var f sockFlow
			m.lookup("flows", flowKeyOf(tuple), &f)
			e.service, f.Service = id, id
			m.put("flows", flowKeyOf(tuple), f)
		}
		return
	}
}
