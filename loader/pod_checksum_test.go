package loader

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// TestChecksums translates packets of many lengths and every checksum.
func TestChecksums(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			for _, proto := range protocols() {
				t.Run(lines(proto, "")[0], func(t *testing.T) {
					r.t = t
					r.enter()
					r.reset()
					for n := range 70 {
						r.translates(proto, testData(n), false)
						r.translates(proto, testData(n), true)
					}
					for _, n := range []int{127, 128, 129, 255, 256, 257, 511, 1023, 1459, 1460, 2047, 3400} {
						r.translates(proto, testData(n), false)
					}
					if proto == protoSCTP {
						return
					}
					for _, data := range edges(f, proto) {
						r.translates(proto, data, false)
					}
				})
			}
		})
	}
}

// edges are data with which the checksum, before or after translation, becomes a number that one's
// complement arithmetic may get wrong.
func edges(f family, proto uint8) (all [][]byte) {
	at := 14 + 20 + 16
	if f.v6 {
		at += 20
	}
	if proto == protoUDP {
		at -= 10
	}
	there := packet(proto, "A:1234", "V:80")
	for _, p := range []frame{there, there.as("A:1234", "B:7000")} {
		p.data = []byte{0, 0}
		sum := binary.BigEndian.Uint16(p.bytes(f)[at:])
		for _, want := range []uint16{0, 1, 2, 0x7fff, 0x8000, 0xfffd, 0xfffe, 0xffff} {
			// A sum that is to be want less needs data that is as much more.
			b := []byte{byte(^want >> 8), byte(^want)}
			v := onesSum(uint32(sum), b)
			all = append(all, []byte{byte(v >> 8), byte(v)})
		}
	}
	for v := 0; v < 1<<16; v += 509 {
		all = append(all, []byte{byte(v >> 8), byte(v)})
	}
	return all
}

func testData(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*31 + n)
	}
	return b
}

// translates sends a packet to a VIP and one back and compares all bytes with packets built anew.
func (r *rig) translates(proto uint8, data []byte, noCheck bool) {
	r.t.Helper()
	p, q := packet(proto, "A:1234", "V:80"), packet(proto, "B:7000", "A:1234")
	if proto == protoTCP {
		noCheck = false
	}
	p.data, p.noCheck, q.data, q.noCheck = data, noCheck, data, noCheck
	r.same(fmt.Sprintf("%d bytes to the VIP", len(data)), "A>", p, p.as("A:1234", "B:7000").to("B"))
	r.same(fmt.Sprintf("%d bytes back", len(data)), "B>", q, q.as("V:80", "A:1234").to("A"))
}

func (r *rig) same(what, hook string, in, want frame) {
	r.t.Helper()
	v, out := r.run(hook, in.bytes(r.f))
	if w := want.bytes(r.f); v != redirect || !bytes.Equal(out, w) {
		r.t.Errorf("%s: verdict %v\n%swant:\n%s", what, v, hex.Dump(out), hex.Dump(w))
	}
}

// TestChecksumComplete translates packets as they come from a device that sums up whole packets: the
// kernel then verifies that the programs kept that sum right.
func TestChecksumComplete(t *testing.T) {
	const testChecksumComplete = 1 << 2 // BPF_F_TEST_SKB_CHECKSUM_COMPLETE, Linux 6.17
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			r.reset()
			run := func(what, name string, p frame) {
				_, err := r.coll.Programs["from_pod"].Run(&ebpf.RunOptions{
					Data: p.bytes(f), Context: skBuff{Ifindex: r.ifindex[name]},
					Flags: testChecksumComplete,
				})
				if errors.Is(err, unix.EINVAL) {
					t.Skip("the kernel does not know the flag")
				}
				if err != nil {
					t.Errorf("protocol %d, %s: %v", p.proto, what, err)
				}
			}
			for _, proto := range protocols() {
				there, answer := packet(proto, "A:1234", "V:80"), packet(proto, "B:7000", "A:1234")
				at7000 := there.as("A:1234", "B:7000")
				for n := range 5 {
					there.data, answer.data = testData(n), testData(n)
					run("to a VIP", "A", there)
					run("back", "B", answer)
				}
				// Of an answer of another length the kernel knows no sum (__skb_trim_rcsum).
				if proto == protoTCP {
					run("refused", "A", packet(proto, "A:1234", "V:90"))
				}
				run("echo", "A", ping(f, "A", "V"))
				for _, e := range reports(f) {
					run("error by the backend", "B", e.about(f, "B", "A", at7000))
					run("error by the client", "A", e.about(f, "A", "V", answer.as("V:80", "A:1234")))
				}
			}
		})
	}
}

// TestSegmentsKept: a packet that is to be cut into segments yet is so after its translation.
func TestSegmentsKept(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t, f, rigOptions{})
			r.reset()
			for _, proto := range protocols() {
				there, answer := packet(proto, "A:1234", "V:80"), packet(proto, "B:7000", "A:1234").with(flagACK)
				for name, p := range map[string]frame{"A": there, "B": answer} {
					p.data = testData(3000)
					want := skBuff{Ifindex: r.ifindex[name], GSOSegs: 3, GSOSize: 1000}
					var got skBuff
					ret, err := r.coll.Programs["from_pod"].Run(&ebpf.RunOptions{
						Data: p.bytes(f), DataOut: make([]byte, 4000), Context: want, ContextOut: &got,
					})
					if err != nil || verdict(ret) != redirect {
						t.Fatalf("%s: %v, %v", protoName(proto), verdict(ret), err)
					}
					if got.GSOSegs != want.GSOSegs || got.GSOSize != want.GSOSize {
						t.Errorf("%s from %s: %d segments of %d bytes, want %d of %d", protoName(proto), name,
							got.GSOSegs, got.GSOSize, want.GSOSegs, want.GSOSize)
					}
				}
			}
		})
	}
}
