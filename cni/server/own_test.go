package server

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sluice-net/sluice/cni/ipam"
)

// TestOwn: a container has the addresses of all its interfaces; what was restored without an id is not lumped together.
func TestOwn(t *testing.T) {
	at := netip.MustParseAddr
	s := &Server{attachments: map[string]ipam.Attachment{
		"a0": {HostInterface: "a0", ContainerID: "a", Addresses: []netip.Addr{at("10.244.1.2"), at("fd00::2")}},
		"a1": {HostInterface: "a1", ContainerID: "a", Addresses: []netip.Addr{at("10.245.1.2")}},
		"b0": {HostInterface: "b0", ContainerID: "b", Addresses: []netip.Addr{at("10.244.1.3")}},
		"x0": {HostInterface: "x0", Addresses: []netip.Addr{at("10.244.1.4")}},
		"y0": {HostInterface: "y0", Addresses: []netip.Addr{at("10.244.1.5")}},
	}}
	for source, want := range map[string][]string{
		"10.244.1.2": {"10.244.1.2", "10.245.1.2", "fd00::2"},
		"10.245.1.2": {"10.244.1.2", "10.245.1.2", "fd00::2"},
		"10.244.1.3": {"10.244.1.3"},
		"10.244.1.4": {"10.244.1.4"},
		"10.244.1.9": nil,
	} {
		var got []string
		for _, a := range s.Own(at(source)) {
			got = append(got, a.String())
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s owns %v, want %v", source, got, want)
		}
	}
}
