package uki

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Signer signs programs for Secure Boot.
type Signer struct {
	Key         *rsa.PrivateKey
	Certificate *x509.Certificate // of Key: what the firmware knows, or is known to somebody whom it knows
}

// The identifiers that a signature has (Microsoft, "Windows Authenticode Portable Executable Signature Format", 2008; RFC
// 2315; RFC 8017).
var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	oidImageData     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15}
	algorithmSHA256  = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, Parameters: asn1.NullRawValue}
	algorithmRSA     = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue}
)

// The parts of an Authenticode signature.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue // explicitly tagged 0
	}
	indirectData struct {
		Data   imageData
		Digest digestInfo
	}
	imageData struct {
		Type  asn1.ObjectIdentifier
		Value struct {
			Flags asn1.BitString
			File  asn1.RawValue
		}
	}
	digestInfo struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
	signedData struct {
		Version      int
		Digests      []pkix.AlgorithmIdentifier `asn1:"set"`
		Content      contentInfo
		Certificates asn1.RawValue
		Signers      []signerInfo `asn1:"set"`
	}
	signerInfo struct {
		Version    int
		Issuer     issuerAndSerial
		Digest     pkix.AlgorithmIdentifier
		Attributes asn1.RawValue // implicitly tagged 0
		Encryption pkix.AlgorithmIdentifier
		Signature  []byte
	}
	issuerAndSerial struct {
		Name   asn1.RawValue
		Serial asn1.RawValue
	}
	attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
)

// fileName is what stands where other programs' signatures once named a file: [0] { [2] { [0] "<<<Obsolete>>>" } }.
var fileName = func() []byte {
	name := []byte{0x80, 28}
	for _, c := range "<<<Obsolete>>>" {
		name = append(name, 0, byte(c))
	}
	return slices.Concat([]byte{0xa0, byte(len(name) + 2), 0xa2, byte(len(name))}, name)
}()

// Sign appends a signature to a program. The same key makes the same signature of the same program (PKCS #1 v1.5, no time).
// A program that is signed already is refused.
func (s Signer) Sign(program []byte) ([]byte, error) {
	sum, entry, err := authenticode(program)
	if err != nil {
		return nil, err
	}
	signature, err := s.signature(sum)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	le := binary.LittleEndian
	out := slices.Concat(program, make([]byte, -len(program)&7))
	at := len(out)
	const header = 8 // WIN_CERTIFICATE
	size := align(int64(header+len(signature)), 8)
	le.PutUint32(out[entry:], uint32(at))
	le.PutUint32(out[entry+4:], uint32(size))
	out = le.AppendUint32(out, uint32(size))
	out = le.AppendUint16(out, 0x0200) // revision 2
	out = le.AppendUint16(out, 0x0002) // PKCS #7
	out = append(out, signature...)
	return append(out, make([]byte, at+int(size)-len(out))...), nil
}

