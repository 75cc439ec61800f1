package main

import (
	"encoding/binary"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What is timed is built of these. They are nosplit, because a function that checks its stack is where Go's
// scheduler takes a thread away, and raw, because a system call that the scheduler knows of tells it so twice.

// nanotime is Go's monotonic clock, without the calendar that time.Now looks up as well.
//
//go:linkname nanotime runtime.nanotime
//go:nosplit
func nanotime() int64

//go:nosplit
func now() time.Duration { return time.Duration(nanotime()) }

//go:nosplit
func read(fd int, buf []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

//go:nosplit
func write(fd int, buf []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

//go:nosplit
func closeFD(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

//go:nosplit
func accept(listener int) (int, unix.Errno) {
	for {
		fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
		if errno != unix.EINTR {
			return int(fd), errno
		}
	}
}

//go:nosplit
func socket(family, kind int) (int, unix.Errno) {
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), uintptr(kind|unix.SOCK_CLOEXEC), 0)
	return int(fd), errno
}

//go:nosplit
func connect(fd int, to *address) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to.raw)), to.size)
	return errno
}

// poll waits without an end.
//
//go:nosplit
func poll(fds []unix.PollFd) unix.Errno {
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)), 0, 0, 0, 0)
		if errno != unix.EINTR {
			return errno
		}
	}
}

// address is a socket's address as the kernel takes it: sockaddr_in or sockaddr_in6.
type address struct {
	raw    [unix.SizeofSockaddrInet6]byte
	size   uintptr
	family int
}

func addressOf(ap netip.AddrPort) *address {
	a := &address{size: unix.SizeofSockaddrInet6, family: unix.AF_INET6}
	at := 8 // behind family, port and flow label
	if ap.Addr().Is4() {
		a.size, a.family, at = unix.SizeofSockaddrInet4, unix.AF_INET, 4
	}
	binary.NativeEndian.PutUint16(a.raw[0:], uint16(a.family))
	binary.BigEndian.PutUint16(a.raw[2:], ap.Port())
	copy(a.raw[at:], ap.Addr().AsSlice())
	return a
}
