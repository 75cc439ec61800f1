package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// rootListener accepts connections of root's processes only.
type rootListener struct {
	*net.UnixListener
	log *slog.Logger
}

// listenSocket listens at path. A socket that is there is a former agent's: the caller holds the
// lock of the state directory.
func listenSocket(path string, log *slog.Logger) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make paths.run: %w", err)
	}
	// Bound under another name and renamed, so that the path always leads to a socket with the
	// right mode, and a client never meets it gone.
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(fresh, 0o600)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return &rootListener{l, log}, nil
}

// Accept waits for the next connection of a process of root.
func (l *rootListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		peer, err := credentials(conn)
		if err == nil && peer.Uid == 0 {
			return conn, nil
		}
		conn.Close()
		if err != nil {
			l.log.Warn("refused a connection", "error", err)
			continue
		}
		l.log.Warn("refused a connection: not root", "uid", peer.Uid, "pid", peer.Pid)
	}
}

func credentials(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("ask for the peer's identity: %w", err)
	}
	ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(ctlErr, err); err != nil {
		return nil, fmt.Errorf("ask for the peer's identity: %w", err)
	}
	return cred, nil
}
