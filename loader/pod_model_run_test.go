package loader

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// testRun runs a program on one packet after another and allocates nothing.
type testRun struct {
	attr *testRunAttr
	in   *[1 << 16]byte
	out  *[1 << 16]byte
	ctx  *skBuff
}

// testRunAttr is union bpf_attr's part for BPF_PROG_TEST_RUN.
type testRunAttr struct {
	prog, retval, sizeIn, sizeOut uint32
	in, out                       uint64
	repeat, duration              uint32
	ctxSizeIn, ctxSizeOut         uint32
	ctxIn, ctxOut                 uint64
	flags, cpu, batch, _          uint32
}

func newTestRun(p *ebpf.Program) *testRun {
	r := &testRun{attr: &testRunAttr{prog: uint32(p.FD())}, in: new([1 << 16]byte), out: new([1 << 16]byte), ctx: new(skBuff)}
	r.attr.in, r.attr.out = uint64(uintptr(unsafe.Pointer(r.in))), uint64(uintptr(unsafe.Pointer(r.out)))
	r.attr.ctxIn, r.attr.ctxSizeIn = uint64(uintptr(unsafe.Pointer(r.ctx))), uint32(unsafe.Sizeof(*r.ctx))
	return r
}

// run returns the verdict and the packet afterwards, which is valid until the next run.
func (r *testRun) run(in []byte, ctx skBuff) (verdict, []byte, error) {
	copy(r.in[:], in)
	*r.ctx = ctx
	r.attr.sizeIn, r.attr.sizeOut = uint32(len(in)), uint32(len(r.out))
	const testRunCommand = 10
	_, _, errno := unix.Syscall(unix.SYS_BPF, testRunCommand, uintptr(unsafe.Pointer(r.attr)), unsafe.Sizeof(*r.attr))
	runtime.KeepAlive(r)
	if errno != 0 {
		return 0, nil, fmt.Errorf("run on %d bytes: %w", len(in), errno)
	}
	return verdict(r.attr.retval), r.out[:r.attr.sizeOut], nil
}
