package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sluice-net/sluice/registry/api"
)

// stdio is the file name that stands for standard input or output.
const stdio = "-"

func (c *cli) backup() *cobra.Command {
	cmd := c.command("backup FILE", "Write a snapshot of the registry to a file", cobra.ExactArgs(1),
		func(ctx context.Context, client *api.Client, args []string) error {
			if args[0] == stdio {
				return client.Backup(ctx, c.stdout)
			}
			size, err := keepBackup(ctx, client, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "%s written, %d bytes\n", args[0], size)
			return nil
		})
	cmd.Long = "Write a snapshot of the registry to a file (- is standard output), which only its owner may read.\n\n" +
		"It is a snapshot of etcd with its checksum: etcdctl and etcdutl know it too. FILE holds the old one or\n" +
		"the new one, never a part."
	cmd.Example = "  sluice backup /var/backups/registry.db\n  sluice backup - | zstd > registry.db.zst"
	cmd.ValidArgsFunction = nil // files
	return cmd
}

// keepBackup writes beside the file and then takes its place.
func keepBackup(ctx context.Context, client *api.Client, path string) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return 0, fmt.Errorf("make file: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	err = client.Backup(ctx, f)
	if err == nil {
		if err = f.Sync(); err == nil {
			size, err = f.Seek(0, io.SeekEnd)
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	return size, os.Rename(f.Name(), path)
}

func (c *cli) restore() *cobra.Command {
	cmd := c.command("restore FILE", "Make the registry what it was when a backup was made", cobra.ExactArgs(1),
		func(ctx context.Context, client *api.Client, args []string) error {
			in := c.stdin
			if args[0] != stdio {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("open backup: %w", err)
				}
				defer f.Close()
				in = f
			}
			r, err := client.Restore(ctx, in)
			if err != nil {
				return err
			}
			return c.print(r, func(w io.Writer) {
				fmt.Fprintf(w, "restored: %d written, %d deleted, %d unchanged\n", r.Written, r.Deleted, r.Unchanged)
				if r.Warning != "" {
					fmt.Fprintf(c.stderr, "sluice: %s\n", r.Warning)
				}
			})
		})
	cmd.Long = "Make the registry what it was when \"sluice backup\" wrote FILE (- is standard input), while everything\n" +
		"goes on: services, slices, policies, namespaces and instances that are not in it are deleted, others are as\n" +
		"they were then, and what has not changed is not touched. Containers and nodes are what they are now.\n\n" +
		"It may be run again when it broke off."
	cmd.Example = "  sluice restore /var/backups/registry.db"
	cmd.ValidArgsFunction = nil // files
	return cmd
}
