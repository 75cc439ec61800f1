package policy

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// mirror is a dataplane: it knows what Deltas have told and nothing else.
type mirror struct {
	t          *testing.T
	identities map[ID]Identity
	rules      map[ruleKey]*Rules // Default and Set
	addresses  map[netip.Addr]ID
	blocks     map[netip.Prefix]ID
	look       func() // called after each single write, if set
}

type ruleKey struct {
	subject   ID
	direction registry.Direction
}

func newMirror(t *testing.T) *mirror {
	return &mirror{
		t: t, identities: map[ID]Identity{World: {ID: World, Key: "world"}, Node: {ID: Node, Key: "node"}},
		rules: map[ruleKey]*Rules{}, addresses: map[netip.Addr]ID{}, blocks: map[netip.Prefix]ID{},
	}
}

func (m *mirror) wrote() {
	if m.look != nil {
		m.look()
	}
}

// apply carries out a Delta in the order that its comment demands, and checks that it makes sense.
func (m *mirror) apply(d Delta) {
	m.t.Helper()
	for _, q := range d.New {
		if _, ok := m.identities[q.ID]; ok {
			m.t.Fatalf("identity %d is new, but known", q.ID)
		}
		m.identities[q.ID] = q
	}
	seen := map[ruleKey]bool{}
	for _, r := range d.Rules {
		k := ruleKey{r.Subject, r.Direction}
		if seen[k] {
			m.t.Fatalf("rules of %+v come twice", k)
		}
		seen[k] = true
		m.applyRules(r)
	}
	for _, c := range d.Addresses {
		switchOver(m, m.addresses, c.Addr, c.Identity)
	}
	for _, c := range d.Blocks {
		switchOver(m, m.blocks, c.Block, c.Identity)
	}
	for _, r := range d.Rules {
		for _, id := range r.Gone {
			set := m.rules[ruleKey{r.Subject, r.Direction}].Set
			if set[id] == nil || !slices.Contains(d.Gone, id) {
				m.t.Fatalf("%+v: peer %d goes with an entry %v", r, id, set[id])
			}
			delete(set, id)
		}
	}
	for _, id := range d.Gone {
		delete(m.rules, ruleKey{id, registry.Ingress})
		delete(m.rules, ruleKey{id, registry.Egress})
	}
	for _, id := range d.Gone {
		m.forget(id)
	}
}

func (m *mirror) applyRules(r Rules) {
	m.t.Helper()
	k := ruleKey{r.Subject, r.Direction}
	if q := m.identities[r.Subject]; q.Workload == nil {
		m.t.Fatalf("rules for %+v", q)
	}
	mine := m.rules[k]
	if mine == nil {
		mine = &Rules{Subject: r.Subject, Direction: r.Direction}
		m.rules[k] = mine
	}
	for id, v := range r.Set {
		if _, ok := m.identities[id]; !ok || id < First || v == nil || mine.Set[id] == v {
			m.t.Fatalf("%+v: entry %v for peer %d, which has %v", k, v, id, mine.Set[id])
		}
		put := maps.Clone(mine.Set)
		if put == nil {
			put = map[ID]*Verdicts{}
		}
		put[id] = v
		mine.Set = put
		m.wrote()
	}
	if (mine.Default != r.Default) != r.DefaultChanged {
		m.t.Fatalf("%+v: Default was %v and is %v; changed: %v", k, mine.Default, r.Default, r.DefaultChanged)
	}
	mine.Default = r.Default
	m.wrote()
	for _, id := range r.Removed {
		if mine.Set[id] == nil || r.Set[id] != nil {
			m.t.Fatalf("%+v: no entry for peer %d to remove", k, id)
		}
		delete(mine.Set, id)
		m.wrote()
	}
}

func switchOver[K comparable](m *mirror, table map[K]ID, k K, id ID) {
	m.t.Helper()
	if _, ok := m.identities[id]; table[k] == id || id != None && !ok {
		m.t.Fatalf("%v has identity %d, and gets %d", k, table[k], id)
	}
	if id == None {
		delete(table, k)
	} else {
		table[k] = id
	}
	m.wrote()
}

