package rootfs

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"bakefarm/compose"
	"bakefarm/compose/deb"
	"bakefarm/compose/debian"

	"github.com/klauspost/compress/gzip"
)

const dpkg = "var/lib/dpkg"

// Record is what is known of a file system. It is one piece in the store.
type Record struct {
	Dirs  []compose.Entry   `json:"dirs"`            // every directory, sorted by path
	Links map[string]string `json:"links,omitempty"` // symbolic links and their targets
	Files []string          `json:"files,omitempty"` // everything else, sorted by path

	// Of dpkg's database.
	Installed []Package         `json:"installed,omitempty"` // sorted by name, then architecture
	Parted    bool              `json:"parted,omitempty"`    // it is in files of its own (status.d), as distroless images have it
	Lists     map[string]string `json:"lists,omitempty"`     // files of packages as the database lists them: by name, with ":ARCH" where it has that
	Triggers  map[string]string `json:"triggers,omitempty"`  // files of its directory triggers

	Release map[string]string `json:"release,omitempty"` // os-release(5)
	Facts   *debian.Facts     `json:"facts,omitempty"`

	index *index
}

// Package is an installed package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	Status  string `json:"status"` // its paragraph
}

// index finds what a record has by path.
type index struct {
	dirs  map[string]*compose.Entry
	files map[string]bool
}

// Record says what the layers have come to.
func (b *Builder) Record() (*Record, error) {
	r := &Record{Links: map[string]string{}, Lists: map[string]string{}, Triggers: map[string]string{}, Release: map[string]string{}, Facts: b.facts}
	var status []byte
	var parts [][]byte
	b.each(func(name string, n *node) {
		switch n.kind {
		case tar.TypeDir:
			e := n.dir
			e.Path = name
			r.Dirs = append(r.Dirs, e)
			return
		case tar.TypeSymlink:
			r.Links[name] = n.link
			return
		}
		r.Files = append(r.Files, name)
		dir, base := path.Split(name)
		switch {
		case name == dpkg+"/status":
			status = n.data
		case dir == dpkg+"/status.d/" && n.data != nil:
			parts = append(parts, n.data)
		case dir == dpkg+"/info/" && strings.HasSuffix(base, ".list"):
			r.Lists[strings.TrimSuffix(base, ".list")] = string(n.data)
		case dir == dpkg+"/triggers/" && n.data != nil:
			r.Triggers[base] = string(n.data)
		}
	})
	for _, file := range []string{"usr/lib/os-release", "etc/os-release"} {
		if n := b.find(file); n != nil && len(n.data) > 0 {
			r.Release = release(n.data)
		}
	}
	r.Parted = len(status) == 0 && len(parts) > 0
	if err := r.packages(status, parts); err != nil {
		return nil, err
	}
	return r, nil
}

// packages reads dpkg's status file, or the files that stand for it.
func (r *Record) packages(status []byte, parts [][]byte) error {
	for paragraph := range bytes.SplitSeq(status, []byte("\n\n")) {
		p, state, err := readPackage(paragraph)
		if err != nil {
			return err
		}
		if p.Name != "" && strings.HasSuffix(state, " ok installed") {
			r.Installed = append(r.Installed, p)
		}
	}
	if r.Parted {
		for _, paragraph := range parts {
			p, _, err := readPackage(paragraph)
			if err != nil {
				return err
			}
			if p.Name != "" {
				r.Installed = append(r.Installed, p)
			}
		}
	}
	slices.SortStableFunc(r.Installed, func(a, b Package) int {
		return compareTwo(a.Name, b.Name, a.Arch, b.Arch)
	})
	r.Installed = slices.CompactFunc(r.Installed, func(a, b Package) bool { return a.Name == b.Name && a.Arch == b.Arch })
	return nil
}

func compareTwo(a, b, thenA, thenB string) int {
	if c := strings.Compare(a, b); c != 0 {
		return c
	}
	return strings.Compare(thenA, thenB)
}

func readPackage(paragraph []byte) (p Package, state string, err error) {
	paragraph = bytes.Trim(paragraph, "\n")
	if len(paragraph) == 0 {
		return p, "", nil
	}
	fields, err := deb.ParseParagraph(append(slices.Clip(paragraph), '\n'))
	if err != nil {
		return p, "", fmt.Errorf("its package database can't be read: %w", err)
	}
	for _, f := range fields {
		switch {
		case strings.EqualFold(f.Name, "Package"):
			p.Name = f.Value
		case strings.EqualFold(f.Name, "Version"):
			p.Version = f.Value
		case strings.EqualFold(f.Name, "Architecture"):
			p.Arch = f.Value
		case strings.EqualFold(f.Name, "Status"):
			state = f.Value
		}
	}
	if p.Name == "" || p.Version == "" {
		return Package{}, "", nil
	}
	p.Status = string(paragraph) + "\n"
	return p, state, nil
}

