package etcd

import (
	"testing"

	"github.com/sluice-net/sluice/registry"
)

// TestOwed: a renewal is taken by one only, one that was not brought is owed again, and the store is back when none is.
func TestOwed(t *testing.T) {
	o := newOwed()
	one, two := instance("web", 1).InstanceID, instance("web", 2).InstanceID
	if o.add(one) || o.len() != 0 {
		t.Error("a renewal is owed though the store is there")
	}
	if !o.begin(one) || o.begin(one) || !o.add(two) || o.len() != 2 {
		t.Errorf("%d renewals are owed, want 2", o.len())
	}
	a, _ := o.next()
	b, _ := o.next()
	if _, more := o.next(); a == b || a.ID == "" || b.ID == "" || more {
		t.Errorf("taken: %v, %v, and more: %t", a, b, more)
	}
	o.done(a, true)
	o.done(b, false)
	if again, ok := o.next(); !ok || again != b || o.settled() || !o.isAway() || o.len() != 1 {
		t.Errorf("what was not brought is not owed: %v, %d", again, o.len())
	}
	o.done(b, true)
	if !o.settled() || o.isAway() || o.len() != 0 || o.add(registry.InstanceID{ID: "x"}) {
		t.Error("the store is not back")
	}
}
