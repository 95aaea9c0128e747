package recipe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

// ChunkSize is the size in bytes of the pieces that context files are cut into; the last one of a file may be smaller.
const ChunkSize = 4 << 20

// Bounds of a context.
const (
	MaxContextFiles = 200_000
	MaxContextBytes = 64 << 30
	MaxManifest     = 64 << 20 // bytes of an encoded Context or Tree: what fits into one piece
	MaxPath         = 4096     // bytes
	maxName         = 255      // bytes of one component: what Linux's file systems take
	maxComponents   = 128      // of a path
	maxElement      = 2 << 20  // bytes of one encoded entry: the largest file has 16384 chunks
)

// Context is the manifest of the context directory: what a client posts before it sends any content.
// Files are sorted by path (bytewise), slash-separated, relative and clean. Directories need not be listed unless they
// are empty.
type Context struct {
	Files []ContextFile `json:"files"`
}

// ContextFile is one file, directory or symbolic link of the context.
type ContextFile struct {
	Path   string          `json:"path"`
	Dir    bool            `json:"dir,omitempty"`
	Exec   bool            `json:"exec,omitempty"` // any execute bit
	Size   int64           `json:"size,omitempty"`
	Chunks []digest.Digest `json:"chunks,omitempty"` // of ChunkSize each but the last
	Link   string          `json:"link,omitempty"`   // target of a symbolic link
}

// Encode returns the canonical encoding: compact JSON.
func (c *Context) Encode() []byte { return encode(c) }

// DecodeContext reads an encoded Context and validates it.
func DecodeContext(raw []byte) (*Context, error) {
	files, err := decodeList[ContextFile](raw, "files", MaxContextFiles)
	if err != nil {
		return nil, fmt.Errorf("context: %w", err)
	}
	c := &Context{Files: files}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// Validate checks a context that came from outside. The error names the file.
func (c *Context) Validate() error {
	if len(c.Files) > MaxContextFiles {
		return fmt.Errorf("context: %d files: more than %d; leave some out with %s", len(c.Files), MaxContextFiles, IgnoreFile)
	}
	isDir := make(map[string]bool, len(c.Files)) // every path so far that was given or is implied
	var total int64
	for i, f := range c.Files {
		if err := f.validate(); err != nil {
			return fmt.Errorf("context: %q: %w", clip(f.Path), err)
		}
		if i > 0 && c.Files[i-1].Path >= f.Path {
			return fmt.Errorf("context: %q comes after %q: want each path once, sorted bytewise", clip(f.Path), clip(c.Files[i-1].Path))
		}
		isDir[f.Path] = f.Dir
		total += f.Size // both at most MaxContextBytes: no overflow
		if total > MaxContextBytes {
			return fmt.Errorf("context: more than %d bytes, up to %q; leave files out with %s", int64(MaxContextBytes), clip(f.Path), IgnoreFile)
		}
	}
	for _, f := range c.Files {
		for parent := range parents(f.Path) {
			dir, known := isDir[parent]
			if known && !dir {
				return fmt.Errorf("context: %q: %q is no directory", clip(f.Path), clip(parent))
			}
			if known {
				break // its own parents have been looked at, or will be in its own turn
			}
			isDir[parent] = true
		}
	}
	return nil
}

func (f *ContextFile) validate() error {
	if err := validatePath(f.Path); err != nil {
		return err
	}
	switch {
	case f.Dir && f.Link != "":
		return errors.New("is both a directory and a link")
	case (f.Dir || f.Link != "") && (f.Exec || f.Size != 0 || len(f.Chunks) > 0):
		return errors.New("only a file has exec, size and chunks")
	case f.Link != "":
		return validateLink(f.Link)
	}
	return validateContent(f.Size, f.Chunks)
}

// validatePath checks a path of a manifest: relative, clean, and of a kind that a file system takes.
func validatePath(p string) error {
	switch {
	case p == "" || p == "." || p == ".." || strings.HasPrefix(p, "/") || strings.HasPrefix(p, "../") || path.Clean(p) != p:
		return errors.New("want a clean relative path, without . and ..")
	case len(p) > MaxPath:
		return fmt.Errorf("path is longer than %d bytes", MaxPath)
	case !utf8.ValidString(p):
		return errors.New("path is not UTF-8: rename the file") // JSON would change it silently
	case strings.ContainsRune(p, 0):
		return errors.New("path has a zero byte")
	}
	if strings.Count(p, "/") >= maxComponents {
		return fmt.Errorf("path has more than %d components", maxComponents)
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > maxName {
			return fmt.Errorf("%q is longer than %d bytes", clip(name), maxName)
		}
	}
	return nil
}

func validateLink(target string) error {
	if target == "" || len(target) > MaxPath || !utf8.ValidString(target) || strings.ContainsRune(target, 0) {
		return fmt.Errorf("link target: want 1 to %d bytes of UTF-8 without a zero byte", MaxPath)
	}
	return nil
}

func validateContent(size int64, chunks []digest.Digest) error {
	if size < 0 || size > MaxContextBytes {
		return fmt.Errorf("size %d: want 0 to %d", size, int64(MaxContextBytes))
	}
	if want := (size + ChunkSize - 1) / ChunkSize; int64(len(chunks)) != want {
		return fmt.Errorf("%d chunks for %d bytes: want %d, of %d bytes each but the last", len(chunks), size, want, ChunkSize)
	}
	for i, c := range chunks {
		if !isSHA256(c) {
			return fmt.Errorf("chunk %d: %q is no sha256 digest", i, clip(c.String()))
		}
	}
	return nil
}

// isSHA256 is what digest.Validate says of a sha256, of which a large context has hundreds of thousands.
func isSHA256(d digest.Digest) bool {
	hex, ok := strings.CutPrefix(string(d), "sha256:")
	if !ok || len(hex) != 64 {
		return false
	}
	for _, c := range []byte(hex) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// parents yields the directories above p, the nearest first.
func parents(p string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := strings.LastIndexByte(p, '/'); i > 0; i = strings.LastIndexByte(p[:i], '/') {
			if !yield(p[:i]) {
				return
			}
		}
	}
}

func encode(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("recipe: a manifest always encodes: " + err.Error())
	}
	return raw
}

