package cni

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// netns is a container's network namespace.
type netns struct {
	path string
	file *os.File
}

// openNetns opens the namespace at path. It must be another one than the caller's: wiring the node's
// own namespace like a container's would cut the node off.
func openNetns(path string) (*netns, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, netnsError(path, err.Error())
	}
	n := &netns{path: path, file: file}
	if err := n.verify(); err != nil {
		file.Close()
		return nil, err
	}
	return n, nil
}

func (n *netns) verify() error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(n.file.Fd()), &fs); err != nil {
		return netnsError(n.path, err.Error())
	}
	if fs.Type != unix.NSFS_MAGIC {
		return netnsError(n.path, "the file is no namespace")
	}
	kind, err := unix.IoctlRetInt(int(n.file.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return netnsError(n.path, "the file is a namespace of another kind")
	}
	var own, this unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return fmt.Errorf("inspect the plugin's own network namespace: %w", err)
	}
	if err := unix.Fstat(int(n.file.Fd()), &this); err != nil {
		return netnsError(n.path, err.Error())
	}
	if own.Dev == this.Dev && own.Ino == this.Ino {
		return netnsError(n.path, "it is the node's own network namespace")
	}
	return nil
}

func netnsError(path, why string) error {
	return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS %q: %s", path, why), "")
}

func (n *netns) Close() error { return n.file.Close() }

// do runs f on an OS thread that is in the namespace. The thread is not used for anything else
// until it is back where it was.
func (n *netns) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- netnsError(n.path, "enter: "+err.Error())
			return
		}
		err = f()
		// A thread that cannot go back ends with this goroutine, because it stays locked.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// netnsCookie returns the cookie of the calling thread's network namespace: a number that no other
// namespace has until the next boot. Linux before 5.14 tells none (net/core/sock.c,
// SO_NETNS_COOKIE): it is 0.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket in the container: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read cookie of the container's network namespace: %w", err)
	}
	return cookie, nil
}
