package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	spoolSuffix = ".json"
	maxSpool    = 4 << 10 // bytes of one file
)

// SpoolDir returns the directory for what the agent behind socket missed.
func SpoolDir(socket string) string { return filepath.Join(filepath.Dir(socket), "spool") }

// Spool keeps a DEL for an agent that could not be reached, as one file per interface in dir.
func Spool(dir string, id AttachmentID) error {
	b, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("spool DEL of %s: %w", id, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("spool DEL of %s: %w", id, err)
	}
	path := spoolPath(dir, id)
	err = os.WriteFile(path+".tmp", b, 0o600)
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		os.Remove(path + ".tmp")
		return fmt.Errorf("spool DEL of %s: %w", id, err)
	}
	return nil
}

// Spooled lists the DELs that wait in dir, and as an error each file that is none; those it removes,
// for nothing can be learned from them. A directory that is not there holds none.
func Spooled(dir string) ([]AttachmentID, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read spool: %w", err)
	}
	var ids []AttachmentID
	var errs []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), spoolSuffix) {
			continue // a temporary file of a plugin at work
		}
		path := filepath.Join(dir, e.Name())
		id, err := readSpool(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // settled meanwhile
		}
		if err == nil && spoolPath(dir, id) != path {
			err = fmt.Errorf("holds %s, which belongs in another file", id)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read spool file %s, removed: %w", path, err), os.RemoveAll(path))
			continue
		}
		ids = append(ids, id)
	}
	return ids, errors.Join(errs...)
}

// IsSpooled tells whether a DEL of id waits in dir.
func IsSpooled(dir string, id AttachmentID) bool {
	_, err := os.Lstat(spoolPath(dir, id))
	return err == nil
}

// Unspool removes a DEL that was settled. One that is not there is no error.
func Unspool(dir string, id AttachmentID) error {
	if err := os.Remove(spoolPath(dir, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove settled DEL of %s: %w", id, err)
	}
	return nil
}

func spoolPath(dir string, id AttachmentID) string {
	return filepath.Join(dir, HostInterface(id)+spoolSuffix)
}

func readSpool(path string) (AttachmentID, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return AttachmentID{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSpool {
		return AttachmentID{}, fmt.Errorf("no regular file of at most %d bytes", maxSpool)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return AttachmentID{}, err
	}
	return parseSpool(b)
}

func parseSpool(b []byte) (AttachmentID, error) {
	var id AttachmentID
	if err := json.Unmarshal(b, &id); err != nil {
		return AttachmentID{}, err
	}
	return id, id.Validate()
}
