package main

import (
	"net/netip"
	"slices"
	"testing"
)

// TestOwners: a process of the node owns the node's addresses and loopback, by whichever of them it comes.
func TestOwners(t *testing.T) {
	var o owners
	at := netip.MustParseAddr
	if own := o.of(at("192.0.2.1")); own != nil {
		t.Errorf("before the addresses are known: %v", own)
	}
	node := []netip.Addr{at("192.0.2.1"), at("2001:db8::1")}
	o.node.Store(&node)
	want := []netip.Addr{at("192.0.2.1"), at("2001:db8::1"), at("127.0.0.1"), at("::1")}
	for _, source := range []string{"192.0.2.1", "2001:db8::1", "127.0.0.1", "127.0.0.9", "::1", "169.254.1.53", "fd53:6c75:6963:65::53"} {
		if own := o.of(at(source)); !slices.Equal(own, want) {
			t.Errorf("%s owns %v, want %v", source, own, want)
		}
	}
	for _, source := range []string{"192.0.2.2", "169.254.1.1", "10.244.1.2"} {
		if own := o.of(at(source)); own != nil {
			t.Errorf("%s owns %v", source, own)
		}
	}
	if len(node) != 2 || cap(node) > 2 && node[:3][2].IsValid() {
		t.Error("the node's list was written to")
	}
}
