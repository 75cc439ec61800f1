package access

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLS names the PEM files of a listener.
type TLS struct {
	Cert, Key string // the listener's certificate with its chain, and its key
	ClientCA  string // whoever has a certificate from it may write; "": nobody needs one
}

// ServerConfig reads the files and returns how to serve TLS. They are read again when they change; a set that
// does not fit together is logged, and the former one goes on. A client without a certificate is let in: what it
// may do the Guard decides.
func (t TLS) ServerConfig(log *slog.Logger) (*tls.Config, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &serverTLS{files: t, log: log}
	s.states = s.stat(time.Now())
	var err error
	if s.config, err = t.read(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: s.config.NextProtos,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return s.current(), nil
		},
	}, nil
}

// read makes a configuration of what the files hold now.
func (t TLS) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("read TLS certificate: %w", err)
	}
	// HTTP/2 would carry many requests in one connection past the limits that count connections.
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	if t.ClientCA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(t.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("read client CA: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read client CA: %s: %w", t.ClientCA, errors.New("no PEM certificate"))
	}
	c.ClientAuth = tls.VerifyClientCertIfGiven
	return c, nil
}

// serverTLS keeps a configuration equal to its files.
type serverTLS struct {
	files TLS
	log   *slog.Logger

	mu     sync.Mutex
	config *tls.Config
	states [3]fileState
	fault  string // that was logged last
}

func (s *serverTLS) current() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.changed() {
		return s.config
	}
	states := s.stat(time.Now())
	fresh, err := s.files.read()
	if err != nil {
		if text := err.Error(); text != s.fault {
			s.fault = text
			s.log.Error("the changed TLS files cannot be used, the former ones go on", "error", err)
		}
		return s.config
	}
	s.config, s.states, s.fault = fresh, states, ""
	return s.config
}

func (s *serverTLS) paths() [3]string { return [3]string{s.files.Cert, s.files.Key, s.files.ClientCA} }

func (s *serverTLS) changed() bool {
	for i, path := range s.paths() {
		if path == "" {
			continue
		}
		if info, err := os.Stat(path); err != nil || !s.states[i].same(info) {
			return true
		}
	}
	return false
}

// stat returns the files' states, to be taken before they are read.
func (s *serverTLS) stat(now time.Time) (states [3]fileState) {
	for i, path := range s.paths() {
		if info, err := os.Stat(path); err == nil {
			states[i] = stateOf(info, now)
		}
	}
	return states
}
