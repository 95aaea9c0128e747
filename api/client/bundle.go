package client

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxIndex bounds the index of a layout, in bytes.
const maxIndex = 64 << 20

// bundleWriter writes an OCI image layout (image-spec, image-layout.md): a directory, or a tar of one. Blobs come first and the
// index last, so that what breaks off has no index that promises more than there is.
type bundleWriter interface {
	// has reports whether a blob of this size is there already.
	has(d digest.Digest, size int64) bool
	// put stores a blob of size bytes, and fails when its bytes are others.
	put(d digest.Digest, size int64, content io.Reader) error
	// index is what the layout has until now; empty for a new one.
	index() (v1.Index, error)
	// finish writes the index and closes.
	finish(v1.Index) error
	// drop closes what will not be finished.
	drop()
}

// openBundle begins a layout: a tar file when the name ends in .tar, or a directory, which may have a layout already.
func openBundle(target string) (bundleWriter, error) {
	if strings.HasSuffix(target, ".tar") {
		f, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*")
		if err != nil {
			return nil, err
		}
		return newTarBundle(f, target)
	}
	entries, err := os.ReadDir(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(target, v1.ImageLayoutFile)); err != nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s: not empty, and no OCI layout: name another directory, or a file that ends in .tar", target)
	}
	if err := os.MkdirAll(filepath.Join(target, v1.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return nil, err
	}
	return dirBundle(target), os.WriteFile(filepath.Join(target, v1.ImageLayoutFile), layoutFile, 0o644)
}

var layoutFile = []byte(`{"imageLayoutVersion":"` + v1.ImageLayoutVersion + `"}`)

func blobName(d digest.Digest) string { return path.Join(v1.ImageBlobsDir, "sha256", d.Encoded()) }

type dirBundle string

func (b dirBundle) has(d digest.Digest, size int64) bool {
	info, err := os.Stat(filepath.Join(string(b), blobName(d)))
	return err == nil && info.Size() == size
}

