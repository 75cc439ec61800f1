package loader

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtool makes an ETHTOOL request about a device.
func ethtool[T any](fd int, device string, value *T) error {
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:], device)
	request.data = unsafe.Pointer(value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL,
		uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(value)
	if errno != 0 {
		return errno
	}
	return nil
}
