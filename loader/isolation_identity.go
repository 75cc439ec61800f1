package loader

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/policy"
)

// identity is one identity of the compiler's, or one that a predecessor or an earlier state left.
type identity struct {
	id      policy.ID // 0: the compiler does not know it
	info    policy.Identity
	digest  numberKey
	fixed   uint32                  // number of an identity that always is
	num     *numbered               // of the others; nil: none could be had
	sides   [2]side                 // by enum direction
	addrs   map[netip.Addr]struct{} // of containers here that have it in the maps
	blocks  int                     // entries of prefixes that lead here
	holders map[*side]struct{}      // that have a cell for it
	since   time.Time               // when it began to leave
	// restored: a predecessor's rules stay as they are until the first snapshot.
	restored bool
}

// side is what an identity may send or receive.
type side struct {
	owner     *identity
	direction uint32
	want      *policy.Verdicts // for peers without an entry; nil: everything is open
	cells     map[*identity]cell
	any       *ruleset // held; nil: unknown
	dirty     map[*identity]struct{}
	all       bool // every cell is dirty
}

// cell is what a side says of one peer.
type cell struct {
	want *policy.Verdicts // nil: no entry
	held *ruleset         // nil: no entry
}

// fixedIdentity returns one that always is. It has no rules.
func fixedIdentity(number uint32, id policy.ID) *identity {
	return &identity{
		id: id, info: policy.Identity{ID: id}, fixed: number,
		addrs: map[netip.Addr]struct{}{}, holders: map[*side]struct{}{},
	}
}

func (s *isolation) newIdentity(digest numberKey) *identity {
	i := fixedIdentity(0, policy.None)
	i.digest = digest
	for d := range i.sides {
		i.sides[d] = side{
			owner: i, direction: uint32(d),
			cells: map[*identity]cell{}, dirty: map[*identity]struct{}{},
		}
	}
	s.byDigest[digest] = i
	return i
}

// number returns what the maps call the identity; 0: it has no number.
func (i *identity) number() uint32 {
	if i.num != nil {
		return i.num.number
	}
	return i.fixed
}

// used says whether an address leads here.
func (i *identity) used() bool { return i.fixed != 0 || len(i.addrs)+i.blocks > 0 }

func (i *identity) leaves() bool { return !i.since.IsZero() }

// String names an identity for people.
func (i *identity) String() string {
	w := i.info.Workload
	if w == nil {
		if len(i.info.Blocks) > 0 {
			return fmt.Sprint(i.info.Blocks)
		}
		return fmt.Sprintf("identity %d", i.number())
	}
	labels := make([]string, 0, len(w.Labels))
	for k, v := range w.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	return w.Namespace + "{" + strings.Join(labels, ",") + "}"
}

func (s *side) String() string {
	return fmt.Sprintf("%s of %s", registry.Direction(s.direction), s.owner)
}

func compareSides(a, b *side) int {
	return cmp.Or(cmp.Compare(a.owner.number(), b.owner.number()), cmp.Compare(a.direction, b.direction))
}

// held returns the ruleset by which the maps judge a peer.
func (s *side) held(peer *identity) *ruleset {
	if s.any == nil || s.any.special() {
		return s.any
	}
	if c := s.cells[peer]; c.held != nil {
		return c.held
	}
	return s.any
}

// set changes a cell, and forgets it when there is nothing in it.
func (s *side) set(peer *identity, c cell) {
	if c == (cell{}) {
		delete(s.cells, peer)
		delete(peer.holders, s)
		return
	}
	s.cells[peer] = c
	peer.holders[s] = struct{}{}
}