// forget drops an identity that nothing may use any more.
func (m *mirror) forget(id ID) {
	m.t.Helper()
	if _, ok := m.identities[id]; !ok || id < First {
		m.t.Fatalf("identity %d is gone, but not known", id)
	}
	for a, q := range m.addresses {
		if q == id {
			m.t.Fatalf("identity %d is gone, but %v has it", id, a)
		}
	}
	for p, q := range m.blocks {
		if q == id {
			m.t.Fatalf("identity %d is gone, but %v has it", id, p)
		}
	}
	for k, r := range m.rules {
		if r.Set[id] != nil {
			m.t.Fatalf("identity %d is gone, but %+v has an entry for it", id, k)
		}
	}
	delete(m.identities, id)
}

// lookup finds the identity of an address as the dataplane does.
func (m *mirror) lookup(a netip.Addr) ID {
	if id, ok := m.addresses[a]; ok {
		return id
	}
	id, longest := World, -1
	for p, q := range m.blocks {
		if p.Contains(a) && p.Bits() > longest {
			id, longest = q, p.Bits()
		}
	}
	return id
}

func (m *mirror) judge(p probe) Outcome {
	r := m.rules[ruleKey{m.lookup(p.subject), p.direction}]
	if r == nil {
		return Outcome{Allow: true}
	}
	return judge(*r, m.lookup(p.peer), p.proto, p.port)
}

// passes judges a packet on both sides.
func (m *mirror) passes(p probe) bool {
	a, b := m.judge(p), m.judge(p.reverse())
	from, to := m.identities[m.lookup(p.subject)].Workload, m.identities[m.lookup(p.peer)].Workload
	apart := from != nil && to != nil && from.Network != to.Network
	return a.Allow && b.Allow && (!apart || a.Join || b.Join)
}

// portrait is a dataplane's state without numbers: identities stand as their keys.
type portrait struct {
	Identities map[string]Identity
	Defaults   map[string]Verdicts
	Entries    map[string]map[string]Verdicts
	Addresses  map[netip.Addr]string
	Blocks     map[netip.Prefix]string
}

func (m *mirror) portrait() portrait {
	p := portrait{
		Identities: map[string]Identity{}, Defaults: map[string]Verdicts{}, Entries: map[string]map[string]Verdicts{},
		Addresses: map[netip.Addr]string{}, Blocks: map[netip.Prefix]string{},
	}
	for _, q := range m.identities {
		id := q
		id.ID = 0
		p.Identities[q.Key] = id
	}
	for k, r := range m.rules {
		if r.Default == nil && len(r.Set) == 0 {
			continue
		}
		side := k.direction.String() + m.identities[k.subject].Key
		p.Defaults[side] = *r.Default
		p.Entries[side] = map[string]Verdicts{}
		for id, v := range r.Set {
			p.Entries[side][m.identities[id].Key] = *v
		}
	}
	for a, id := range m.addresses {
		p.Addresses[a] = m.identities[id].Key
	}
	for b, id := range m.blocks {
		p.Blocks[b] = m.identities[id].Key
	}
	return p
}

// agree checks that the mirror is what the engine says that there is.
func (m *mirror) agree(e *Engine) {
	m.t.Helper()
	list := e.Identities()
	if len(list) != len(m.identities) {
		m.t.Fatalf("the engine has %d identities, the mirror %d", len(list), len(m.identities))
	}
	for _, q := range list {
		if !reflect.DeepEqual(m.identities[q.ID], q) {
			m.t.Fatalf("identity %+v is %+v in the mirror", q, m.identities[q.ID])
		}
		for _, d := range []registry.Direction{registry.Ingress, registry.Egress} {
			r, mine := e.Rules(q.ID, d), m.rules[ruleKey{q.ID, d}]
			if mine == nil {
				mine = &Rules{}
			}
			if r.Default != mine.Default || !maps.Equal(r.Set, mine.Set) {
				m.t.Fatalf("%v rules of %d: engine %+v, mirror %+v", d, q.ID, r, mine)
			}
		}
	}
}
