package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/tests/probe/report"
)

// flooder sends datagrams to each address in turn, one from a socket that stays and one from a new
// one, and never waits for an answer.
type flooder struct {
	to    []netip.AddrPort
	kept  []int // sockets; -1: none yet
	dense bool
	report.Flood
}

// flood goes on until standard input closes. For each line there, and at the end, it tells what it has
// sent.
func flood(args []string) error {
	var f flooder
	fs := flag.NewFlagSet("flood", flag.ExitOnError)
	gap := fs.Duration("gap", time.Millisecond, "pause after each round of the addresses")
	fs.BoolVar(&f.dense, "dense", false, "never pause, and use no new sockets, which take time")
	fs.Func("to", "ADDRESS:PORT to send UDP to; may be repeated", func(s string) error {
		a, err := netip.ParseAddrPort(s)
		f.to, f.kept = append(f.to, a), append(f.kept, -1)
		return err
	})
	fs.Parse(args)
	asked := make(chan bool)
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			asked <- true
		}
		close(asked)
	}()
	out := json.NewEncoder(os.Stdout)
	for {
		select {
		case _, more := <-asked:
			if err := out.Encode(f.Flood); err != nil || !more {
				return err
			}
		default:
		}
		for i := range f.to {
			f.send(i)
		}
		if !f.dense {
			time.Sleep(*gap)
		}
	}
}

// send sends both datagrams to one address. Before there is a way, there is no socket that stays.
func (f *flooder) send(i int) {
	if f.kept[i] < 0 {
		f.kept[i] = f.open(f.to[i])
	} else {
		f.count(unix.Send(f.kept[i], []byte{askKeep}, 0))
	}
	if f.dense {
		return
	}
	if fd := f.open(f.to[i]); fd >= 0 {
		f.count(unix.Send(fd, []byte{askKeep}, 0))
		unix.Close(fd)
	}
}

func (f *flooder) open(to netip.AddrPort) int {
	fd, err := open(to.Addr(), unix.SOCK_DGRAM, 0)
	if err == nil {
		if err = connect(fd, sockaddr(to)); err == nil {
			return fd
		}
		unix.Close(fd)
	}
	f.Failed++
	return -1
}

func (f *flooder) count(err error) {
	if err != nil {
		f.Failed++
		return
	}
	f.Sent++
}
