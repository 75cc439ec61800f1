package registry

import "slices"

// sliceIndex holds the slices, and which service each is of.
type sliceIndex struct {
	all map[Name]*catalogSlice
	of  map[Name][]*catalogSlice // by service
}

type catalogSlice struct {
	*Slice
	members []*member
}

func newSliceIndex() sliceIndex {
	return sliceIndex{all: map[Name]*catalogSlice{}, of: map[Name][]*catalogSlice{}}
}

func (x *sliceIndex) add(s *Slice) *catalogSlice {
	sl := &catalogSlice{Slice: s, members: make([]*member, len(s.Endpoints))}
	members := make([]member, len(s.Endpoints))
	for i := range s.Endpoints {
		members[i] = sliceMember(s, &s.Endpoints[i])
		sl.members[i] = &members[i]
	}
	x.all[s.Name] = sl
	x.of[s.Owner()] = append(x.of[s.Owner()], sl)
	return sl
}

func (x *sliceIndex) remove(sl *catalogSlice) {
	delete(x.all, sl.Name)
	owner := sl.Owner()
	list := slices.DeleteFunc(x.of[owner], func(o *catalogSlice) bool { return o == sl })
	if x.of[owner] = list; len(list) == 0 {
		delete(x.of, owner)
	}
}

func (c *Catalog) applySlice(s *Slice, deleted bool) {
	if old := c.slices.all[s.Name]; old != nil {
		c.slices.remove(old)
		svc := c.services[old.Owner()]
		for _, m := range old.members {
			m.gone = true
			if svc != nil {
				c.leave(svc, m)
			}
		}
	}
	if deleted {
		return
	}
	sl := c.slices.add(s)
	if svc := c.services[sl.Owner()]; svc != nil {
		for _, m := range sl.members {
			c.join(svc, m)
		}
	}
}

// Slices returns all slices, sorted by name.
func (c *Catalog) Slices() []Slice {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := make([]Slice, 0, len(c.slices.all))
	for _, s := range c.slices.all {
		list = append(list, *s.Slice)
	}
	slices.SortFunc(list, func(a, b Slice) int { return CompareNames(a.Name, b.Name) })
	return list
}

// OwnedSlices returns the slices that go when a service is deleted, sorted by name.
func (c *Catalog) OwnedSlices(service Name) []Name {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var list []Name
	for _, s := range c.slices.of[service] {
		if s.Owned {
			list = append(list, s.Name)
		}
	}
	slices.SortFunc(list, CompareNames)
	return list
}

// Slice returns one slice.
func (c *Catalog) Slice(n Name) (Slice, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s, ok := c.slices.all[n]
	if !ok {
		return Slice{}, false
	}
	return *s.Slice, true
}
