package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
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

// dump shows what a user reads in the kernel's maps, an entry a line.
func (d *demo) dump(ctx context.Context) error {
	if err := d.dumpServices(ctx); err != nil {
		return err
	}
	return d.dumpBackends(ctx)
}

func (d *demo) dumpServices(ctx context.Context) error {
	var services []struct {
		Key struct {
			Addr  address
			Port  int
			Proto int
		}
		Value struct{ First, Count, ID int }
	}
	if err := d.bpftool(ctx, "services", &services); err != nil {
		return err
	}
	t := newTable()
	defer t.print()
	for _, e := range services {
		if e.Value.ID == 0 {
			continue // only says that the address is a VIP
		}
		t.row("addr", e.Key.Addr, "port", e.Key.Port, "proto", e.Key.Proto, "->",
			"first", e.Value.First, "count", e.Value.Count, "id", e.Value.ID)
	}
	return nil
}

func (d *demo) dumpBackends(ctx context.Context) error {
	var backends []struct {
		Key   int
		Value struct {
			Addr  address
			Port  int
			Proto int
			State json.RawMessage
			Epoch int
		}
	}
	if err := d.bpftool(ctx, "backends", &backends); err != nil {
		return err
	}
	t := newTable()
	defer t.print()
	for _, e := range backends {
		if string(e.Value.State) == "0" {
			continue // free
		}
		t.row("id", e.Key, "->", "addr", e.Value.Addr, "port", e.Value.Port, "proto", e.Value.Proto,
			"state", string(e.Value.State), "epoch", e.Value.Epoch)
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
