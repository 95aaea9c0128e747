package s3embed

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rclone/gofakes3"
	"golang.org/x/sys/unix"
)

const format = "bakefarm-s3embed 1\n"

// store keeps objects as files. Its directory is its truth; the sets of keys in
// memory are what a listing needs in order, rebuilt from the file names at open.
type store struct {
	dir     string
	noSync  bool
	minFree int64 // bytes to leave free on the disk
	now     func() time.Time
	log     *slog.Logger

	mu      sync.RWMutex // guards the maps
	buckets map[string]*bucket
	uploads map[string]*upload
}

// bucket is one directory of objects.
type bucket struct {
	name    string
	dir     string
	created time.Time
	sync    dirSync

	// locks, by hash of the key, make a change of the directory and of keys one step.
	locks [64]sync.Mutex

	mu   sync.RWMutex // guards keys
	keys keySet
}

var lockSeed = maphash.MakeSeed()

func (b *bucket) lock(key string) *sync.Mutex {
	return &b.locks[maphash.String(lockSeed, key)%uint64(len(b.locks))]
}

func (b *bucket) path(key string) string { return filepath.Join(b.dir, fileName(key)) }

// open makes the layout, throws away what was never finished, and reads the keys.
func (s *store) open() error {
	for _, d := range []string{"buckets", "uploads", "tmp"} {
		if err := os.MkdirAll(s.join(d), 0o755); err != nil {
			return err
		}
	}
	if err := s.checkFormat(); err != nil {
		return err
	}
	if err := emptyDir(s.join("tmp")); err != nil {
		return fmt.Errorf("remove unfinished objects: %w", err)
	}
	dirs, err := os.ReadDir(s.join("buckets"))
	if err != nil {
		return err
	}
	s.buckets = map[string]*bucket{}
	for _, d := range dirs {
		b := s.newBucket(d.Name())
		if err := b.load(s.log); err != nil {
			return fmt.Errorf("read bucket %s: %w", b.name, err)
		}
		s.buckets[b.name] = b
	}
	if err := s.loadUploads(); err != nil {
		return err
	}
	return s.syncDir(s.dir)
}

func (s *store) join(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *store) checkFormat() error {
	path := s.join("format")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		tmp := s.join("tmp", newName())
		if err := s.writeFile(tmp, []byte(format)); err != nil {
			return err
		}
		return os.Rename(tmp, path)
	}
	if err == nil && string(b) != format {
		err = fmt.Errorf("%s says %.40q, this version reads %q", path, b, format)
	}
	return err
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) newBucket(name string) *bucket {
	dir := s.join("buckets", name)
	return &bucket{name: name, dir: dir, created: birthTime(dir), sync: dirSync{path: dir}}
}

// birthTime is when a directory was made, or last changed where the filesystem does
// not keep that.
func birthTime(path string) time.Time {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BTIME|unix.STATX_MTIME, &st)
	switch {
	case err != nil:
		return time.Time{}
	case st.Mask&unix.STATX_BTIME != 0:
		return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
	}
	return time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec))
}

