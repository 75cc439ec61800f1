package loader

import (
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
)

// An interface that is to have fewer addresses, and of which an entry cannot be deleted, is as before.
func TestEndpointsShrinkFails(t *testing.T) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: uint32(unsafe.Sizeof(endpoint{})), MaxEntries: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	table := newEndpointTable(m, heapMemory(8, 8), time.Second, time.Now)
	old := Interface{Name: "h", Index: 1, MAC: []byte{2, 0, 0, 0, 0, 1}, Addrs: addrs("10.0.0.1", "10.0.0.2", "10.0.0.3")}
	if err := table.put(old); err != nil {
		t.Fatal(err)
	}
	last := toAddress(old.Addrs[2])
	table.erase = func(key *address) error {
		if *key == last {
			return errInjected
		}
		return m.Delete(key)
	}
	less := old
	less.Addrs = append(addrs("10.0.0.9"), old.Addrs[0])
	if err := table.put(less); err == nil {
		t.Error("a failed delete is no error")
	}
	if err := table.verify(old); err != nil {
		t.Error(err)
	}
	if got := table.list()[0].Addrs; !slices.Equal(got, old.Addrs) {
		t.Errorf("%s has %s", old.Name, got)
	}
	n := 0
	if err := eachOf(m, func(address, endpoint) error { n++; return nil }); err != nil || n != 3 {
		t.Errorf("%d entries, %v", n, err)
	}
}
