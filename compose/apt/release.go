package apt

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/opencontainers/go-digest"
)

// Bounds of what is read, in bytes.
const (
	MaxRelease = 16 << 20 // an InRelease file; Debian's are 150 kB
	MaxKeyring = 16 << 20 // a keyring file
)

// maxSignatures bounds the signatures of one Release file; Debian's carry three.
const maxSignatures = 64

// Release is a suite's index of indexes (the Release file; wiki.debian.org/DebianRepository/Format).
type Release struct {
	Origin        string
	Label         string
	Version       string // of the suite: 12.15
	Suite         string // its role today: stable, oldstable-updates
	Codename      string // its own name: bookworm, bookworm-updates
	Date          time.Time
	ValidUntil    time.Time // zero: for ever
	Components    []string
	Architectures []string
	ByHash        bool // Acquire-By-Hash: files can also be had under by-hash/SHA256/
	// AllInEach: the Packages of every architecture also list the packages of architecture "all"
	// (No-Support-for-Architecture-all: Packages, or "all" is not among the architectures).
	AllInEach bool
	// NotAutomatic and ButAutomaticUpgrades lower the priority of what the suite has, as for backports.
	NotAutomatic, ButAutomaticUpgrades bool

	Files map[string]File // by path under the suite: main/binary-amd64/Packages.xz
}

// File is what a Release says about one of its files.
type File struct {
	SHA256 digest.Digest
	Size   int64 // in bytes
}

// Errors of VerifyRelease that callers may want to tell apart.
var (
	ErrUnsigned   = errors.New("it carries no OpenPGP signature")
	ErrUnknownKey = errors.New("none of these keys is in the keyring")
	ErrExpired    = errors.New("it has expired")
)

// VerifyRelease checks a clear-signed Release file (InRelease) and reads it. It returns the fingerprint, in upper-case
// hex, of the primary key whose signature is good. One good signature by a key of the keyring is enough, as for apt;
// signatures over SHA-1 and older hashes do not count. Only the signed text is used: what stands before, between or
// after the armor is ignored. With checkValidUntil a release whose Valid-Until is before now is refused. Errors do not
// name the file: the caller knows it.
func VerifyRelease(inRelease []byte, keyring openpgp.EntityList, now time.Time, checkValidUntil bool) (*Release, string, error) {
	if len(inRelease) > MaxRelease {
		return nil, "", fmt.Errorf("it has %d bytes: more than %d", len(inRelease), MaxRelease)
	}
	block, _ := clearsign.Decode(inRelease)
	if block == nil {
		return nil, "", ErrUnsigned
	}
	return verifyRelease(block.Plaintext, block.Bytes, block.ArmoredSignature.Body, keyring, now, checkValidUntil)
}

// VerifyDetached is VerifyRelease for a Release file whose signature stands in a file of its own, Release.gpg.
func VerifyDetached(text, signature []byte, keyring openpgp.EntityList, now time.Time, checkValidUntil bool) (*Release, string, error) {
	if len(text) > MaxRelease || len(signature) > MaxRelease {
		return nil, "", fmt.Errorf("it or its signature has more than %d bytes", MaxRelease)
	}
	packets := io.Reader(bytes.NewReader(signature))
	if block, err := armor.Decode(bytes.NewReader(signature)); err == nil {
		packets = block.Body
	}
	return verifyRelease(text, text, packets, keyring, now, checkValidUntil)
}

// verifyRelease reads a text whose signed form, with canonical line ends, has one of the signatures.
func verifyRelease(text, signed []byte, signatures io.Reader, keyring openpgp.EntityList, now time.Time, checkValidUntil bool) (*Release, string, error) {
	fingerprint, err := verify(signed, signatures, keyring, now)
	if err != nil {
		return nil, "", err
	}
	release, err := ParseRelease(text)
	if err != nil {
		return nil, "", err
	}
	if checkValidUntil {
		if err := release.CheckValid(now); err != nil {
			return nil, "", err
		}
	}
	return release, fingerprint, nil
}

// SignedText returns the text of a clear-signed message without checking its signature, for sources that the
// administrator declared as trusted. ok is false when it is no such message.
func SignedText(raw []byte) (text []byte, ok bool) {
	block, _ := clearsign.Decode(raw)
	if block == nil {
		return nil, false
	}
	return block.Plaintext, true
}

// verify looks for one good signature. Every signature packet is checked on its own: the library's own loop stops at
// the first one whose key it knows, even when that key has expired and the next one has not.
func verify(signed []byte, signatures io.Reader, keyring openpgp.EntityList, now time.Time) (string, error) {
	config := &packet.Config{Time: func() time.Time { return now }}
	packets := packet.NewReader(signatures)
	var unknown []string
	var failed error
	for n := 0; ; n++ {
		p, err := packets.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", fmt.Errorf("its signature cannot be read: %w", err)
		}
		if n == maxSignatures {
			return "", fmt.Errorf("it has more than %d signatures", maxSignatures)
		}
		sig, ok := p.(*packet.Signature)
		if !ok || sig.IssuerKeyId == nil {
			continue
		}
		id := fmt.Sprintf("%016X", *sig.IssuerKeyId)
		if len(keyring.KeysById(*sig.IssuerKeyId)) == 0 {
			unknown = append(unknown, id)
			continue
		}
		if !slices.Contains([]crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}, sig.Hash) {
			failed = fmt.Errorf("the signature by key %s is over a %s hash, which is not safe", id, sig.Hash)
			continue
		}
		var one bytes.Buffer
		if err := sig.Serialize(&one); err != nil {
			return "", fmt.Errorf("its signature by key %s cannot be read: %w", id, err)
		}
		signer, err := openpgp.CheckDetachedSignature(keyring, bytes.NewReader(signed), &one, config)
		if err != nil {
			failed = fmt.Errorf("the signature by key %s is not good: %w", id, err)
			continue
		}
		return fmt.Sprintf("%X", signer.PrimaryKey.Fingerprint), nil
	}
	switch {
	case failed != nil:
		return "", failed
	case len(unknown) > 0:
		return "", fmt.Errorf("it is signed with key %s, and %w", strings.Join(unknown, ", "), ErrUnknownKey)
	default:
		return "", ErrUnsigned
	}
}

