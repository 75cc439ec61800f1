package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// address is struct addr as bpftool prints it.
type address struct {
	Bytes [16]byte `json:"bytes"`
}

func (a address) String() string { return netip.AddrFrom16(a.Bytes).Unmap().String() }

// UnmarshalJSON reads bytes as numbers or as texts like "0xff": bpftool does both.
func (a *address) UnmarshalJSON(data []byte) error {
	var raw struct {
		Bytes []json.RawMessage `json:"bytes"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	for i := range min(len(raw.Bytes), len(a.Bytes)) {
		text := string(raw.Bytes[i])
		if len(text) > 1 && text[0] == '"' {
			text = text[1 : len(text)-1]
		}
		if _, err := fmt.Sscan(text, &a.Bytes[i]); err != nil {
			return fmt.Errorf("byte %s: %w", text, err)
		}
	}
	return nil
}

// shown is how many entries of a map are printed.
const shown = 6

// protocol names an IP protocol number as users do.
func protocol(number int) string { return registry.Protocol(number).String() }

// dump shows what a user reads in the kernel's maps, an entry a line.
func (d *demo) dump(ctx context.Context) error {
	if err := d.dumpServices(ctx); err != nil {
		return err
	}
	return d.dumpBackends(ctx)
}

func (d *demo) dumpServices(ctx context.Context) error {
	type entry struct {
		Key struct {
			Addr  address
			Port  int
			Proto int
		}
		Value struct{ First, Count, ID int }
	}
	var services []entry
	if err := d.bpftool(ctx, "services", &services); err != nil {
		return err
	}
	slices.SortFunc(services, func(a, b entry) int { return a.Value.First - b.Value.First })
	t := newTable()
	defer t.print()
	t.row("key: addr", "port", "proto", "value: id", "first", "count")
	for _, e := range services {
		if e.Value.ID > 0 { // the others only say that an address is a VIP
			t.row(e.Key.Addr, e.Key.Port, protocol(e.Key.Proto), e.Value.ID, e.Value.First, e.Value.Count)
		}
	}
	return nil
}

func (d *demo) dumpBackends(ctx context.Context) error {
	type entry struct {
		Key   int
		Value struct {
			Addr               address
			Port, Proto, Epoch int
			State              json.RawMessage // a number, or the name that BTF has for it
		}
	}
	var backends []entry
	if err := d.bpftool(ctx, "backends", &backends); err != nil {
		return err
	}
	backends = slices.DeleteFunc(backends, func(e entry) bool { return e.Value.Port == 0 })
	t := newTable()
	t.row("key: id", "value: addr", "port", "proto", "state", "epoch")
	for _, e := range backends[:min(shown, len(backends))] {
		v := e.Value
		t.row(e.Key, v.Addr, v.Port, protocol(v.Proto), string(v.State), v.Epoch)
	}
	t.print()
	if more := len(backends) - shown; more > 0 {
		fmt.Printf("  and %d more\n", more)
	}
	return nil
}

// bpftool dumps one of the node's maps into out.
func (d *demo) bpftool(ctx context.Context, name string, out any) error {
	path := filepath.Join(d.node.BPFFS, name)
	heading("bpftool map dump pinned %s", path)
	text, err := exec.CommandContext(ctx, "bpftool", "-j", "map", "dump", "pinned", path).Output()
	if err != nil {
		return fmt.Errorf("dump map %s: %w", name, err)
	}
	var entries []struct{ Formatted json.RawMessage }
	if err := json.Unmarshal(text, &entries); err != nil {
		return fmt.Errorf("read dump of %s: %w", name, err)
	}
	list := []json.RawMessage{}
	for _, e := range entries {
		list = append(list, e.Formatted)
	}
	if text, err = json.Marshal(list); err != nil {
		return fmt.Errorf("read dump of %s: %w", name, err)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("read dump of %s: %w", name, err)
	}
	return nil
}
