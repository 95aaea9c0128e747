package deb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"bakefarm/compose"

	"github.com/klauspost/compress/gzip"
)

// Record is what is known of a converted package beside its member: enough to make the directories and dpkg's database
// of any set that has it. It is one piece in the store.
type Record struct {
	Package      string `json:"package"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	MultiArch    string `json:"multiArch,omitempty"`
	Date         int64  `json:"date"` // Unix seconds, the package's own

	Control   []byte            `json:"control"`             // the control file: one deb822 paragraph, as it stands
	Files     []ControlFile     `json:"files,omitempty"`     // the other control files, sorted by name
	List      []string          `json:"list"`                // dpkg's file list: absolute, in data.tar's order, not merged
	Conffiles []Conffile        `json:"conffiles,omitempty"` // that the package has, in the order of its conffiles file
	Aliases   []string          `json:"aliases,omitempty"`   // merged-/usr links that its paths go through, sorted
	Inventory compose.Inventory `json:"inventory"`
}

// Conffile is a configuration file and the MD5 hash, in hex, of the content that it has in the package.
type Conffile struct {
	Path string `json:"path"` // absolute
	MD5  string `json:"md5"`
}

// Bounds of an encoded record, in bytes: as it is kept, and as it unpacks.
const (
	MaxRecord         = 64 << 20
	maxRecordUnpacked = 512 << 20
)

// Encode encodes the record: JSON without blanks, its keys in the order of the struct, in one gzip member. Equal
// records have equal encodings.
func (r *Record) Encode() ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	var text, out bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, err
	}
	if text.Len() > maxRecordUnpacked {
		return nil, fmt.Errorf("record of %s: %w: %d bytes, the limit is %d", r.Package, ErrLimit, text.Len(), maxRecordUnpacked)
	}
	if err := compose.Compress(&out, &text); err != nil {
		return nil, err
	}
	if out.Len() > MaxRecord {
		return nil, fmt.Errorf("record of %s: %w: %d bytes compressed, the limit is %d", r.Package, ErrLimit, out.Len(), MaxRecord)
	}
	return out.Bytes(), nil
}

// DecodeRecord decodes what Encode made, and checks it: what it returns is safe to make paths and files of.
func DecodeRecord(data []byte) (*Record, error) {
	if len(data) > MaxRecord {
		return nil, fmt.Errorf("record: %w: %d bytes, the limit is %d", ErrLimit, len(data), MaxRecord)
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("record: %w", noEOF(err))
	}
	dec := json.NewDecoder(bound(z, maxRecordUnpacked))
	r := new(Record)
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("record: %w", noEOF(err))
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("record: more follows its end")
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return r, nil
}

var md5Hex = regexp.MustCompile(`^[0-9a-f]{32}$`)

func (r *Record) validate() error {
	switch {
	case !packageName.MatchString(r.Package):
		return fmt.Errorf("package name %.100q: want lower-case letters, digits and + - .", r.Package)
	case !packageVersion.MatchString(r.Version):
		return fmt.Errorf("%s: version %.100q", r.Package, r.Version)
	case !architecture.MatchString(r.Architecture):
		return fmt.Errorf("%s: architecture %.100q", r.Package, r.Architecture)
	case !slices.Contains([]string{"", "no", "same", "foreign", "allowed"}, r.MultiArch):
		return fmt.Errorf("%s: Multi-Arch %.100q: want no, same, foreign or allowed", r.Package, r.MultiArch)
	case r.Date < 0:
		return fmt.Errorf("%s: date %d: want 0 or more", r.Package, r.Date)
	}
	if err := r.validateControl(); err != nil {
		return fmt.Errorf("%s: %w", r.Package, err)
	}
	if err := r.validatePaths(); err != nil {
		return fmt.Errorf("%s: %w", r.Package, err)
	}
	return nil
}

func (r *Record) validateControl() error {
	fields, err := ParseParagraph(r.Control)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	for name, want := range map[string]string{"Package": r.Package, "Version": r.Version, "Architecture": r.Architecture, "Multi-Arch": r.MultiArch} {
		if got := get(fields, name); got != want {
			return fmt.Errorf("control: field %s is %.100q, want %q", name, got, want)
		}
	}
	for i, f := range r.Files {
		if !controlFileName.MatchString(f.Name) || f.Name == "control" || f.Name == "list" {
			return fmt.Errorf("control file %.100q: dpkg has none of that name", f.Name)
		}
		if i > 0 && f.Name <= r.Files[i-1].Name {
			return fmt.Errorf("control file %s: is not in order", f.Name)
		}
	}
	for _, c := range r.Conffiles {
		if !validAbsolute(c.Path) || !md5Hex.MatchString(c.MD5) {
			return fmt.Errorf("conffile %.100q %.100q: want an absolute path and an MD5 hash", c.Path, c.MD5)
		}
	}
	return nil
}

func (r *Record) validatePaths() error {
	for _, p := range r.List {
		if p != "/." && !validAbsolute(p) {
			return fmt.Errorf("file list: path %.100q", p)
		}
	}
	for i, a := range r.Aliases {
		if !slices.Contains(aliases, a) || i > 0 && a <= r.Aliases[i-1] {
			return fmt.Errorf("merged-/usr link %.100q", a)
		}
	}
	for i, d := range r.Inventory.Dirs {
		if err := d.Validate(); err != nil {
			return err
		}
		if i > 0 && d.Path <= r.Inventory.Dirs[i-1].Path {
			return fmt.Errorf("directory %s: is not in order", d.Path)
		}
	}
	for _, p := range r.Inventory.Paths {
		if err := compose.ValidatePath(p); err != nil {
			return err
		}
	}
	return nil
}

func validAbsolute(p string) bool {
	return strings.HasPrefix(p, "/") && path.Clean(p) == p && compose.ValidatePath(p[1:]) == nil
}
