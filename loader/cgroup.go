package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// sockAttachTypes says where each socket program goes.
func sockAttachTypes() map[string]ebpf.AttachType {
	return map[string]ebpf.AttachType{
		sockProgSockConnect4:     ebpf.AttachCGroupInet4Connect,
		sockProgSockConnect6:     ebpf.AttachCGroupInet6Connect,
		sockProgSockSendmsg4:     ebpf.AttachCGroupUDP4Sendmsg,
		sockProgSockSendmsg6:     ebpf.AttachCGroupUDP6Sendmsg,
		sockProgSockRecvmsg4:     ebpf.AttachCGroupUDP4Recvmsg,
		sockProgSockRecvmsg6:     ebpf.AttachCGroupUDP6Recvmsg,
		sockProgSockGetpeername4: ebpf.AttachCgroupInet4GetPeername,
		sockProgSockGetpeername6: ebpf.AttachCgroupInet6GetPeername,
		sockProgSockRelease:      ebpf.AttachCgroupInetSockRelease,
	}
}

// sockOrder is the order in which socket programs are attached: those that undo a translation are
// there before those that make one, so that no application sees a backend as its peer. So is what ends
// a socket's place in sock_peers.
func sockOrder() []string {
	return []string{
		sockProgSockGetpeername4, sockProgSockGetpeername6,
		sockProgSockRecvmsg4, sockProgSockRecvmsg6,
		sockProgSockRelease,
		sockProgSockConnect4, sockProgSockConnect6,
		sockProgSockSendmsg4, sockProgSockSendmsg6,
	}
}

// attachCgroup attaches the socket programs to a cgroup, or replaces what its pinned links run.
func attachCgroup(links, cgroup string, progs map[string]*ebpf.Program, step stepFunc) error {
	types := sockAttachTypes()
	for _, name := range sockOrder() {
		if err := step("attach " + name); err != nil {
			return err
		}
		if err := attachSock(filepath.Join(links, name), cgroup, types[name], progs[name]); err != nil {
			return fmt.Errorf("attach %s to cgroup %s: %w", name, cgroup, err)
		}
	}
	return nil
}

func attachSock(pin, cgroup string, at ebpf.AttachType, prog *ebpf.Program) error {
	if same, err := linkedTo(pin, cgroup); err != nil {
		return err
	} else if same {
		err := updateLink(pin, prog)
		if err == nil || !errors.Is(err, errNoLink) {
			return err
		}
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: at, Program: prog})
	if err != nil {
		return err
	}
	defer l.Close()
	return pinLink(l, pin)
}

// linkedTo says whether the pinned link is attached to that cgroup. Another one means that the
// config names another cgroup now.
func linkedTo(pin, cgroup string) (bool, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	var stat unix.Stat_t
	if err := unix.Stat(cgroup, &stat); err != nil {
		return false, fmt.Errorf("stat cgroup: %w", err)
	}
	// The inode number of a cgroup's directory is its id.
	cg := info.Cgroup()
	return cg != nil && cg.CgroupId == stat.Ino, nil
}

// renewed returns the maps that are made anew although they fit. Where sock_release is not attached, sockets were
// closed unseen since translation was switched off or was another cgroup's: their places in sock_peers would stay
// taken for ever.
func (l *Loader) renewed() (map[string]bool, error) {
	if !l.o.SocketTranslation {
		return nil, nil
	}
	attached, err := linkedTo(filepath.Join(l.linksDir(), sockProgSockRelease), l.o.Cgroup)
	if err != nil {
		return nil, fmt.Errorf("look for %s at cgroup %s: %w", sockProgSockRelease, l.o.Cgroup, err)
	}
	return map[string]bool{sockMapSockPeers: !attached}, nil
}

// detachCgroup removes the links of the socket programs: translation ends at once.
func detachCgroup(links string) error {
	order := sockOrder()
	var errs []error
	for i := len(order) - 1; i >= 0; i-- {
		errs = append(errs, removeLink(filepath.Join(links, order[i])))
	}
	return errors.Join(errs...)
}
