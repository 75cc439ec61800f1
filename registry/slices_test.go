package registry

import (
	"reflect"
	"testing"
)

func TestCatalogKeepsSlices(t *testing.T) {
	c := NewCatalog("")
	one := Slice{Name: Name{"a", "x"}, Service: "s", Family: IPv4}
	two := Slice{Name: Name{"b", "x"}, Service: "s", Family: IPv6}
	c.Apply(Batch{Revision: 1, Changes: []Change{{Slice: &two}, {Slice: &one}}})
	if got := c.Slices(); !reflect.DeepEqual(got, []Slice{one, two}) {
		t.Errorf("slices %v", got)
	}
	c.Apply(Batch{Revision: 2, Changes: []Change{{Slice: &Slice{Name: one.Name}, Deleted: true}}})
	if _, ok := c.Slice(one.Name); ok {
		t.Errorf("%s is still there", one.Name)
	}
	if got, ok := c.Slice(two.Name); !ok || !reflect.DeepEqual(got, two) {
		t.Errorf("slice %v, %t", got, ok)
	}
	c.Apply(Batch{Revision: 3, Snapshot: true})
	if got := c.Slices(); len(got) > 0 {
		t.Errorf("an empty snapshot leaves %v", got)
	}
}
