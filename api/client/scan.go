package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Scan is a context directory as it was read: its manifest, and where the chunks lie.
type Scan struct {
	Context *recipe.Context
	Bytes   int64 // of all files

	root   *os.Root
	chunks map[digest.Digest]place
}

// place is where a chunk lies in the context directory.
type place struct {
	file   string
	offset int64
	size   int64
}

// ScanContext reads the parts of a context directory that the recipe copies, or stands on: their files, directories and symbolic
// links, without what .bakeignore leaves out. Links are kept as they are and never followed out of the directory.
// Every file is hashed, several at a time. The caller closes the Scan.
func ScanContext(ctx context.Context, dir string, items []recipe.AppItem, base *recipe.Base) (*Scan, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("context directory: %w", err)
	}
	s := &Scan{Context: &recipe.Context{}, root: root, chunks: make(map[digest.Digest]place)}
	if err := s.scan(ctx, items, base); err != nil {
		root.Close()
		return nil, err
	}
	return s, nil
}

// Close releases the directory.
func (s *Scan) Close() error { return s.root.Close() }

func (s *Scan) scan(ctx context.Context, items []recipe.AppItem, base *recipe.Base) error {
	ignore, err := s.ignoreFile()
	if err != nil {
		return err
	}
	found := make(map[string]recipe.ContextFile)
	for i, item := range items {
		source, field := item.Copy, "copy"
		if item.Package != "" {
			source, field = item.Package, "package"
		}
		if err := s.walk(source, ignore, found); err != nil {
			return fmt.Errorf("app[%d].%s: %w", i, field, err)
		}
	}
	if base != nil && base.InContext() {
		if err := s.walk(base.Path, ignore, found); err != nil {
			return fmt.Errorf("%s: %w", base.Field(), err)
		}
	}
	files := make([]recipe.ContextFile, 0, len(found))
	for _, f := range found {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b recipe.ContextFile) int { return strings.Compare(a.Path, b.Path) })
	if err := s.hash(ctx, files); err != nil {
		return err
	}
	s.Context.Files = files
	for _, f := range files {
		s.Bytes += f.Size
		for i, chunk := range f.Chunks {
			offset := int64(i) * recipe.ChunkSize
			s.chunks[chunk] = place{f.Path, offset, min(recipe.ChunkSize, f.Size-offset)}
		}
	}
	return s.Context.Validate()
}

// ignoreFile reads .bakeignore; without one nothing is ignored.
func (s *Scan) ignoreFile() (*recipe.IgnoreMatcher, error) {
	f, err := s.root.Open(recipe.IgnoreFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("context directory: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, recipe.MaxIgnore+1))
	if err != nil {
		return nil, err
	}
	return recipe.ParseIgnore(filepath.Join(s.root.Name(), recipe.IgnoreFile), text)
}

// walk adds what stands at and below source, a clean slash-separated path, to found.
func (s *Scan) walk(source string, ignore *recipe.IgnoreMatcher, found map[string]recipe.ContextFile) error {
	return fs.WalkDir(s.root.FS(), source, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && name == source {
				return fmt.Errorf("%q is not in the context directory %s", "./"+source, s.root.Name())
			}
			return err
		}
		if name == "." {
			return nil
		}
		if ignore.Ignores(name, d.IsDir()) || name == recipe.IgnoreFile {
			if name == source {
				return fmt.Errorf("%q is left out by %s", "./"+source, recipe.IgnoreFile)
			}
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if len(found) >= recipe.MaxContextFiles {
			return fmt.Errorf("more than %d files; leave some out with %s", recipe.MaxContextFiles, recipe.IgnoreFile)
		}
		f, err := s.describe(name, d)
		found[name] = f
		return err
	})
}

func (s *Scan) describe(name string, d fs.DirEntry) (recipe.ContextFile, error) {
	f := recipe.ContextFile{Path: name}
	switch d.Type() {
	case 0:
		info, err := d.Info()
		if err != nil {
			return f, err
		}
		f.Size, f.Exec = info.Size(), info.Mode()&0o111 != 0
	case fs.ModeDir:
		f.Dir = true
	case fs.ModeSymlink:
		target, err := s.root.Readlink(name)
		if err != nil {
			return f, err
		}
		f.Link = target
	default:
		return f, fmt.Errorf("%s is no file, directory or symbolic link (%s): leave it out with %s", name, d.Type(), recipe.IgnoreFile)
	}
	return f, nil
}

// hash fills in the chunks of every file.
func (s *Scan) hash(ctx context.Context, files []recipe.ContextFile) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range files {
		f := &files[i]
		if f.Size == 0 {
			continue
		}
		f.Chunks = make([]digest.Digest, (f.Size+recipe.ChunkSize-1)/recipe.ChunkSize)
		for n := range f.Chunks {
			group.Go(func() error {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				offset := int64(n) * recipe.ChunkSize
				raw, err := s.readAt(place{f.Path, offset, min(recipe.ChunkSize, f.Size-offset)})
				f.Chunks[n] = digest.FromBytes(raw)
				return err
			})
		}
	}
	return group.Wait()
}

// read returns the bytes at a place. A file that has become shorter is an error, as is one that has become something
// else.
func (s *Scan) readAt(p place) ([]byte, error) {
	f, err := s.root.Open(p.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw := make([]byte, p.size)
	if _, err := f.ReadAt(raw, p.offset); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s has changed while it was read", path.Join(s.root.Name(), p.file))
		}
		return nil, err
	}
	return raw, nil
}

var _ chunkSource = (*Scan)(nil)

func (s *Scan) size(d digest.Digest) int64 { return s.chunks[d].size }
func (s *Scan) large() bool                { return false }

func (s *Scan) read(d digest.Digest) ([]byte, error) {
	p, ok := s.chunks[d]
	if !ok {
		return nil, fmt.Errorf("the farm asks for chunk %s, which is not in the context", d)
	}
	return s.readAt(p)
}

func (s *Scan) verified(d digest.Digest) ([]byte, error) {
	raw, err := s.read(d)
	if err == nil && digest.FromBytes(raw) != d {
		return nil, fmt.Errorf("%s has changed while it was sent: bake again", path.Join(s.root.Name(), s.chunks[d].file))
	}
	return raw, err
}
