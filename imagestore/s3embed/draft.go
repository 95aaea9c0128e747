package s3embed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	copyBuffer = 256 << 10 // bytes moved from a body to its file at a time
	writeback  = 8 << 20   // bytes after which the kernel is told to start writing
	copyStep   = 64 << 20  // bytes copied between looks at the context
)

var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// draft is a file that may become an object: written, sealed with a footer, then
// renamed by the store. discard is safe at any time and after the rename.
type draft struct {
	f     *os.File
	path  string // empty once renamed
	size  int64  // bytes of data
	began int64  // bytes whose writeback began
	sync  bool
}

// newDraft makes an empty draft for size bytes (-1: not known) if there is room.
func (s *store) newDraft(size int64) (*draft, error) {
	if err := s.roomFor(size); err != nil {
		return nil, err
	}
	path := s.join("tmp", newName())
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	return &draft{f: f, path: path, sync: !s.noSync}, nil
}

// fill writes all of body.
func (d *draft) fill(body io.Reader) error {
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	for {
		n, err := body.Read(buf[:])
		if n > 0 {
			if _, werr := d.f.Write(buf[:n]); werr != nil {
				return werr
			}
			d.size += int64(n)
			d.beginWriteback()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// beginWriteback lets the disk work while the body still arrives, so that the fsync
// at the end finds little to do. It promises nothing, so its error means nothing.
func (d *draft) beginWriteback() {
	if d.sync && d.size-d.began >= writeback {
		_ = unix.SyncFileRange(int(d.f.Fd()), d.began, d.size-d.began, unix.SYNC_FILE_RANGE_WRITE)
		d.began = d.size
	}
}

// append copies n bytes at off of another file; its offset moves.
func (d *draft) append(ctx context.Context, src *os.File, off, n int64) error {
	if _, err := src.Seek(off, io.SeekStart); err != nil {
		return err
	}
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		// os.File.ReadFrom sees the file behind the LimitedReader: copy_file_range.
		m, err := d.f.ReadFrom(&io.LimitedReader{R: src, N: min(n, copyStep)})
		d.size += m
		n -= m
		d.beginWriteback()
		if err != nil {
			return err
		}
		if m == 0 {
			return fmt.Errorf("copy of %s: %w", src.Name(), io.ErrUnexpectedEOF)
		}
	}
	return nil
}

// seal adds info's footer and makes the file's contents durable.
func (d *draft) seal(info *objectInfo) error {
	info.Size = d.size
	footer, err := appendFooter(nil, info)
	if err != nil {
		return err
	}
	if _, err := d.f.Write(footer); err != nil {
		return err
	}
	if d.sync {
		if err := d.f.Sync(); err != nil {
			return err
		}
	}
	err = d.f.Close()
	d.f = nil
	return err
}

// discard closes and removes what did not become an object. Should the removal
// fail, the next Open does it.
func (d *draft) discard() {
	if d.f != nil {
		d.f.Close()
		d.f = nil
	}
	if d.path != "" {
		if err := os.Remove(d.path); err == nil || errors.Is(err, os.ErrNotExist) {
			d.path = ""
		}
	}
}