func (b dirBundle) put(d digest.Digest, size int64, content io.Reader) error {
	name := filepath.Join(string(b), blobName(d))
	f, err := os.CreateTemp(filepath.Dir(name), ".part-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = copyVerified(f, d, size, content)
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func (b dirBundle) index() (v1.Index, error) {
	raw, err := os.ReadFile(filepath.Join(string(b), v1.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return v1.Index{}, nil
	}
	var index v1.Index
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	return index, err
}

func (b dirBundle) finish(index v1.Index) error {
	raw, err := encodeIndex(index)
	if err != nil {
		return err
	}
	part := filepath.Join(string(b), "."+v1.ImageIndexFile+".part")
	if err := os.WriteFile(part, raw, 0o644); err != nil {
		return err
	}
	return os.Rename(part, filepath.Join(string(b), v1.ImageIndexFile))
}

func (dirBundle) drop() {}

func encodeIndex(index v1.Index) ([]byte, error) {
	index.Versioned, index.MediaType = specs.Versioned{SchemaVersion: 2}, v1.MediaTypeImageIndex
	return json.Marshal(index)
}

// copyVerified copies size bytes whose digest must be d.
func copyVerified(w io.Writer, d digest.Digest, size int64, content io.Reader) error {
	verifier := d.Verifier()
	n, err := io.Copy(io.MultiWriter(w, verifier), io.LimitReader(content, size+1))
	if err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	if n != size || !verifier.Verified() {
		return fmt.Errorf("%s: %d bytes came that are not what they should be", d, n)
	}
	return nil
}

// tarBundle writes into a file beside the target, which takes its name at the end.
type tarBundle struct {
	file   *os.File
	target string
	w      *tar.Writer
	there  map[digest.Digest]bool
}

func newTarBundle(f *os.File, target string) (*tarBundle, error) {
	b := &tarBundle{file: f, target: target, w: tar.NewWriter(f), there: map[digest.Digest]bool{}}
	if err := b.add(v1.ImageLayoutFile, int64(len(layoutFile)), func() error { _, err := b.w.Write(layoutFile); return err }); err != nil {
		b.drop()
		return nil, err
	}
	return b, nil
}

func (b *tarBundle) add(name string, size int64, write func() error) error {
	if err := b.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatPAX}); err != nil {
		return err
	}
	return write()
}

func (b *tarBundle) has(d digest.Digest, _ int64) bool { return b.there[d] }

func (b *tarBundle) put(d digest.Digest, size int64, content io.Reader) error {
	b.there[d] = true
	return b.add(blobName(d), size, func() error { return copyVerified(b.w, d, size, content) })
}

func (b *tarBundle) index() (v1.Index, error) { return v1.Index{}, nil }

func (b *tarBundle) finish(index v1.Index) error {
	raw, err := encodeIndex(index)
	if err != nil {
		return err
	}
	err = b.add(v1.ImageIndexFile, int64(len(raw)), func() error { _, err := b.w.Write(raw); return err })
	if err := errors.Join(err, b.w.Close(), b.file.Chmod(0o644), b.file.Close()); err != nil {
		os.Remove(b.file.Name())
		return err
	}
	return os.Rename(b.file.Name(), b.target)
}

func (b *tarBundle) drop() {
	b.file.Close()
	os.Remove(b.file.Name())
}

// bundleReader reads an OCI image layout.
type bundleReader struct {
	index v1.Index
	open  func(d digest.Digest) (io.ReaderAt, io.Closer, int64, error)
	close func() error
}

// errNoBlob: the layout lacks a blob.
var errNoBlob = errors.New("is not in the layout")

// readBundle opens a layout: a directory, or a tar of one, which is looked through once.
func readBundle(source string) (*bundleReader, error) {
	info, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		raw, err := os.ReadFile(filepath.Join(source, v1.ImageIndexFile))
		if err != nil {
			return nil, fmt.Errorf("%s is no OCI layout: %w", source, err)
		}
		b := &bundleReader{close: func() error { return nil }}
		b.open = func(d digest.Digest) (io.ReaderAt, io.Closer, int64, error) {
			f, err := os.Open(filepath.Join(source, blobName(d)))
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil, 0, fmt.Errorf("%s %w", d, errNoBlob)
			}
			if err != nil {
				return nil, nil, 0, err
			}
			info, err := f.Stat()
			if err != nil {
				f.Close()
				return nil, nil, 0, err
			}
			return f, f, info.Size(), nil
		}
		return b, b.decode(source, raw)
	}
	f, err := os.Open(source)
	if err != nil {
		return nil, err
	}
	b := &bundleReader{close: f.Close}
	raw, places, err := lookThrough(f)
	if err == nil && raw == nil {
		err = errors.New("no index.json in it")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is no tar of an OCI layout: %w", source, err)
	}
	b.open = func(d digest.Digest) (io.ReaderAt, io.Closer, int64, error) {
		p, ok := places[blobName(d)]
		if !ok {
			return nil, nil, 0, fmt.Errorf("%s %w", d, errNoBlob)
		}
		return io.NewSectionReader(f, p.offset, p.size), io.NopCloser(nil), p.size, nil
	}
	if err := b.decode(source, raw); err != nil {
		f.Close()
		return nil, err
	}
	return b, nil
}

func (b *bundleReader) decode(source string, raw []byte) error {
	if err := json.Unmarshal(raw, &b.index); err != nil {
		return fmt.Errorf("%s: %s: %w", source, v1.ImageIndexFile, err)
	}
	return nil
}

// lookThrough finds the files of a tar by name, and reads its index.
func lookThrough(f *os.File) (index []byte, places map[string]place, err error) {
	places = map[string]place{}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return index, places, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		name := path.Clean(h.Name)
		if name == v1.ImageIndexFile {
			var b bytes.Buffer
			if n, err := io.Copy(&b, io.LimitReader(r, maxIndex+1)); err != nil || n > maxIndex {
				return nil, nil, errors.Join(err, fmt.Errorf("%s: %d bytes", name, n))
			}
			index = b.Bytes()
			continue
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, nil, err
		}
		places[name] = place{offset: at, size: h.Size}
	}
}

// read reads a whole blob of at most most bytes and verifies it.
func (b *bundleReader) read(d digest.Digest, most int64) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("digest %.100q: %w", string(d), err)
	}
	content, closer, size, err := b.open(d)
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	if size > most {
		return nil, fmt.Errorf("%s has %d bytes: at most %d are read here", d, size, most)
	}
	var buffer bytes.Buffer
	err = copyVerified(&buffer, d, size, io.NewSectionReader(content, 0, size))
	return buffer.Bytes(), err
}
