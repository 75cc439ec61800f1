package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// A connection to a member that answers nothing is given up after these two, and another member is asked. gRPC
	// pings no more often than each 10 s. etcd hangs up on a client that pings more often than each 5 s, or where
	// nothing is asked (EnforcementPolicy in its embed and v3rpc packages).
	pingAfter   = 10 * time.Second
	pingTimeout = 3 * time.Second

	compactEvery = 5 * time.Minute // as Kubernetes does it
	compactKey   = "/sluice/compacted"
)

// Cluster is an etcd of several members that the agents of several nodes share. It needs --max-txn-ops=4096 and
// --max-request-bytes=8388608 to take as much at once as an embedded one.
type Cluster struct {
	// Endpoints are the members' client URLs: https://HOST:PORT, or where nobody can listen http://HOST:PORT or unix:///PATH.
	Endpoints []string
	// CA, Cert and Key are PEM files: whom to trust (empty: whom the system does), and who we are (both or none).
	CA, Cert, Key string
}

// Validate returns what is wrong with the cluster's words, or nil. It reads no file.
func (c *Cluster) Validate() error {
	if len(c.Endpoints) == 0 {
		return errors.New("no endpoint")
	}
	secure := 0
	for _, e := range c.Endpoints {
		u, err := url.Parse(e)
		if err != nil || !isMember(u) {
			return fmt.Errorf("endpoint %q: want https://HOST:PORT, http://HOST:PORT or unix:///PATH", e)
		}
		if u.Scheme == "https" {
			secure++
		}
	}
	switch {
	case secure != 0 && secure != len(c.Endpoints):
		return errors.New("some endpoints are https and some are not: want all of them to be")
	case secure == 0 && (c.CA != "" || c.Cert != "" || c.Key != ""):
		return errors.New("certificates are of no use to endpoints that are not https")
	case (c.Cert == "") != (c.Key == ""):
		return errors.New("want both a certificate and its key, or neither")
	}
	for _, f := range []string{c.CA, c.Cert, c.Key} {
		if f != "" && !filepath.IsAbs(f) {
			return fmt.Errorf("file %q: want an absolute path", f)
		}
	}
	return nil
}

func isMember(u *url.URL) bool {
	switch u.Scheme {
	case "http", "https":
		return u.Hostname() != "" && u.Port() != "" && strings.Trim(u.Path, "/") == ""
	case "unix":
		return u.Host == "" && filepath.IsAbs(u.Path)
	}
	return false
}

// tls returns nil for endpoints without TLS.
func (c *Cluster) tls() (*tls.Config, error) {
	if !strings.HasPrefix(c.Endpoints[0], "https:") {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("read CA: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA %s: holds no PEM certificate", c.CA)
		}
	}
	if c.Cert != "" {
		if _, err := tls.LoadX509KeyPair(c.Cert, c.Key); err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		// Read again for each connection: certificates are renewed.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
			return &pair, err
		}
	}
	return cfg, nil
}

// dial makes the client of a cluster. It does not wait for a connection: while there is none, requests fail.
func (s *Store) dial(c *Cluster) error {
	if err := c.Validate(); err != nil {
		return err
	}
	secure, err := c.tls()
	if err != nil {
		return err
	}
	s.client, err = clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints, TLS: secure,
		DialTimeout: patience, DialKeepAliveTime: pingAfter, DialKeepAliveTimeout: pingTimeout,
		MaxCallSendMsgSize: 2*maxTogetherBytes + maxTogether*64,
		Logger:             newZap(s.log, &s.closing),
	})
	return err
}

// clusterHealth returns nil when a majority of the members answers and none raises an alarm.
func (s *Store) clusterHealth(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := s.client.Get(ctx, prefix, clientv3.WithKeysOnly()); err != nil {
		return fmt.Errorf("registry: read: %w", err)
	}
	r, err := s.client.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("registry: ask for alarms: %w", unavailable(err))
	}
	if len(r.Alarms) > 0 {
		return fmt.Errorf("registry: etcd member %x raised alarm %s: it takes no writes", r.Alarms[0].MemberID, r.Alarms[0].Alarm)
	}
	return nil
}

// compactCluster drops old revisions, so that they do not fill the cluster's disks: whoever finds that a period has
// passed in which nobody has compacted does it, to the revision that was current at the period's beginning. It is
// what Kubernetes' API server does (k8s.io/apiserver, storage/etcd3/compact.go).
func (s *Store) compactCluster(ctx context.Context) {
	var version, revision int64
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	for {
		var err error
		if version, revision, err = s.compactOnce(ctx, version, revision); err != nil && ctx.Err() == nil {
			s.log.Warn("old revisions of the registry were not dropped", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// compactOnce takes what the last call returned.
func (s *Store) compactOnce(ctx context.Context, version, revision int64) (int64, int64, error) {
	r, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.Version(compactKey), "=", version)).
		Then(clientv3.OpPut(compactKey, fmt.Sprint(revision))).
		Else(clientv3.OpGet(compactKey)).Commit()
	if err != nil {
		return version, revision, err
	}
	now := r.Header.Revision
	if !r.Succeeded { // somebody else did it
		kv := first(r.Responses[0].GetResponseRange().GetKvs())
		if kv == nil {
			return 0, now, nil
		}
		return kv.Version, now, nil
	}
	if revision > 0 {
		if _, err := s.client.Compact(ctx, revision); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
			return version + 1, now, err
		}
	}
	return version + 1, now, nil
}
