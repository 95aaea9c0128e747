package bootkeys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, file, kind string, der []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

func pair(t *testing.T, dir, name string, key any, public any, signer any) *x509.Certificate {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name+".key"), "PRIVATE KEY", der, 0o600)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Unix(1<<32, 0)}
	if der, err = x509.CreateCertificate(rand.Reader, template, template, public, signer); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name+".crt"), "CERTIFICATE", der, 0o644)
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOpen(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := pair(t, dir, "db", key, &key.PublicKey, key)
	k, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := Fingerprint(c)
	if labels := k.Labels(); len(f) != 64 || len(labels) != 1 || labels[0] != "secure-boot="+f[:32] {
		t.Errorf("%q has %q", f, labels)
	}
	if _, err := k.Sign(strings.Repeat("0", 64), nil); !errors.Is(err, ErrNoKey) {
		t.Errorf("a certificate of somebody else: %v", err)
	}
	if _, err := k.Sign(f, []byte("no program")); err == nil || errors.Is(err, ErrNoKey) {
		t.Errorf("no program: %v", err)
	}
	if k, err := Open(""); err != nil || len(k.Labels()) != 0 {
		t.Errorf("without a directory: %v", err)
	}
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for want, make := range map[string]func(dir string){
		"has no NAME.key":       func(string) {},
		"may be read by others": func(dir string) { pair(t, dir, "x", key, &key.PublicKey, key); os.Chmod(dir+"/x.key", 0o640) },
		"no PEM":                func(dir string) { os.WriteFile(dir+"/x.key", nil, 0o600) },
		"wants an RSA key":      func(dir string) { pair(t, dir, "x", elliptical, &elliptical.PublicKey, elliptical) },
		"no certificate of the": func(dir string) { pair(t, dir, "x", key, &other.PublicKey, other) },
		"x.crt: no such file":   func(dir string) { pair(t, dir, "x", key, &key.PublicKey, key); os.Remove(dir + "/x.crt") },
		"no RSA key in PKCS":    func(dir string) { write(t, dir+"/x.key", "PRIVATE KEY", []byte("x"), 0o600) },
		"x.crt: x509: malformed": func(dir string) {
			pair(t, dir, "x", key, &key.PublicKey, key)
			write(t, dir+"/x.crt", "X", []byte("x"), 0o644)
		},
	} {
		dir := t.TempDir()
		make(dir)
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	if _, err := Open(dir + "/gone"); err == nil {
		t.Error("a directory that is not there")
	}
}
