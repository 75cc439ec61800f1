package cni

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestDump(t *testing.T) {
	calls := 0
	list, err := Dump(func() ([]int, error) {
		if calls++; calls < 3 {
			return []int{1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	})
	if err != nil || len(list) != 2 || calls != 3 {
		t.Errorf("%v, %v after %d calls", list, err, calls)
	}
	failed := errors.New("failed")
	calls = 0
	if _, err := Dump(func() ([]int, error) { calls++; return nil, failed }); !errors.Is(err, failed) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	if _, err := Dump(func() ([]int, error) { return nil, netlink.ErrDumpInterrupted }); !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Errorf("a list that never holds still: %v", err)
	}
}
