package s3embed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// uploadFile describes an upload in its directory.
const uploadFile = "upload"

// upload is a multipart upload: a directory with its description and one object
// file per part, named by the part's number. All of it survives a restart.
type upload struct {
	ID        string            `json:"id"`
	Bucket    string            `json:"bucket"`
	Key       string            `json:"key"`
	Headers   map[string]string `json:"headers,omitempty"`
	Initiated time.Time         `json:"initiated"`

	dir  string
	sync dirSync

	mu      sync.RWMutex // held for reading while a part is renamed in; for writing while it ends
	ended   bool
	partsMu sync.Mutex
	parts   map[int]*objectInfo
	touched time.Time
}

func (s *store) newUpload(u *upload) *upload {
	u.dir = s.join("uploads", u.ID)
	u.sync = dirSync{path: u.dir}
	u.parts = map[int]*objectInfo{}
	u.touched = u.Initiated
	return u
}

// loadUploads finds the uploads of earlier runs. One without a description was not
// answered yet, or already taken apart: it goes.
func (s *store) loadUploads() error {
	s.uploads = map[string]*upload{}
	dirs, err := os.ReadDir(s.join("uploads"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		u := new(upload)
		b, err := os.ReadFile(s.join("uploads", d.Name(), uploadFile))
		if err == nil {
			err = json.Unmarshal(b, u)
		}
		if err != nil || u.ID != d.Name() {
			s.log.Warn("s3 multipart upload without description removed", "upload", d.Name(), "error", err)
			if err := os.RemoveAll(s.join("uploads", d.Name())); err != nil {
				return err
			}
			continue
		}
		if err := s.newUpload(u).loadParts(); err != nil {
			return fmt.Errorf("read multipart upload %s: %w", u.ID, err)
		}
		s.uploads[u.ID] = u
	}
	return nil
}

func (u *upload) loadParts() error {
	entries, err := os.ReadDir(u.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		info, err := readInfoFile(filepath.Join(u.dir, e.Name()))
		if err != nil {
			return err
		}
		u.parts[n] = info
		if info.Modified.After(u.touched) {
			u.touched = info.Modified
		}
	}
	return nil
}

func (u *upload) partPath(n int) string { return filepath.Join(u.dir, fmt.Sprintf("%05d", n)) }

var errNoSuchUpload = apiErrorf(http.StatusNotFound, "NoSuchUpload", "the multipart upload does not exist: completed, aborted or expired")

func (s *store) upload(bucket, key, id string) (*upload, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	u, ok := s.uploads[id]
	if !ok || u.Bucket != bucket || u.Key != key {
		return nil, errNoSuchUpload
	}
	return u, nil
}

func (s *store) beginUpload(bucket, key string, headers map[string]string) (*upload, error) {
	u := s.newUpload(&upload{
		ID: newName(), Bucket: bucket, Key: key, Headers: headers, Initiated: s.now().UTC().Truncate(time.Millisecond),
	})
	b, err := json.Marshal(u)
	if err != nil {
		return nil, err
	}
	// Described first, then renamed into place: a directory is an upload at once.
	tmp := s.join("tmp", u.ID)
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return nil, err
	}
	err = s.writeFile(filepath.Join(tmp, uploadFile), b)
	if err == nil {
		err = s.syncDir(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, u.dir)
	}
	if err == nil {
		err = s.syncDir(s.join("uploads"))
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	s.mu.Lock()
	s.uploads[u.ID] = u
	s.mu.Unlock()
	return u, nil
}

func (s *store) writeFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && !s.noSync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// putPart makes the draft part n, replacing an earlier one. It uses the draft up.
func (s *store) putPart(u *upload, n int, d *draft) (*objectInfo, error) {
	defer d.discard()
	info := &objectInfo{Key: strconv.Itoa(n), ETag: newETag(), Modified: s.now().UTC().Truncate(time.Millisecond)}
	if err := d.seal(info); err != nil {
		return nil, err
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.ended {
		return nil, errNoSuchUpload
	}
	if err := u.rename(d, n, info); err != nil {
		return nil, err
	}
	if s.noSync {
		return info, nil
	}
	return info, u.sync.sync()
}

func (u *upload) rename(d *draft, n int, info *objectInfo) error {
	u.partsMu.Lock()
	defer u.partsMu.Unlock()
	if err := os.Rename(d.path, u.partPath(n)); err != nil {
		return err
	}
	d.path = ""
	u.parts[n], u.touched = info, info.Modified
	return nil
}

// removeUpload forgets an upload and its parts. The description goes first, so that
// a crash half-way leaves nothing that looks like an upload.
func (s *store) removeUpload(id string) error {
	s.mu.Lock()
	u, ok := s.uploads[id]
	delete(s.uploads, id)
	s.mu.Unlock()
	if !ok {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
	return u.remove()
}

func (u *upload) remove() error {
	if err := os.Remove(filepath.Join(u.dir, uploadFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(u.dir)
}

func (s *store) staleUploads(before time.Time) (ids []string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id, u := range s.uploads {
		u.partsMu.Lock()
		if u.touched.Before(before) {
			ids = append(ids, id)
		}
		u.partsMu.Unlock()
	}
	return ids
}

// sortedUploads are the uploads to a bucket by key, then id.
func (s *store) sortedUploads(bucket string) (out []*upload) {
	s.mu.RLock()
	for _, u := range s.uploads {
		if u.Bucket == bucket {
			out = append(out, u)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(out, func(a, b *upload) int {
		if c := strings.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}
