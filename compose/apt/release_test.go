package apt

import (
	"bytes"
	"crypto"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const releaseText = `Origin: Debian
Suite: stable
Codename: bookworm
Date: Sat,  7 Nov 2026 10:16:37 UTC
Valid-Until: Sat, 28 Nov 2026 10:16:37 UTC
Acquire-By-Hash: yes
No-Support-for-Architecture-all: Packages
Architectures: all amd64
Components: main contrib
MD5Sum:
 0ed6d4c8891eb86358b94bb35d9e4da4 12 main/binary-amd64/Packages
SHA256:
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 12 main/binary-amd64/Packages
 E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855   3 main/binary-amd64/Packages.xz
`

func newKey(t *testing.T, lifetime time.Duration) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity("k", "", "k@localhost", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA,
		KeyLifetimeSecs: uint32(lifetime.Seconds()), Time: func() time.Time { return now.Add(-48 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func clearSign(t *testing.T, text string, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var private []*packet.PrivateKey
	for _, k := range keys {
		private = append(private, k.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, private, &packet.Config{DefaultHash: crypto.SHA256, Time: func() time.Time { return now.Add(-47 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestVerifyRelease(t *testing.T) {
	key, other, expired := newKey(t, 0), newKey(t, 0), newKey(t, 24*time.Hour)
	good := clearSign(t, releaseText, key)
	for name, test := range map[string]struct {
		raw  []byte
		keys openpgp.EntityList
		now  time.Time
		want string // part of the error
	}{
		"good":                          {raw: good, keys: openpgp.EntityList{other, key}},
		"second signature is known":     {raw: clearSign(t, releaseText, other, key), keys: openpgp.EntityList{key}},
		"first key has expired":         {raw: clearSign(t, releaseText, expired, key), keys: openpgp.EntityList{expired, key}},
		"text around it is not read":    {raw: append(append([]byte("Suite: evil\n"), good...), "Suite: evil\n"...), keys: openpgp.EntityList{key}},
		"changed":                       {raw: bytes.Replace(good, []byte("contrib"), []byte("non-free"), 1), keys: openpgp.EntityList{key}, want: "is not good"},
		"unknown key":                   {raw: good, keys: openpgp.EntityList{other}, want: "signed with key " + key.PrimaryKey.KeyIdString() + ", and none of these keys is in the keyring"},
		"no keys":                       {raw: good, want: "none of these keys is in the keyring"},
		"only an expired key":           {raw: clearSign(t, releaseText, expired), keys: openpgp.EntityList{expired}, want: "is not good"},
		"not signed":                    {raw: []byte(releaseText), keys: openpgp.EntityList{key}, want: "no OpenPGP signature"},
		"cut":                           {raw: good[:len(good)-50], keys: openpgp.EntityList{key}, want: "no OpenPGP signature"},
		"too long ago":                  {raw: good, keys: openpgp.EntityList{key}, now: now.Add(30 * 24 * time.Hour), want: "it was valid until 2026-11-28 10:16:37 (Valid-Until)"},
		"signed, and yet not a Release": {raw: clearSign(t, "hello\n", key), keys: openpgp.EntityList{key}, want: "is no field"},
		"no SHA256":                     {raw: clearSign(t, "Suite: x\n", key), keys: openpgp.EntityList{key}, want: "lists no files by SHA256"},
	} {
		at := test.now
		if at.IsZero() {
			at = now
		}
		r, fingerprint, err := VerifyRelease(test.raw, test.keys, at, true)
		if test.want != "" {
			if err == nil || !strings.Contains(err.Error(), test.want) || r != nil {
				t.Errorf("%s: %v, want %q", name, err, test.want)
			}
			continue
		}
		if err != nil || len(fingerprint) != 40 || r.Suite != "stable" || r.Codename != "bookworm" || !r.ByHash || !r.AllInEach ||
			strings.Join(r.Components, " ") != "main contrib" || len(r.Files) != 2 || r.Files["main/binary-amd64/Packages.xz"].Size != 3 || r.Date.Day() != 7 {
			t.Errorf("%s: %+v %s %v", name, r, fingerprint, err)
		}
	}
	if _, _, err := VerifyRelease(good, openpgp.EntityList{key}, now.Add(30*24*time.Hour), false); err != nil {
		t.Errorf("without the check: %v", err)
	}
	if _, _, err := VerifyRelease(good, openpgp.EntityList{key}, now.Add(30*24*time.Hour), true); !errors.Is(err, ErrExpired) {
		t.Error(err)
	}
	if _, _, err := VerifyRelease(good, nil, now, true); !errors.Is(err, ErrUnknownKey) {
		t.Error(err)
	}
}

func TestReadKeyring(t *testing.T) {
	a, b := newKey(t, 0), newKey(t, 0)
	var binary, armored bytes.Buffer
	for _, k := range []*openpgp.Entity{a, b} {
		if err := k.Serialize(&binary); err != nil {
			t.Fatal(err)
		}
		w, err := armor.Encode(&armored, openpgp.PublicKeyType, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Serialize(w); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		armored.WriteString("\n\n")
	}
	for name, raw := range map[string][]byte{"binary": binary.Bytes(), "armored": armored.Bytes()} {
		if keys, err := ReadKeyring(raw); err != nil || len(keys) != 2 {
			t.Errorf("%s: %d keys, %v", name, len(keys), err)
		}
	}
	for _, raw := range []string{"", "nonsense", armorStart} {
		if keys, err := ReadKeyring([]byte(raw)); err == nil && len(keys) > 0 {
			t.Errorf("%q: %d keys", raw, len(keys))
		}
	}
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte(releaseText))
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSuite: x\n-----BEGIN PGP SIGNATURE-----\n\n=abcd\n-----END PGP SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if r, err := ParseRelease(raw); err == nil && len(r.Files) == 0 {
			t.Fatal("a Release without files")
		}
		if _, _, err := VerifyRelease(raw, nil, now, true); err == nil {
			t.Fatal("verified without a key")
		}
	})
}