// decodeList reads {"key": [elements]} and nothing else. An element costs memory only after its count and length are
// known to be sane: 64 MiB of "{}" would be gigabytes of entries.
func decodeList[T any](raw []byte, key string, most int) ([]T, error) {
	if len(raw) > MaxManifest {
		return nil, fmt.Errorf("%d bytes: more than %d", len(raw), MaxManifest)
	}
	count, longest, at := measureList(raw)
	if longest > maxElement {
		return nil, fmt.Errorf("%s[%d]: %d bytes: more than %d", key, at, longest, maxElement)
	}
	if count > most {
		return nil, fmt.Errorf("more than %d %s", most, key)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	for _, want := range []json.Token{json.Delim('{'), key, json.Delim('[')} {
		if got, err := d.Token(); err != nil || got != want {
			return nil, fmt.Errorf("is not of the form {%q: […]}", key)
		}
	}
	list := make([]T, 0, count)
	for d.More() {
		list = append(list, *new(T))
		if err := d.Decode(&list[len(list)-1]); err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", key, len(list)-1, err)
		}
	}
	for _, want := range []json.Token{json.Delim(']'), json.Delim('}')} {
		if got, err := d.Token(); err != nil || got != want {
			return nil, fmt.Errorf("is not of the form {%q: […]}", key)
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON value")
	}
	return list, nil
}

// measureList counts the elements of {"key": [elements]}, measures the longest, in bytes, and says which it is. What else it
// is, and whether it is JSON, is for a decoder to say: of what one takes for such a list, the numbers are right.
func measureList(raw []byte) (count, longest, at int) {
	const inList = 2 // depth
	depth, start := 0, 0
	element := func(end int) {
		if n := end - start; n > longest {
			longest, at = n, count
		}
		count++
	}
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			for i++; i < len(raw) && raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			if depth++; depth == inList {
				start = i + 1
			}
		case '}', ']':
			if depth == inList && len(bytes.TrimSpace(raw[start:i])) > 0 {
				element(i)
			}
			depth--
		case ',':
			if depth == inList {
				element(i)
				start = i + 1
			}
		}
	}
	return count, longest, at
}
