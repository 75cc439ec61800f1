package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// SetSysctl writes a value below /proc/sys, in the calling thread's namespaces. A file that holds the value already is left alone, since
// /proc/sys may be mounted read-only.
func SetSysctl(value string, path ...string) error {
	file := filepath.Join(append([]string{"/proc/sys"}, path...)...)
	// Not os.WriteFile: these files are neither created nor truncated.
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		f.Close()
	}
	if err != nil {
		if old, rerr := os.ReadFile(file); rerr == nil && strings.TrimSpace(string(old)) == value {
			return nil
		}
		return fmt.Errorf("set sysctl: %w", err)
	}
	return nil
}
