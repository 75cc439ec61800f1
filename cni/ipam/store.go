package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-net/sluice/registry"
)

// State says how far an attachment has come.
type State string

// An attachment is reserved by ADD, committed when it is wired, and leaving from the first step of
// its removal until the last.
const (
	Reserved  State = "reserved"
	Committed State = "committed"
	Leaving   State = "leaving"
)

// Attachment is the record of one interface of one container.
type Attachment struct {
	// Boot is the kernel's boot id: no container outlives the kernel, so a record of another boot
	// is void.
	Boot          string                  `json:"boot"`
	State         State                   `json:"state"`
	Reservation   string                  `json:"reservation"` // names the ADD that made it
	ReservedAt    time.Time               `json:"reservedAt"`
	ContainerID   string                  `json:"containerID"`
	IfName        string                  `json:"ifname"`
	Netns         string                  `json:"netns"`
	NetnsCookie   uint64                  `json:"netnsCookie,omitempty"` // 0: unknown
	Network       string                  `json:"network"`
	HostInterface string                  `json:"hostInterface"`
	MAC           string                  `json:"mac"` // of the container's side
	MTU           int                     `json:"mtu"` // bytes
	Addresses     []netip.Addr            `json:"addresses"`
	Name          registry.Name           `json:"name"`
	Labels        map[string]string       `json:"labels,omitempty"`
	Ports         []registry.EndpointPort `json:"ports,omitempty"`
}

// Store keeps attachments, by the name of their host interface, and the allocator's place.
type Store interface {
	Put(Attachment) error
	// Delete removes a record, also one that was set aside; one that is not there is no error.
	Delete(hostInterface string) error
	// PutLast stores what Allocator.Last returned.
	PutLast([]netip.Addr) error
}

// Contents is what a Disk held when it was opened.
type Contents struct {
	Attachments []Attachment
	// Unreadable holds the host interfaces whose record could not be read. The files are kept
	// beside the others, with ".unreadable" at their end.
	Unreadable []string
	Last       []netip.Addr // for Allocator.Resume
}

// Disk is a Store of one JSON file per attachment. A record is written to a temporary file that is
// then renamed, so a reader sees the old one or the new one whenever the writer dies. Nothing is
// flushed: a crash of the kernel makes every record void anyway.
type Disk struct {
	dir  string
	lock *os.File
}

const (
	suffix    = ".json"
	badSuffix = ".unreadable"
	tmpSuffix = ".tmp"
	lastFile  = "last-addresses"
	lockFile  = "lock"
	maxRecord = 1 << 20 // bytes
)

// OpenDisk opens the store in dir, which it makes when needed, locks it against another agent, and
// returns what it holds. Records of a boot other than boot are removed; unreadable ones are set
// aside.
func OpenDisk(dir, boot string) (*Disk, Contents, error) {
	d := &Disk{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, Contents{}, fmt.Errorf("open attachment store: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, Contents{}, fmt.Errorf("open attachment store: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, Contents{}, fmt.Errorf("lock attachment store %s: another agent has it: %w", dir, err)
	}
	d.lock = lock
	contents, err := d.load(boot)
	if err != nil {
		lock.Close()
		return nil, Contents{}, fmt.Errorf("read attachment store: %w", err)
	}
	return d, contents, nil
}

// Close lets go of the lock.
func (d *Disk) Close() error { return d.lock.Close() }

func (d *Disk) load(boot string) (Contents, error) {
	var c Contents
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return c, err
	}
	for _, e := range entries {
		path := filepath.Join(d.dir, e.Name())
		host, isRecord := strings.CutSuffix(e.Name(), suffix)
		switch {
		case strings.HasSuffix(e.Name(), tmpSuffix):
			err = os.Remove(path)
		case strings.HasSuffix(e.Name(), suffix+badSuffix):
			c.Unreadable = append(c.Unreadable, strings.TrimSuffix(e.Name(), suffix+badSuffix))
		case isRecord:
			err = d.loadRecord(path, host, boot, &c)
		}
		if err != nil {
			return c, err
		}
	}
	c.Unreadable = slices.DeleteFunc(c.Unreadable, func(host string) bool { // written anew since
		return slices.ContainsFunc(c.Attachments, func(a Attachment) bool { return a.HostInterface == host })
	})
	// An unreadable place is no loss: the ring starts at the beginning.
	if b, err := os.ReadFile(filepath.Join(d.dir, lastFile)); err == nil {
		if json.Unmarshal(b, &c.Last) != nil {
			c.Last = nil
		}
	}
	return c, nil
}

