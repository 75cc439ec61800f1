package registry

import (
	"maps"
	"slices"
)

// applySlice keeps a slice as it is, or forgets it.
func (c *Catalog) applySlice(s *Slice, deleted bool) {
	if deleted {
		delete(c.slices, s.Name)
		return
	}
	c.slices[s.Name] = *s
}

// Slices returns all slices, sorted by name.
func (c *Catalog) Slices() []Slice {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.SortedFunc(maps.Values(c.slices), func(a, b Slice) int { return CompareNames(a.Name, b.Name) })
}

// Slice returns one slice.
func (c *Catalog) Slice(n Name) (Slice, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s, ok := c.slices[n]
	return s, ok
}
