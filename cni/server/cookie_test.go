package server

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// cookie is the kernel's number of the container's namespace.
func (c *container) cookie(t *testing.T) (cookie uint64) {
	t.Helper()
	err := inNetns(c.handle, func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if errors.Is(err, unix.ENOPROTOOPT) {
		t.Skip("the kernel tells no cookie of a network namespace")
	}
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

// The plugin tells the namespace's cookie, and an agent that starts again knows it still, also when the
// record is lost and the dataplane alone remembers.
func TestNetnsCookie(t *testing.T) {
	r := newRig(t)
	c := r.container("c")
	want := c.cookie(t)
	r.add(c)
	check := func(when string) {
		t.Helper()
		list := r.plane.Interfaces()
		if len(list) != 1 || list[0].NetnsCookie != want {
			t.Errorf("%s: the dataplane has %+v, want cookie %d", when, list, want)
		}
		if a, _, _ := r.server.get(hostOf("c")); a.NetnsCookie != want {
			t.Errorf("%s: the record has cookie %d, want %d", when, a.NetnsCookie, want)
		}
	}
	check("ADD")
	if got := r.server.Namespaces(); !slices.Equal(got, []string{c.path}) {
		t.Errorf("namespaces are %v, want %s", got, c.path)
	}
	r.stop()
	r.start()
	check("restart")
	r.stop()
	if err := unix.Unlink(r.opts.State + "/" + hostOf("c") + ".json"); err != nil {
		t.Fatal(err)
	}
	r.start()
	check("restart without the record")
	r.must(c, call{verb: "DEL"})
}
