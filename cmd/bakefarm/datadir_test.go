package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestDataDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "farm")
	first, err := openDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v: want one that only the owner can read", info.Mode(), err)
	}
	if got := first.sub("nats"); got != filepath.Join(path, "nats") {
		t.Errorf("sub: %s", got)
	}

	_, err = openDataDir(path)
	var usage usageError
	want := "data directory " + path + " is in use by process " + strconv.Itoa(os.Getpid()) + ": "
	if !errors.As(err, &usage) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("in use: %v; want a usage error that begins with %q", err, want)
	}

	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openDataDir(path)
	if err != nil {
		t.Fatalf("after the first was closed: %v", err)
	}
	again.Close()
}

func TestDataDirThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(file, "below")} {
		var usage usageError
		if _, err := openDataDir(path); !errors.As(err, &usage) || !strings.Contains(err.Error(), "--data") {
			t.Errorf("%s: %v; want a usage error that names --data", path, err)
		}
	}
}

func TestS3Keys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s3.json")
	made, err := loadS3Keys(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(made.AccessKey) < 16 || len(made.SecretKey) < 32 {
		t.Errorf("short keys: %+v", made)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: want one that only the owner can read", info.Mode(), err)
	}
	again, err := loadS3Keys(file)
	if err != nil || again != made {
		t.Errorf("read again: %+v, %v; want %+v", again, err, made)
	}
	other, err := loadS3Keys(filepath.Join(t.TempDir(), "s3.json"))
	if err != nil || other == made {
		t.Errorf("another farm has the same keys: %+v, %v", other, err)
	}

	for _, text := range []string{"", "{", "{}", `{"accessKey":"a"}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadS3Keys(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: %v; want an error that names the file", text, err)
		}
	}
}

func TestDefaultDataDir(t *testing.T) {
	t.Setenv("HOME", "/home/somebody")
	t.Setenv("XDG_DATA_HOME", "/somewhere")
	got := defaultDataDir()
	want := "/somewhere/bakefarm"
	if os.Geteuid() == 0 {
		want = "/var/lib/bakefarm"
	}
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
