package mirror_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bakefarm/worker/mirror"
	"bakefarm/worker/mirror/mirrortest"
)

// TestTLS: a mirror behind an authority of the team's own that wants to see a client certificate. Options for its host
// come before the general ones.
func TestTLS(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	dir := t.TempDir()
	certificate, key := newCertificate(t, dir)
	server := httptest.NewUnstartedServer(m)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are what is tested
	clients := x509.NewCertPool()
	clients.AddCert(certificate)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	server.StartTLS()
	t.Cleanup(server.Close)
	write(t, filepath.Join(dir, "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	host := "127.0.0.1"
	full := fmt.Sprintf(`Acquire::https { CAInfo "%[1]s/ca.pem"; SslCert "%[1]s/client.pem"; SslKey "%[1]s/%[2]s"; };`, dir, key)
	for name, test := range map[string]struct{ conf, want string }{
		"all of it":             {full, ""},
		"no client":             {fmt.Sprintf(`Acquire::https::CAInfo "%s/ca.pem";`, dir), "certificate required"},
		"no authority":          {fmt.Sprintf(`Acquire::https::SslCert "%s/client.pem"; Acquire::https::SslKey "%s/client.key";`, dir, dir), "certificate signed by unknown authority"},
		"for the host":          {fmt.Sprintf(`Acquire::https { %[2]s { CAInfo "%[1]s/ca.pem"; SslCert "%[1]s/client.pem"; SslKey "%[1]s/client.key"; }; CAInfo "%[1]s/client.pem"; };`, dir, host), ""},
		"for the host, as told": {fmt.Sprintf(`Acquire::https { CAInfo { %[2]s "%[1]s/ca.pem"; }; SslCert "%[1]s/client.pem"; SslKey "%[1]s/client.key"; };`, dir, host), ""},
		"peer not verified":     {fmt.Sprintf(`Acquire::https { Verify-Peer "false"; SslCert "%[1]s/client.pem"; SslKey "%[1]s/client.key"; };`, dir), ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write(t, filepath.Join(root, "etc/apt/apt.conf"), test.conf)
			c := newClient(t, mirror.Options{Root: root, Attempts: 1})
			_, err := c.Observe(t.Context(), "bookworm", "amd64", server.URL, m.Keyring)
			if got := fmt.Sprint(err); (err == nil) != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("got %s, want %q", got, test.want)
			}
		})
	}
	root := t.TempDir()
	write(t, filepath.Join(root, "etc/apt/apt.conf"), fmt.Sprintf(`Acquire::https::SslCert "%s/none.pem";`, dir))
	_, err := mirror.New(t.Context(), mirror.Options{Root: root})
	wantError(t, err, "apt.conf: Acquire::https::SslCert", "none.pem")
}

// newCertificate writes client.pem and the key beside it, and returns the name of the latter.
func newCertificate(t *testing.T, dir string) (*x509.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "client.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})))
	write(t, filepath.Join(dir, "client.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	return certificate, "client.key"
}
