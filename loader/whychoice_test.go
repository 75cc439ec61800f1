package loader

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/sluice-net/sluice/registry"
)

// TestWhyChoice: weights are told as slots, who drains is not chosen, and what is remembered of a client by
// its address or by its namespace is judged as the programs judge it.
func TestWhyChoice(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			const service, seconds = 4, 60
			r := newRig(t, f, rigOptions{})
			r.reset()
			now := uint64(1000 * time.Second)
			r.put(podMapEndpoints, toAddress(f.addr("A")), endpoint{Ifindex: r.ifindex["A"], Id: 1, Mac: mac("A")})
			at := map[uint32]netip.AddrPort{}
			for id, state := range map[uint32]uint8{7: backendActive, 8: backendActive, 9: backendDraining, 10: backendFree} {
				at[id] = netip.AddrPortFrom(f.addr("R"), uint16(7000+id))
				r.put(podMapBackends, id, backend{
					Addr: toAddress(f.addr("R")), Port: uint16(7000 + id), Proto: protoSCTP, State: state, Service: service, Epoch: 3,
				})
			}
			for slot, id := range []uint32{7, 7, 7, 8} {
				r.put(podMapSlots, uint32(slot), id)
			}
			vip := f.addr("V")
			r.put(podMapServices, serviceKey{Addr: toAddress(vip), Port: 80, Proto: protoSCTP}, sockService{
				First: 0, Count: 4, Id: service, Algorithm: algorithmMaglev, AffinityTimeout: seconds,
			})
			trace := &tracer{
				naming: fakeNames{}, find: lookupIn(func(name string) *ebpf.Map { return r.coll.Maps[name] }),
				now:      func() uint64 { return now },
				draining: func(uint32) []uint32 { return []uint32{9, 10} },
				cookies:  func(uint32) ([]uint64, error) { return []uint64{0x1122334455667788}, nil },
			}
			byAddress := affinityKey{Client: toAddress(f.addr("A")), Service: service}
			byNetns := affinityKey{Service: service, Kind: affinityNetns}
			copy(byNetns.Client.Bytes[:], []byte{0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11})
			for _, x := range []struct {
				key  affinityKey
				have affinity
				want []registry.TraceAffinity
			}{
				{byAddress, affinity{Seen: now - uint64(time.Second), Backend: 8, Epoch: 3},
					[]registry.TraceAffinity{{By: "address", Backend: at[8], Seconds: seconds - 1}}},
				{byNetns, affinity{Seen: now - uint64(seconds*time.Second) + 1, Backend: 7, Epoch: 3},
					[]registry.TraceAffinity{{By: "namespace", Backend: at[7], Seconds: 1}}},
				{byAddress, affinity{Seen: now - uint64(seconds*time.Second), Backend: 8, Epoch: 3},
					[]registry.TraceAffinity{{By: "address", Backend: at[8], Ended: "too long ago"}}},
				{byAddress, affinity{Seen: now, Backend: 9, Epoch: 3},
					[]registry.TraceAffinity{{By: "address", Backend: at[9], Ended: "the backend is draining"}}},
				{byAddress, affinity{Seen: now, Backend: 8, Epoch: 2},
					[]registry.TraceAffinity{{By: "address", Ended: "the backend is gone"}}},
				{byAddress, affinity{Seen: now, Backend: 10, Epoch: 3},
					[]registry.TraceAffinity{{By: "address", Backend: at[10], Ended: "the backend is gone"}}},
			} {
				r.put(podMapAffinity, x.key, x.have)
				flow, err := trace.trace(registry.Probe{
					Source: registry.Place{Address: f.addr("A")}, Destination: registry.Place{Address: vip}, Port: 80, Protocol: protoSCTP,
				})
				if err != nil {
					t.Fatal(err)
				}
				want := &registry.TraceChoice{
					Algorithm: registry.AlgorithmMaglev, Slots: 4, AffinityTimeout: seconds, Affinity: x.want,
					Draining: []netip.AddrPort{at[9]},
				}
				if !reflect.DeepEqual(flow.Choice, want) {
					t.Errorf("%+v is told as %+v, want %+v", x.have, flow.Choice, want)
				}
				if got, want := fmt.Sprint(slotsOf(flow)), "[3 1]"; got != want {
					t.Errorf("targets have %s slots, want %s", got, want)
				}
				if err := r.coll.Maps[podMapAffinity].Delete(x.key); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func slotsOf(f registry.TraceFlow) (n []int) {
	for _, t := range f.Targets {
		n = append(n, t.Slots)
	}
	return n
}
