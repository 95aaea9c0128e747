package mirror

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"bakefarm/compose/apt"

	"github.com/ProtonMail/go-crypto/openpgp"
)

// keysFor reads the keys that may sign a source: those of Signed-By, else apt's trusted ones.
func keysFor(root string, source Source) (openpgp.EntityList, error) {
	if source.Keys != nil {
		keys, err := apt.ReadKeyring(source.Keys)
		if err != nil {
			return nil, fmt.Errorf("%s: Signed-By: %w", source.From, err)
		}
		return keys, nil
	}
	if len(source.SignedBy) == 0 {
		return trustedKeys(root)
	}
	var keys openpgp.EntityList
	var fingerprints []string
	for _, item := range source.SignedBy {
		if !filepath.IsAbs(item) {
			fingerprints = append(fingerprints, strings.ToUpper(strings.TrimSuffix(item, "!")))
			continue
		}
		some, err := readKeyring(filepath.Join(root, item))
		if err != nil {
			return nil, fmt.Errorf("%s: Signed-By: %w", source.From, err)
		}
		keys = append(keys, some...)
	}
	if len(fingerprints) == 0 {
		return keys, nil
	}
	if keys == nil { // fingerprints alone choose among the trusted keys
		var err error
		if keys, err = trustedKeys(root); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(keys, func(e *openpgp.Entity) bool { return !hasFingerprint(e, fingerprints) }), nil
}

func hasFingerprint(e *openpgp.Entity, fingerprints []string) bool {
	if slices.Contains(fingerprints, fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)) {
		return true
	}
	return slices.ContainsFunc(e.Subkeys, func(k openpgp.Subkey) bool {
		return slices.Contains(fingerprints, fmt.Sprintf("%X", k.PublicKey.Fingerprint))
	})
}

// trustedKeys reads apt's trusted keyrings, or Debian's own where apt has none. A trusted keyring that cannot be read or
// understood is left out, as by apt: its keys are then missing by name when a signature needs them.
func trustedKeys(root string) (openpgp.EntityList, error) {
	parts, err := listParts(filepath.Join(root, "etc/apt/trusted.gpg.d"), ".gpg", ".asc")
	if err != nil {
		return nil, err
	}
	var keys openpgp.EntityList
	for _, name := range append([]string{filepath.Join(root, "etc/apt/trusted.gpg")}, parts...) {
		if some, err := readKeyring(name); err == nil {
			keys = append(keys, some...)
		}
	}
	if len(keys) > 0 {
		return keys, nil
	}
	for _, name := range []string{"debian-archive-keyring.pgp", "debian-archive-keyring.gpg"} {
		some, err := readKeyring(filepath.Join(root, "usr/share/keyrings", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return some, err
	}
	return nil, errors.New("no keys to verify signatures with: looked at /etc/apt/trusted.gpg, /etc/apt/trusted.gpg.d and " +
		"/usr/share/keyrings/debian-archive-keyring.gpg; install debian-archive-keyring, or set os.debian.keyring in the recipe " +
		"or BAKEFARM_DEBIAN_KEYRING for the worker")
}

func readKeyring(name string) (openpgp.EntityList, error) {
	raw, err := readConfigFile(name)
	if err != nil {
		return nil, err
	}
	keys, err := apt.ReadKeyring(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return keys, nil
}