// authenticode returns the hash of a program that its signature is of: of all but its checksum, its signatures, and where it
// says that these are: entry.
func authenticode(program []byte) (sum []byte, entry int, err error) {
	le := binary.LittleEndian
	if len(program) < 0x40 || string(program[:2]) != "MZ" {
		return nil, 0, errStub
	}
	pe := int(le.Uint32(program[0x3c:]))
	if pe < 0x40 || pe > len(program)-24-112 || string(program[pe:pe+4]) != "PE\x00\x00" || le.Uint16(program[pe+24:]) != optionalPlus {
		return nil, 0, errStub
	}
	optional := pe + 24
	const certificates = 4 // of the data directories
	if le.Uint32(program[optional+108:]) <= certificates || len(program) < optional+112+8*(certificates+1) {
		return nil, 0, errors.New("the UEFI stub has no place for a signature")
	}
	checksum, entry := optional+64, optional+112+8*certificates
	if le.Uint64(program[entry:]) != 0 {
		return nil, 0, errors.New("the UEFI program has a signature already")
	}
	headers := int(le.Uint32(program[optional+60:]))
	if headers < entry+8 || headers > len(program) {
		return nil, 0, errStub
	}
	h := sha256.New()
	h.Write(program[:checksum])
	h.Write(program[checksum+4 : entry])
	h.Write(program[entry+8 : headers])
	type extent struct{ at, size int }
	var sections []extent
	table, count := optional+int(le.Uint16(program[pe+20:])), int(le.Uint16(program[pe+6:]))
	if table+count*sectionHeader > headers {
		return nil, 0, errStub
	}
	for i := range count {
		s := program[table+i*sectionHeader:]
		if x := (extent{int(le.Uint32(s[20:])), int(le.Uint32(s[16:]))}); x.size > 0 {
			sections = append(sections, x)
		}
	}
	slices.SortFunc(sections, func(a, b extent) int { return a.at - b.at })
	end := headers
	for _, x := range sections {
		if x.at != end { // what lies between is hashed by some and not by others
			return nil, 0, errors.New("the UEFI program has gaps between its sections, which no signature covers")
		}
		if x.size > len(program)-x.at {
			return nil, 0, errStub
		}
		h.Write(program[x.at : x.at+x.size])
		end = x.at + x.size
	}
	h.Write(program[end:])
	h.Write(make([]byte, -len(program)&7))
	return h.Sum(nil), entry, nil
}

// signature makes the PKCS #7 message over a program's hash.
func (s Signer) signature(sum []byte) ([]byte, error) {
	indirect := indirectData{Data: imageData{Type: oidImageData}, Digest: digestInfo{algorithmSHA256, sum}}
	indirect.Data.Value.File = asn1.RawValue{FullBytes: fileName}
	content, err := asn1.Marshal(indirect)
	if err != nil {
		return nil, err
	}
	var inner asn1.RawValue // what is hashed has no header of its own
	if _, err := asn1.Unmarshal(content, &inner); err != nil {
		return nil, err
	}
	digest := sha256.Sum256(inner.Bytes)
	kind, err := marshalAttribute(oidContentType, oidIndirectData)
	if err != nil {
		return nil, err
	}
	message, err := marshalAttribute(oidMessageDigest, digest[:])
	if err != nil {
		return nil, err
	}
	attributes := [][]byte{kind, message}
	slices.SortFunc(attributes, bytes.Compare) // a SET OF in DER
	set := asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true, Bytes: bytes.Join(attributes, nil)}
	signed, err := asn1.Marshal(set)
	if err != nil {
		return nil, err
	}
	hashed := sha256.Sum256(signed)
	encrypted, err := rsa.SignPKCS1v15(nil, s.Key, crypto.SHA256, hashed[:])
	if err != nil {
		return nil, err
	}
	serial, err := asn1.Marshal(s.Certificate.SerialNumber)
	if err != nil {
		return nil, err
	}
	data, err := asn1.Marshal(signedData{
		Version: 1, Digests: []pkix.AlgorithmIdentifier{algorithmSHA256}, Content: contentInfo{oidIndirectData, explicit(content)},
		Certificates: explicit(s.Certificate.Raw),
		Signers: []signerInfo{{
			Version: 1, Issuer: issuerAndSerial{asn1.RawValue{FullBytes: s.Certificate.RawIssuer}, asn1.RawValue{FullBytes: serial}},
			Digest: algorithmSHA256, Attributes: explicit(set.Bytes), Encryption: algorithmRSA, Signature: encrypted,
		}},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(contentInfo{oidSignedData, explicit(data)})
}

// explicit wraps encoded values in [0].
func explicit(content []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: content}
}

func marshalAttribute(kind asn1.ObjectIdentifier, value any) ([]byte, error) {
	raw, err := asn1.Marshal(value)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(attribute{kind, asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true, Bytes: raw}})
}