// CheckValid returns an error that wraps ErrExpired when the release's Valid-Until is before now.
func (r *Release) CheckValid(now time.Time) error {
	if r.ValidUntil.IsZero() || !now.After(r.ValidUntil) {
		return nil
	}
	return fmt.Errorf("%w: it was valid until %s (Valid-Until) and now is %s; the mirror is out of date, or somebody replays an old one",
		ErrExpired, r.ValidUntil.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
}

// ParseRelease reads the text of a Release file whose origin has been verified.
func ParseRelease(text []byte) (*Release, error) {
	if len(text) > MaxRelease {
		return nil, fmt.Errorf("it has %d bytes: more than %d", len(text), MaxRelease)
	}
	r := &Release{Files: map[string]File{}}
	var field string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, " \t\r\n")
		if line == "" {
			if len(r.Files) > 0 || r.Suite != "" {
				break // a Release is one paragraph
			}
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if strings.EqualFold(field, "SHA256") {
				if err := r.addFile(line); err != nil {
					return nil, err
				}
			}
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("the line %.60q is no field of a Release file", line)
		}
		field = name
		if err := r.setField(name, strings.TrimSpace(value)); err != nil {
			return nil, err
		}
	}
	if len(r.Files) == 0 {
		return nil, errors.New("it lists no files by SHA256")
	}
	r.AllInEach = r.AllInEach || !slices.Contains(r.Architectures, "all")
	return r, nil
}

func (r *Release) setField(name, value string) (err error) {
	switch strings.ToLower(name) {
	case "origin":
		r.Origin = value
	case "label":
		r.Label = value
	case "version":
		r.Version = value
	case "notautomatic":
		r.NotAutomatic = value == "yes"
	case "butautomaticupgrades":
		r.ButAutomaticUpgrades = value == "yes"
	case "suite":
		r.Suite = value
	case "codename":
		r.Codename = value
	case "components":
		r.Components = strings.Fields(value)
	case "architectures":
		r.Architectures = strings.Fields(value)
	case "no-support-for-architecture-all":
		r.AllInEach = value == "Packages"
	case "acquire-by-hash":
		r.ByHash = value == "yes"
	case "date":
		r.Date, err = parseDate(name, value)
	case "valid-until":
		r.ValidUntil, err = parseDate(name, value)
	}
	return err
}

func (r *Release) addFile(line string) error {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return fmt.Errorf("the line %.80q below SHA256 is not \"digest size path\"", line)
	}
	sum := digest.NewDigestFromEncoded(digest.SHA256, strings.ToLower(fields[0]))
	size, err := strconv.ParseInt(fields[1], 10, 64)
	if sum.Validate() != nil || err != nil || size < 0 {
		return fmt.Errorf("the line %.80q below SHA256 is not \"digest size path\"", line)
	}
	r.Files[fields[2]] = File{SHA256: sum, Size: size}
	return nil
}

// parseDate reads the dates of Release files: RFC 5322 with the zone as UTC, GMT or +0000, the day with or without zero.
func parseDate(field, value string) (time.Time, error) {
	for _, layout := range []string{"Mon, _2 Jan 2006 15:04:05 MST", "Mon, _2 Jan 2006 15:04:05 -0700"} {
		if t, err := time.Parse(layout, value); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%s: %.60q is no date such as \"Sat, 11 Jul 2026 10:16:37 UTC\"", field, value)
}

const armorStart = "-----BEGIN PGP PUBLIC KEY BLOCK-----"

// ReadKeyring reads a keyring: binary, or any number of armored blocks.
func ReadKeyring(raw []byte) (openpgp.EntityList, error) {
	if len(raw) > MaxKeyring {
		return nil, fmt.Errorf("the keyring has %d bytes: more than %d", len(raw), MaxKeyring)
	}
	if len(raw) >= 12 && string(raw[8:12]) == "KBXf" {
		return nil, errors.New("it is a GnuPG keybox, which apt does not read either: export its keys with gpg --no-default-keyring --keyring FILE --export")
	}
	if !bytes.Contains(raw, []byte(armorStart)) {
		keys, err := openpgp.ReadKeyRing(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("it is no OpenPGP keyring: %w", err)
		}
		return keys, nil
	}
	var keys openpgp.EntityList
	for {
		i := bytes.Index(raw, []byte(armorStart))
		if i < 0 {
			return keys, nil
		}
		next := raw[i+len(armorStart):]
		block, err := armor.Decode(bytes.NewReader(raw[i:]))
		if err != nil {
			return nil, fmt.Errorf("it is no armored OpenPGP keyring: %w", err)
		}
		some, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return nil, fmt.Errorf("it is no armored OpenPGP keyring: %w", err)
		}
		keys, raw = append(keys, some...), next
	}
}
