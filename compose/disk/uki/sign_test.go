package uki

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func signer(t *testing.T) Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(42), Subject: pkix.Name{CommonName: "of the test"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Signer{key, c}
}

// signable is a program with data directories and a section of its own.
func signable(t *testing.T) []byte {
	t.Helper()
	le := binary.LittleEndian
	b := make([]byte, 3000) // with symbols at its end
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	le.PutUint16(b[0x44:], 0x8664)
	le.PutUint16(b[0x46:], 1)
	le.PutUint16(b[0x54:], 240)
	le.PutUint16(b[0x56:], 0x22)
	o := b[0x58:]
	le.PutUint16(o, 0x20b)
	le.PutUint32(o[32:], 4096)
	le.PutUint32(o[36:], 512)
	le.PutUint32(o[56:], 8192)
	le.PutUint32(o[60:], 1024)
	le.PutUint16(o[68:], 10) // an EFI application
	le.PutUint32(o[108:], 16)
	s := b[0x58+240:]
	copy(s, ".text")
	le.PutUint32(s[8:], 1024)
	le.PutUint32(s[12:], 4096)
	le.PutUint32(s[16:], 1024)
	le.PutUint32(s[20:], 1024)
	le.PutUint32(s[36:], 0x60000020)
	program, err := New(b, []Section{{".cmdline", []byte("quiet")}, {".linux", bytes.Repeat([]byte("kernel"), 1000)}})
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func TestSign(t *testing.T) {
	s, program := signer(t), signable(t)
	one, err := s.Sign(program)
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.Sign(program)
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("other bytes the second time: %v", err)
	}
	if _, err := s.Sign(one); err == nil || !strings.Contains(err.Error(), "signature already") {
		t.Errorf("signed twice: %v", err)
	}
	gap := append(bytes.Clone(program), make([]byte, 512)...)
	section := gap[0x58+240+2*sectionHeader:]
	binary.LittleEndian.PutUint32(section[20:], binary.LittleEndian.Uint32(section[20:])+512)
	if _, err := s.Sign(gap); err == nil || !strings.Contains(err.Error(), "gaps") {
		t.Errorf("with a gap: %v", err)
	}
	if _, err := s.Sign([]byte("MZ")); err == nil {
		t.Error("what is no program was signed")
	}
	short := bytes.Clone(program)
	binary.LittleEndian.PutUint32(short[0x58+108:], 2)
	if _, err := s.Sign(short); err == nil || !strings.Contains(err.Error(), "no place for a signature") {
		t.Errorf("without a place: %v", err)
	}

	verify, err := exec.LookPath("sbverify")
	if err != nil {
		t.Skip("sbverify (Debian package sbsigntool) is not here")
	}
	dir := t.TempDir()
	certificate := filepath.Join(dir, "db.crt")
	if err := os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "signed.efi")
	for name, c := range map[string]struct {
		change func([]byte)
		good   bool
	}{
		"as it is":        {func([]byte) {}, true},
		"another kernel":  {func(b []byte) { b[4000]++ }, false},
		"other headers":   {func(b []byte) { b[0x58+16]++ }, false},
		"another hash":    {func(b []byte) { b[bytes.Index(b, oidBytes)+60]++ }, false},
		"another message": {func(b []byte) { b[len(b)-20]++ }, false},
	} {
		raw := bytes.Clone(one)
		c.change(raw)
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(verify, "--cert", certificate, file).CombinedOutput()
		if (err == nil) != c.good {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// oidBytes is SPC_PE_IMAGE_DATAOBJ as it stands in a signature, before the hash.
var oidBytes = []byte{0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 15}
