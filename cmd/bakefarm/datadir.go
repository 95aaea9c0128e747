package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// dataDir is the directory that a process keeps its part of the farm in, locked while the process lives.
type dataDir struct {
	path string
	lock *os.File
}

// defaultDataDir is where a farm lies when nobody says otherwise.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/bakefarm"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "bakefarm")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "bakefarm")
	}
	return "bakefarm-data"
}

// openDataDir makes the directory when it is not there, and locks it. In use means a usageError that says by whom.
func openDataDir(path string) (*dataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, usageError{err}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, usagef("data directory: %w: name another with --data", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, usagef("data directory: %w: name another with --data", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer lock.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		return nil, usagef("data directory %s is in use%s: stop that farm, or name another directory with --data", path, holder(lock))
	}
	if err := lock.Truncate(0); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if _, err := lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &dataDir{path, lock}, nil
}

// holder names the process that holds the lock, when the lock says so.
func holder(lock *os.File) string {
	raw, _ := io.ReadAll(io.NewSectionReader(lock, 0, 32))
	if pid := strings.TrimSpace(string(raw)); pid != "" {
		return " by process " + pid
	}
	return ""
}

// sub names a directory within it.
func (d *dataDir) sub(name string) string { return filepath.Join(d.path, name) }

// Close releases the lock.
func (d *dataDir) Close() error { return d.lock.Close() }

// succeed returns the IDs of the workers that had the directory before, and can't be alive since it is ours, and notes ours for
// whoever comes next.
func (d *dataDir) succeed(ids []string) (dead []string, err error) {
	file := d.sub("workers.json")
	if raw, err := os.ReadFile(file); err == nil {
		if json.Unmarshal(raw, &dead) != nil || len(dead) > maxSucceeded {
			dead = nil // what they ran waits for its lease
		}
	}
	raw, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	return dead, os.WriteFile(file, raw, 0o600)
}

// maxSucceeded bounds the workers of one process that another one succeeds.
const maxSucceeded = 1000
