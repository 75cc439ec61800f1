package eureka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// NewTransport connects to peers directly, and does not wait long for them. ca is a PEM file of those that the
// certificates of https peers must come from; "": those that the system trusts.
//
// It speaks HTTP/1.1: there a request that is not answered in time takes its connection along, while HTTP/2 would
// send the next ones into the same dead one for minutes.
func NewTransport(ca string) (*http.Transport, error) {
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: sendTimeout,
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     90 * time.Second,
	}
	if ca == "" {
		return t, nil
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("read CA of peers: %w", err)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read CA of peers %s: holds no PEM certificate", ca)
	}
	return t, nil
}

// advise says what to do about a certificate that nobody here trusts.
func advise(err error) error {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%w: name the CA that it comes from in eureka.peerCA", err)
	}
	return err
}
