package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// issue returns a certificate for 127.0.0.1 and its key, in PEM.
func (a *authority) issue(t *testing.T, name string, usage x509.ExtKeyUsage) (cert, key []byte) {
	t.Helper()
	k := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: plain})
}

// client trusts an authority and shows a certificate of another one, if there is one.
func client(t *testing.T, trusts, from *authority, usage x509.ExtKeyUsage) *http.Client {
	t.Helper()
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	c.RootCAs.AddCert(trusts.cert)
	if from != nil {
		cert, key := from.issue(t, "deployer", usage)
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		// Shown also when the server names other authorities.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	transport := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestClientCertificates: who has one of the client CA may write; others may read, or do not get in.
func TestClientCertificates(t *testing.T) {
	servers, clients, strangers := newAuthority(t), newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	files := TLS{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), ClientCA: filepath.Join(dir, "ca")}
	put := func(a *authority) {
		cert, key := a.issue(t, "server", x509.ExtKeyUsageServerAuth)
		write(t, files.Cert, string(cert))
		write(t, files.Key, string(key))
	}
	put(servers)
	write(t, files.ClientCA, string(clients.pem()))
	config, err := files.ServerConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	guard := &Guard{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if guard.Caller(r).MayWrite() != nil {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	s.TLS = config
	s.StartTLS()
	defer s.Close()
	ask := func(c *http.Client) int {
		res, err := c.Get(s.URL)
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	for name, test := range map[string]struct {
		client *http.Client
		want   int // 0: no answer
	}{
		"none":                {client(t, servers, nil, 0), http.StatusUnauthorized},
		"the client CA's":     {client(t, servers, clients, x509.ExtKeyUsageClientAuth), http.StatusOK},
		"the server's kind":   {client(t, servers, clients, x509.ExtKeyUsageServerAuth), 0},
		"another CA's":        {client(t, servers, strangers, x509.ExtKeyUsageClientAuth), 0},
		"the server's own":    {client(t, servers, servers, x509.ExtKeyUsageClientAuth), 0},
		"a mistaken client's": {client(t, strangers, nil, 0), 0},
	} {
		if got := ask(test.client); got != test.want {
			t.Errorf("certificate %s: %d, want %d", name, got, test.want)
		}
	}

	// The files change: the server's authority, and whose clients may write.
	put(strangers)
	write(t, files.ClientCA, string(strangers.pem()))
	if got := ask(client(t, strangers, strangers, x509.ExtKeyUsageClientAuth)); got != http.StatusOK {
		t.Errorf("after the change: %d", got)
	}
	if got := ask(client(t, strangers, clients, x509.ExtKeyUsageClientAuth)); got != 0 {
		t.Errorf("the former client CA's after the change: %d", got)
	}
	// What cannot be used leaves all as it was.
	if err := os.Remove(files.Key); err != nil {
		t.Fatal(err)
	}
	if got := ask(client(t, strangers, strangers, x509.ExtKeyUsageClientAuth)); got != http.StatusOK {
		t.Errorf("without a key: %d", got)
	}
	if _, err := files.ServerConfig(nil); err == nil {
		t.Error("a listener without a key begins")
	}
}