// load reads the bucket's keys from its file names. Only names too long to hold
// their key cost an open each; sizes and dates are read when first listed.
func (b *bucket) load(log *slog.Logger) error {
	d, err := os.Open(b.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(4096)
		for _, name := range names {
			key, ok := keyOf(name)
			var stat *objectStat
			if !ok {
				info, err := readInfoFile(filepath.Join(b.dir, name))
				if err == nil && fileName(info.Key) != name {
					err = fmt.Errorf("%s: %w: it holds key %q", name, errDamaged, info.Key)
				}
				if errors.Is(err, errDamaged) {
					log.Error("file left out of the s3 bucket", "bucket", b.name, "error", err)
					continue
				}
				if err != nil {
					return err
				}
				key, stat = info.Key, info.stat()
			}
			b.keys.set(key, stat)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func readInfoFile(path string) (*objectInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readInfo(f)
}

// bucket returns NoSuchBucket if there is none of that name.
func (s *store) bucket(name string) (*bucket, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.buckets[name]
	if !ok {
		return nil, gofakes3.BucketNotFound(name)
	}
	return b, nil
}

func (s *store) createBucket(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.buckets[name]; ok {
		return gofakes3.ResourceError(gofakes3.ErrBucketAlreadyExists, name)
	}
	if err := os.Mkdir(s.join("buckets", name), 0o755); err != nil {
		return err
	}
	s.buckets[name] = s.newBucket(name)
	return s.syncDir(s.join("buckets"))
}

func (s *store) deleteBucket(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.buckets[name]
	if !ok {
		return gofakes3.BucketNotFound(name)
	}
	// rmdir is the atomic test: an object that a PUT renames in at this moment is
	// either there, or its rename finds no directory.
	err := os.Remove(b.dir)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return gofakes3.ResourceError(gofakes3.ErrBucketNotEmpty, name)
	}
	if err != nil {
		return err
	}
	delete(s.buckets, name)
	return s.syncDir(s.join("buckets"))
}

func (s *store) syncDir(path string) error {
	if s.noSync {
		return nil
	}
	return syncDir(path)
}

func (s *store) syncBucket(b *bucket) error {
	if s.noSync {
		return nil
	}
	return noSuchBucketIfGone(b.sync.sync(), b.name)
}

// get opens an object. The caller closes the file; NoSuchKey if there is none.
func (s *store) get(bucketName, key string) (*os.File, *objectInfo, error) {
	b, err := s.bucket(bucketName)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(b.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, gofakes3.KeyNotFound(key)
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := readInfo(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// head is get without the bytes.
func (s *store) head(bucketName, key string) (*objectInfo, error) {
	f, info, err := s.get(bucketName, key)
	if err != nil {
		return nil, err
	}
	return info, f.Close()
}

// condition decides, while nobody else writes the key, whether an object may be
// replaced. current is nil if there is none.
type condition func(current *objectInfo) error

// put makes the draft the object info.Key: sealed, durable, in one step, or not at
// all. It completes info (size, ETag, date) and uses the draft up.
func (s *store) put(b *bucket, d *draft, info *objectInfo, cond condition) error {
	defer d.discard()
	info.ETag = newETag()
	info.Modified = s.now().UTC().Truncate(time.Millisecond)
	if err := d.seal(info); err != nil {
		return err
	}
	if err := s.rename(b, d, info, cond); err != nil {
		return err
	}
	return s.syncBucket(b)
}

func (s *store) rename(b *bucket, d *draft, info *objectInfo, cond condition) error {
	lock := b.lock(info.Key)
	lock.Lock()
	defer lock.Unlock()
	path := b.path(info.Key)
	if cond != nil {
		current, err := readInfoFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := cond(current); err != nil {
			return err
		}
	}
	if err := os.Rename(d.path, path); err != nil {
		return noSuchBucketIfGone(err, b.name)
	}
	d.path = "" // no longer ours to remove
	b.mu.Lock()
	b.keys.set(info.Key, info.stat())
	b.mu.Unlock()
	return nil
}

// delete removes the keys that exist and returns when they are durably gone.
func (s *store) delete(b *bucket, keys ...string) error {
	for _, key := range keys {
		if err := b.remove(key); err != nil {
			return err
		}
	}
	return s.syncBucket(b)
}

func (b *bucket) remove(key string) error {
	lock := b.lock(key)
	lock.Lock()
	defer lock.Unlock()
	if err := os.Remove(b.path(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b.mu.Lock()
	b.keys.delete(key)
	b.mu.Unlock()
	return nil
}

// list is one page of a bucket with the sizes and dates filled in. An object that
// goes while the page is made is left out of it.
func (s *store) list(b *bucket, prefix, delimiter, after string, limit int) (listing, error) {
	b.mu.RLock()
	page := b.keys.list(prefix, delimiter, after, limit)
	b.mu.RUnlock()
	kept := page.entries[:0]
	for _, e := range page.entries {
		if e.stat == nil {
			stat, err := b.loadStat(e.key)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if errors.Is(err, errDamaged) {
				s.log.Error("s3 object left out of listing", "bucket", b.name, "key", e.key, "error", err)
				continue
			}
			if err != nil {
				return listing{}, err
			}
			e.stat = stat
		}
		kept = append(kept, e)
	}
	page.entries = kept
	return page, nil
}

// loadStat reads what a listing says about key, and remembers it.
func (b *bucket) loadStat(key string) (*objectStat, error) {
	lock := b.lock(key)
	lock.Lock()
	defer lock.Unlock()
	info, err := readInfoFile(b.path(key))
	if err != nil {
		return nil, err
	}
	stat := info.stat()
	b.mu.Lock()
	b.keys.set(key, stat)
	b.mu.Unlock()
	return stat, nil
}

// copy makes dst/info.Key from the bytes of an object, without reading them into
// this process (copy_file_range, which shares the blocks on XFS and btrfs).
func (s *store) copy(ctx context.Context, src *os.File, size int64, dst *bucket, info *objectInfo, cond condition) error {
	d, err := s.newDraft(size)
	if err != nil {
		return err
	}
	if err := d.append(ctx, src, 0, size); err != nil {
		d.discard()
		return err
	}
	return s.put(dst, d, info, cond)
}

// roomFor refuses a body that would leave less than minFree on the disk. size < 0:
// not known.
func (s *store) roomFor(size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	if free-max(size, 0) < s.minFree {
		return diskFull(fmt.Sprintf("%d bytes are free, %d must stay so", free, s.minFree))
	}
	return nil
}

// newETag is what tells two writes apart; see the package comment on ETags.
func newETag() string {
	var b [20]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// newName is the name of a temporary file or an upload.
func newName() string { return strings.ToLower(rand.Text()) }