func (d *Disk) loadRecord(path, host, boot string, c *Contents) error {
	b, err := readBounded(path)
	var a Attachment
	if err == nil {
		a, err = ParseAttachment(b)
	}
	switch {
	case err != nil || a.HostInterface != host:
		c.Unreadable = append(c.Unreadable, host)
		return os.Rename(path, path+badSuffix)
	case a.Boot != boot:
		return os.Remove(path)
	}
	c.Attachments = append(c.Attachments, a)
	return nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRecord {
		return nil, fmt.Errorf("%s: no regular file of at most %d bytes", path, maxRecord)
	}
	return os.ReadFile(path)
}

// ParseAttachment reads a record and checks that it is whole.
func ParseAttachment(b []byte) (Attachment, error) {
	var a Attachment
	if err := json.Unmarshal(b, &a); err != nil {
		return Attachment{}, fmt.Errorf("parse attachment: %w", err)
	}
	switch {
	case a.Boot == "", a.ContainerID == "", a.IfName == "", a.HostInterface == "":
		return Attachment{}, errors.New("parse attachment: a name is missing")
	case a.State != Reserved && a.State != Committed && a.State != Leaving:
		return Attachment{}, fmt.Errorf("parse attachment: unknown state %q", a.State)
	case len(a.Addresses) == 0 || len(a.Addresses) > 2:
		return Attachment{}, fmt.Errorf("parse attachment: %d addresses", len(a.Addresses))
	}
	for _, addr := range a.Addresses {
		if !addr.IsValid() {
			return Attachment{}, errors.New("parse attachment: an address is empty")
		}
	}
	for _, p := range a.Ports {
		if p.Protocol == 0 { // the key is missing
			return Attachment{}, fmt.Errorf("parse attachment: port %q has no protocol", p.Name)
		}
	}
	if mac, err := net.ParseMAC(a.MAC); err != nil || len(mac) != 6 {
		return Attachment{}, fmt.Errorf("parse attachment: MAC %q", a.MAC)
	}
	return a, nil
}

// Put writes a record. It takes the place of one that was set aside.
func (d *Disk) Put(a Attachment) error {
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return fmt.Errorf("write attachment %s: %w", a.HostInterface, err)
	}
	name := a.HostInterface + suffix
	if err := d.write(name, append(b, '\n')); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(d.dir, name+badSuffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove unreadable attachment: %w", err)
	}
	return nil
}

// Delete removes a record.
func (d *Disk) Delete(hostInterface string) error {
	for _, s := range []string{suffix, suffix + badSuffix} {
		err := os.Remove(filepath.Join(d.dir, hostInterface+s))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("delete attachment: %w", err)
		}
	}
	return nil
}

// PutLast writes the allocator's place.
func (d *Disk) PutLast(last []netip.Addr) error {
	b, err := json.Marshal(last)
	if err != nil {
		return fmt.Errorf("write last addresses: %w", err)
	}
	return d.write(lastFile, b)
}

func (d *Disk) write(name string, b []byte) error {
	path := filepath.Join(d.dir, name)
	tmp := path + tmpSuffix
	err := os.WriteFile(tmp, b, 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp) // what a full disk took of it
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// BootID returns the running kernel's boot id.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
