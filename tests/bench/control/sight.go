package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/nstest"
)

// How long passes between two looks at a map: what a look shows may be so old.
const (
	lookOften  = 50 * time.Microsecond
	lookRarely = time.Millisecond // where several look at a time, for what takes long
)

// sight sees the services of a node's kernel, without a word to its agent: it reads the pinned map.
type sight struct {
	services *ebpf.Map
	every    time.Duration
}

func openSight(node *nstest.Node, every time.Duration) (*sight, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(node.BPFFS, "services"), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("open map of services: %w", err)
	}
	return &sight{m, every}, nil
}

// slots returns over how many slots new flows to a frontend are spread, which with equal weights is how many
// backends it has; -1: there is no such frontend. See struct service in bpf/types.h: the agent writes the entry
// after all that it refers to.
func (s *sight) slots(vip netip.AddrPort) (int, error) {
	addr := vip.Addr().As16()
	key := binary.NativeEndian.AppendUint16(addr[:], vip.Port())
	key = append(key, unix.IPPROTO_TCP, 0)
	entry := make([]byte, s.services.ValueSize())
	if err := s.services.Lookup(key, entry); errors.Is(err, ebpf.ErrKeyNotExist) {
		return -1, nil
	} else if err != nil {
		return 0, err
	}
	return int(binary.NativeEndian.Uint32(entry[4:])), nil
}

// seen is when a sight saw what it looked for.
type seen struct {
	at  time.Time
	err error
}

// watch looks until the frontend has so many slots, or ctx ends.
func (s *sight) watch(ctx context.Context, vip netip.AddrPort, want int) <-chan seen {
	out := make(chan seen, 1)
	go func() {
		// Go's own sleep is not as short. The thread's slack ends with it: it is not unlocked.
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
			out <- seen{err: err}
			return
		}
		for {
			n, err := s.slots(vip)
			if err == nil && n != want {
				err = ctx.Err()
			}
			if err != nil || n == want {
				out <- seen{time.Now(), err}
				return
			}
			pause := unix.NsecToTimespec(int64(s.every))
			_ = unix.Nanosleep(&pause, nil)
		}
	}()
	return out
}
