package scripts

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
)

// javaStore are the certificates that Java programs trust, which ca-certificates-java makes of Debian's.
const javaStore = "etc/ssl/certs/java/cacerts"

// The format is Java's own, JKS: magic, version, count; for each certificate a tag, its alias, the time when it was
// added (milliseconds), its type and its bytes; a SHA-1 hash of the password in UTF-16, a constant and all before it.
// Numbers are big-endian, texts begin with their length in two bytes. (OpenJDK, sun.security.provider.JavaKeyStore.)
const (
	jksMagic    = 0xfeedfeed
	jksVersion  = 2
	jksTrusted  = 2 // tag of a certificate; a private key has another
	jksConstant = "Mighty Aphrodite"
	jksPassword = "changeit" // what ca-certificates-java takes, which says that these are no secrets
)

var errNotJKS = errors.New("no Java key store of certificates")

// restamp gives every certificate of a store the same time (Unix seconds). What is no such store, or has another
// password, stays as it is.
func restamp(store []byte, date int64) []byte {
	out := bytes.Clone(store)
	if len(out) < sha1.Size {
		return store
	}
	body, sum := out[:len(out)-sha1.Size], out[len(out)-sha1.Size:]
	if !bytes.Equal(jksSum(body), sum) || stamp(body, date) != nil {
		return store
	}
	copy(sum, jksSum(body))
	return out
}

func jksSum(body []byte) []byte {
	h := sha1.New()
	for _, c := range jksPassword {
		h.Write([]byte{0, byte(c)})
	}
	h.Write([]byte(jksConstant))
	h.Write(body)
	return h.Sum(nil)
}

// stamp sets the times in a store without its hash.
func stamp(body []byte, date int64) error {
	rest := body
	take := func(n int) []byte {
		if n > len(rest) {
			return nil
		}
		head := rest[:n]
		rest = rest[n:]
		return head
	}
	text := func() bool {
		n := take(2)
		return n != nil && take(int(binary.BigEndian.Uint16(n))) != nil
	}
	head := take(12)
	if head == nil || binary.BigEndian.Uint32(head) != jksMagic || binary.BigEndian.Uint32(head[4:]) != jksVersion {
		return errNotJKS
	}
	for range binary.BigEndian.Uint32(head[8:]) {
		tag := take(4)
		if tag == nil || binary.BigEndian.Uint32(tag) != jksTrusted || !text() {
			return errNotJKS
		}
		when := take(8)
		if when == nil || !text() {
			return errNotJKS
		}
		binary.BigEndian.PutUint64(when, uint64(date)*1000)
		size := take(4)
		if size == nil || take(int(binary.BigEndian.Uint32(size))) == nil {
			return errNotJKS
		}
	}
	if len(rest) > 0 {
		return errNotJKS
	}
	return nil
}
