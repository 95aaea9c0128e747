package recipe

import (
	"bytes"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func lockedRecipe(t *testing.T, debian string) *Recipe {
	t.Helper()
	r, err := Parse("bakefarm.yaml", []byte("apiVersion: bakefarm/v1\nname: a/b\nos: "+debian+
		"\napp: [{copy: ., to: /opt/a}]\noutputs: [{oci: {platforms: [linux/amd64]}}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func someLock(r *Recipe) *LockFile {
	packages := []LockedPackage{
		{Name: "curl", Version: "7.88-1", Arch: "amd64", SHA256: digest.FromString("curl"), Size: 10},
		{Name: "libc6", Version: "2.36-9", Arch: "amd64", SHA256: digest.FromString("libc6"), Size: 20},
	}
	l := &Lock{APIVersion: LockVersion, Config: Config{Env: map[string]string{"A": "{ b }", "name": "x", "sha256": "{\n  \"name\": "}}, Outputs: r.Outputs,
		OS:      LockedOS{Debian: &LockedDebian{Suite: "bookworm", Scripts: "skip", Platforms: map[string][]LockedPackage{"linux/amd64": packages}}},
		Formats: map[string]int{"convert": 1}}
	return NewLockFile(r, l)
}

func TestLockFileEncoding(t *testing.T) {
	f := someLock(lockedRecipe(t, "{debian: {suite: bookworm, packages: [curl], scripts: skip}}"))
	text := f.Encode()
	again, err := DecodeLockFile(text)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Encode(), text) || again.Key() != f.Key() {
		t.Errorf("it does not survive its encoding:\n%s", text)
	}
	if n := strings.Count(string(text), "\n"); n > 60 || !strings.Contains(string(text), `        {"name": "libc6", "version": "2.36-9", "arch": "amd64", "sha256": "sha256:`) {
		t.Errorf("%d lines:\n%s", n, text)
	}
	if canonical, err := DecodeLockFile(f.Lock.Encode()); err != nil || canonical.Key() != f.Key() || canonical.Request != nil {
		t.Errorf("the Lock itself: %v", err)
	}
}

func TestLockFileMisfits(t *testing.T) {
	made := lockedRecipe(t, "{debian: {suite: bookworm, packages: [curl], scripts: skip}}")
	for debian, want := range map[string]string{
		"{debian: {suite: bookworm, packages: [curl], scripts: skip}}":                            "",
		"{debian: {suite: bookworm, packages: [curl], scripts: skip, mirror: http://m.example/}}": "",
		"{debian: {suite: trixie, packages: [curl], scripts: skip}}":                              "os.debian.suite is trixie, the lock has bookworm",
		"{debian: {suite: bookworm, packages: [curl], variant: none, scripts: skip}}":             "os.debian.variant is none, the lock was made for minbase",
		"{debian: {suite: bookworm, packages: [curl, vim], scripts: skip}}":                       "os.debian.packages has vim, which the lock was not made for",
		"{debian: {suite: bookworm, scripts: skip}}":                                              "the lock was made for curl, which os.debian.packages does not have",
		"{debian: {suite: bookworm, packages: [curl=8], scripts: skip}}":                          "os.debian.packages has curl=8, which the lock was not made for|the lock was made for curl, which os.debian.packages does not have",
		"{scratch: true}": "the recipe is over scratch, the lock over Debian bookworm",
	} {
		r := lockedRecipe(t, debian)
		if got := strings.Join(someLock(made).Misfits(r), "|"); got != want {
			t.Errorf("%s:\n got %q\nwant %q", debian, got, want)
		}
	}
	two := lockedRecipe(t, "{debian: {suite: bookworm, packages: [curl], scripts: skip}}")
	two.Outputs[0].OCI.Platforms = []string{"linux/amd64", "linux/arm64"}
	if got := someLock(made).Misfits(two); len(got) != 1 || got[0] != "the recipe is for linux/arm64, which the lock does not have" {
		t.Errorf("another platform: %q", got)
	}
	bare := someLock(made) // as the API shows it: what was asked for is not known
	bare.Request = nil
	for packages, want := range map[string]string{
		"curl": "", "curl=7.88-1": "", "curl=7.*": "",
		"curl=8": "linux/amd64: os.debian.packages has curl=8; the lock has 7.88-1",
		"vim":    "linux/amd64: os.debian.packages has vim; the lock does not have it",
	} {
		r := lockedRecipe(t, "{debian: {suite: bookworm, packages: ["+packages+"], scripts: skip}}")
		if got := strings.Join(bare.Misfits(r), "|"); got != want {
			t.Errorf("%s: %q, want %q", packages, got, want)
		}
	}
}

func TestLockFileIsChecked(t *testing.T) {
	good := `{"apiVersion": "bakefarm.lock/v1", "os": {"debian": {"suite": "bookworm", "scripts": "skip", "platforms": {"linux/amd64": [
		{"name": "curl", "version": "1", "arch": "all", "sha256": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "size": 1}]}}}}`
	if _, err := DecodeLockFile([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, test := range [][3]string{
		{`{"apiVersion"`, `["apiVersion"`, "is no lock file"},
		{"bakefarm.lock/v1", "bakefarm.lock/v9", "this release reads"},
		{`"name": "curl"`, `"name": "../curl"`, "is no Debian package name"},
		{`"version": "1"`, `"version": "*"`, "is no Debian version"},
		{`"arch": "all"`, `"arch": "a/b"`, "is no Debian architecture"},
		{"sha256:e3b0", "sha256:xxxx", "is no digest"},
		{`"size": 1`, `"size": -1`, "is negative"},
		{`"debian"`, `"other"`, "want exactly one of debian, base and scratch"},
		{`]}}}}`, `]}}}} {}`, "something follows"},
	} {
		if _, err := DecodeLockFile([]byte(strings.Replace(good, test[0], test[1], 1))); err == nil || !strings.Contains(err.Error(), test[2]) {
			t.Errorf("%s: %v, want %q", test[1], err, test[2])
		}
	}
}

func FuzzDecodeLockFile(f *testing.F) {
	f.Add([]byte(`{"apiVersion": "bakefarm.lock/v1", "os": {"scratch": true}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := DecodeLockFile(raw)
		if err != nil {
			return
		}
		text := l.Encode()
		again, err := DecodeLockFile(text)
		if err != nil || !bytes.Equal(again.Encode(), text) {
			t.Fatalf("%v\n%s", err, text)
		}
	})
}
