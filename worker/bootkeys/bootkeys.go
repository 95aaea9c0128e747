// Package bootkeys has the keys that a worker signs disks with, for machines with Secure Boot. They are the worker's own: a
// recipe names a certificate by its fingerprint, and neither key nor certificate is in recipes, records or the store.
//
//	DIR/NAME.key   the private key (RSA; PEM, PKCS #8 or #1), for nobody else to read
//	DIR/NAME.crt   its certificate (PEM)
package bootkeys

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bakefarm/compose/disk/uki"
	"bakefarm/farm"
)

// Keys are a worker's, by the fingerprints of their certificates. The zero value has none.
type Keys struct {
	signers map[string]uki.Signer
}

// maxFile bounds a key or a certificate, in bytes.
const maxFile = 64 << 10

// minBits is what firmware takes at the least.
const minBits = 2048

// Open reads the keys in a directory; none when dir is empty. Errors name the file.
func Open(dir string) (Keys, error) {
	k := Keys{signers: make(map[string]uki.Signer)}
	if dir == "" {
		return k, nil
	}
	if _, err := os.Stat(dir); err != nil {
		return k, fmt.Errorf("boot keys: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil {
		return k, fmt.Errorf("boot keys: %w", err)
	}
	for _, file := range files {
		s, err := load(file)
		if err != nil {
			return k, fmt.Errorf("boot keys: %w", err)
		}
		k.signers[Fingerprint(s.Certificate)] = s
	}
	if len(k.signers) == 0 {
		return k, fmt.Errorf("boot keys: %s has no NAME.key with its NAME.crt", dir)
	}
	return k, nil
}

func load(file string) (s uki.Signer, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return s, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return s, fmt.Errorf("%s may be read by others (%v): chmod 600", file, info.Mode().Perm())
	}
	der, err := readPEM(file)
	if err != nil {
		return s, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		if key, err = x509.ParsePKCS1PrivateKey(der); err != nil {
			return s, fmt.Errorf("%s: no RSA key in PKCS #8 or PKCS #1", file)
		}
	}
	var ok bool
	if s.Key, ok = key.(*rsa.PrivateKey); !ok || s.Key.N.BitLen() < minBits {
		return s, fmt.Errorf("%s: firmware wants an RSA key of %d bits at least", file, minBits)
	}
	file = strings.TrimSuffix(file, ".key") + ".crt"
	if der, err = readPEM(file); err != nil {
		return s, err
	}
	if s.Certificate, err = x509.ParseCertificate(der); err != nil {
		return s, fmt.Errorf("%s: %w", file, err)
	}
	if public, ok := s.Certificate.PublicKey.(*rsa.PublicKey); !ok || !public.Equal(&s.Key.PublicKey) {
		return s, fmt.Errorf("%s: is no certificate of the key beside it", file)
	}
	return s, nil
}

func readPEM(file string) ([]byte, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil || len(raw) > maxFile {
		return nil, fmt.Errorf("%s: no PEM", file)
	}
	return block.Bytes, nil
}

// Fingerprint is what a recipe names a certificate by: the SHA-256 of its DER, in hexadecimal.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Labels are what a worker with these keys has, so that disks to sign come to it.
func (k Keys) Labels() []string {
	var labels []string
	for _, f := range slices.Sorted(maps.Keys(k.signers)) {
		labels = append(labels, farm.SecureBootLabel(f))
	}
	return labels
}

// ErrNoKey means that a worker has no key for a certificate.
var ErrNoKey = errors.New("this worker has no key for the certificate: start it with --boot-keys DIR, where the key is")

// Sign signs a UEFI program with the key of the certificate with a fingerprint.
func (k Keys) Sign(fingerprint string, program []byte) ([]byte, error) {
	s, ok := k.signers[fingerprint]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNoKey, fingerprint)
	}
	return s.Sign(program)
}
