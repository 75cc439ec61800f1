package nstest

import (
	"fmt"
	"os"
	"runtime"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newNetns makes a network namespace and mounts it at path, as ip netns add does.
func newNetns(path string) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", netnsDir, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	f.Close()
	done := make(chan error)
	go func() {
		// Not unlocked: the thread that entered the new namespace ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
			return
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		done <- unix.Mount(self, path, "", unix.MS_BIND, "")
	}()
	if err := <-done; err != nil {
		os.Remove(path)
		return fmt.Errorf("make namespace %s: %w", path, err)
	}
	return nil
}

// removeNetns also takes a file that nothing is mounted on. Processes inside keep the namespace
// alive until they end.
func removeNetns(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove namespace: %w", err)
	}
	return nil
}

// loopback sets lo up, with addresses of its own besides 127.0.0.1 and ::1.
func loopback(netns string, addrs ...string) error {
	return inNetns(netns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		for _, text := range addrs {
			addr, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(lo, addr); err != nil {
				return fmt.Errorf("add %s to lo: %w", text, err)
			}
		}
		return nil
	})
}

// inNetns runs f on a thread inside the namespace. What f starts is inside as well, but goroutines
// that f starts are not.
func inNetns(path string, f func() error) error {
	return ns.WithNetNSPath(path, func(ns.NetNS) error { return f() })
}

// InNetns runs f on a thread inside the node's namespace.
func (n *Node) InNetns(f func() error) error { return inNetns(n.Netns, f) }

// InNetns runs f on a thread inside the container's namespace.
func (c *Container) InNetns(f func() error) error { return inNetns(c.Netns, f) }