// release reads os-release(5), as far as it is plain.
func release(text []byte) map[string]string {
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(name, "#") || len(values) >= 100 {
			continue
		}
		if value = strings.Trim(value, `"'`); len(value) <= 200 && !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			values[name] = value
		}
	}
	return values
}

// System names the system for people; empty when it does not say.
func (r *Record) System() string {
	if name := r.Release["PRETTY_NAME"]; name != "" {
		return name
	}
	return strings.TrimSpace(r.Release["ID"] + " " + r.Release["VERSION_ID"])
}

// suites are Debian's by version, for systems that do not name theirs.
var suites = map[string]string{"10": "buster", "11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"}

// Codename is the suite of Debian that the system says it is of; empty when it does not.
func (r *Record) Codename() string {
	if name := r.Release["VERSION_CODENAME"]; name != "" {
		return name
	}
	_, name, ok := strings.Cut(r.Release["VERSION"], "(") // "12 (bookworm)"
	if name, _, closed := strings.Cut(name, ")"); ok && closed && !strings.Contains(name, " ") {
		return strings.ToLower(name)
	}
	if r.Release["ID"] == "debian" {
		return suites[r.Release["VERSION_ID"]]
	}
	return ""
}

// aliases are the directories that are links into /usr on a merged-/usr system.
var aliases = []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"}

// Merged lists the directories at the top that are links into /usr, sorted.
func (r *Record) Merged() []string {
	var merged []string
	for _, dir := range aliases {
		if target := strings.TrimPrefix(r.Links[dir], "/"); strings.TrimSuffix(target, "/") == "usr/"+dir {
			merged = append(merged, dir)
		}
	}
	return merged
}

// Status is the paragraphs of the installed packages, as dpkg's status file has them.
func (r *Record) Status() []byte {
	var text bytes.Buffer
	for _, p := range r.Installed {
		text.WriteString(p.Status + "\n")
	}
	return text.Bytes()
}

// Dir returns the directory at a path; nil when there is none.
func (r *Record) Dir(p string) *compose.Entry { return r.byPath().dirs[p] }

// Has reports whether there is anything at a path but a directory.
func (r *Record) Has(p string) bool {
	_, link := r.Links[p]
	return link || r.byPath().files[p]
}

func (r *Record) byPath() *index {
	if r.index == nil {
		r.index = &index{make(map[string]*compose.Entry, len(r.Dirs)), make(map[string]bool, len(r.Files))}
		for i := range r.Dirs {
			r.index.dirs[r.Dirs[i].Path] = &r.Dirs[i]
		}
		for _, f := range r.Files {
			r.index.files[f] = true
		}
	}
	return r.index
}

// Through is the first directory on the way to a path that is none: a link, or a file. Empty: all are directories, or not
// there.
func (r *Record) Through(p string) string {
	first := ""
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if r.Has(dir) {
			first = dir
		}
	}
	return first
}

// Bounds of an encoded record, in bytes.
const (
	MaxRecord         = 64 << 20
	maxRecordUnpacked = 512 << 20
)

// Encode encodes the record: JSON in one gzip member. Equal records have equal encodings.
func (r *Record) Encode() ([]byte, error) {
	var text, out bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, err
	}
	if text.Len() > maxRecordUnpacked {
		return nil, fmt.Errorf("what is known of the file system takes %d bytes: at most %d are allowed", text.Len(), maxRecordUnpacked)
	}
	if err := compose.Compress(&out, &text); err != nil {
		return nil, err
	}
	if out.Len() > MaxRecord {
		return nil, fmt.Errorf("what is known of the file system takes %d bytes compressed: at most %d are allowed", out.Len(), MaxRecord)
	}
	return out.Bytes(), nil
}

// DecodeRecord decodes what Encode made, and checks that it is safe to make paths of.
func DecodeRecord(data []byte) (*Record, error) {
	if len(data) > MaxRecord {
		return nil, fmt.Errorf("record: %d bytes: more than %d", len(data), MaxRecord)
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	r := &Record{}
	dec := json.NewDecoder(io.LimitReader(z, maxRecordUnpacked))
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("record: more follows its end")
	}
	for _, d := range r.Dirs {
		if err := d.Validate(); err != nil || d.Type != tar.TypeDir {
			return nil, fmt.Errorf("record: directory %.200q: %w", d.Path, errors.Join(err, errors.New("is none")))
		}
	}
	if r.Facts == nil {
		r.Facts = debian.NewFacts()
	}
	r.byPath()
	return r, nil
}
