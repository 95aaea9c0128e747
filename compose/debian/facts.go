package debian

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"bakefarm/compose/deb"
	"bakefarm/compose/ldcache"
)

// Facts are what Configure wants to know of a package beside its record. They depend on the member alone.
type Facts struct {
	texts     map[string]text    // by path in the layer
	libraries map[string]library // files and links with a library's name
	size      int
	text      int // bytes of texts that were read
}

// Size is about how much memory the facts take, in bytes.
func (f *Facts) Size() int { return f.size + 256 }

// text is a file that is read whole.
type text struct {
	data []byte
	date int64 // Unix seconds
}

// library is a file with a library's name or, with a target, a link.
type library struct {
	target string
	ldcache.Library
}

// Bounds of what is read of one package, in bytes.
const (
	maxText  = 4 << 20
	maxTexts = 64 << 20
)

// texts are the files and directories that are read whole.
var texts = []string{
	"etc/ld.so.conf", "etc/ld.so.conf.d/",
	"usr/share/base-files/",
	"usr/share/base-passwd/",
	"usr/share/ca-certificates/",
	"usr/share/debianutils/",
	"usr/share/libc-bin/",
	"usr/share/pam/", "usr/share/pam-configs/",
	"usr/share/readline/inputrc",
}

func isText(p string) bool {
	for _, t := range texts {
		if p == t || strings.HasSuffix(t, "/") && strings.HasPrefix(p, t) {
			return true
		}
	}
	return false
}

// Wanted reports whether the package's member has anything to Gather; else its facts are the zero value.
func Wanted(r *deb.Record) bool {
	for _, p := range r.Inventory.Paths {
		if isText(p) || ldcache.IsLibrary(path.Base(p)) {
			return true
		}
	}
	return false
}

// Gather reads the facts out of a package's member, which is uncompressed tar entries without the blocks that end a tar.
func Gather(member io.Reader) (*Facts, error) {
	f := NewFacts()
	for r := tar.NewReader(member); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			return nil, err
		}
		if err := f.Take(h, r); err != nil {
			return nil, err
		}
	}
}

// NewFacts makes facts of nothing, to Take entries.
func NewFacts() *Facts { return &Facts{texts: map[string]text{}, libraries: map[string]library{}} }

// Take takes in what an entry has to say, if anything. Its name is the path in the layer.
func (f *Facts) Take(h *tar.Header, content io.Reader) error {
	switch {
	case isText(h.Name) && h.Typeflag == tar.TypeReg:
		if f.text += int(min(h.Size, maxTexts)); h.Size > maxText || f.text > maxTexts {
			return fmt.Errorf("%s: %d bytes: such files have at most %d, and %d together", h.Name, h.Size, maxText, maxTexts)
		}
		data, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		f.texts[h.Name] = text{data, h.ModTime.Unix()}
		f.size += len(data) + len(h.Name) + 64
	case ldcache.IsLibrary(path.Base(h.Name)):
		return f.library(h, content)
	}
	return nil
}

// Drop forgets what was taken under a path: another entry has its place, or none.
func (f *Facts) Drop(p string) {
	delete(f.texts, p)
	delete(f.libraries, p)
}

// The form in which facts are kept.
type (
	keptFacts struct {
		Texts     map[string]keptText    `json:"texts,omitempty"`
		Libraries map[string]keptLibrary `json:"libraries,omitempty"`
	}
	keptText struct {
		Data []byte `json:"data"`
		Date int64  `json:"date"`
	}
	keptLibrary struct {
		Target  string `json:"target,omitempty"`
		Soname  string `json:"soname,omitempty"`
		Class   byte   `json:"class,omitempty"`
		Machine uint16 `json:"machine,omitempty"`
	}
)

// MarshalJSON encodes the facts: equal facts have equal encodings.
func (f *Facts) MarshalJSON() ([]byte, error) {
	k := keptFacts{Texts: make(map[string]keptText, len(f.texts)), Libraries: make(map[string]keptLibrary, len(f.libraries))}
	for p, t := range f.texts {
		k.Texts[p] = keptText{t.data, t.date}
	}
	for p, l := range f.libraries {
		k.Libraries[p] = keptLibrary{l.target, l.Soname, l.Class, l.Machine}
	}
	return json.Marshal(k)
}

// UnmarshalJSON decodes what MarshalJSON made.
func (f *Facts) UnmarshalJSON(raw []byte) error {
	var k keptFacts
	if err := json.Unmarshal(raw, &k); err != nil {
		return err
	}
	*f = *NewFacts()
	for p, t := range k.Texts {
		f.texts[p] = text{t.Data, t.Date}
		f.size += len(t.Data) + len(p) + 64
	}
	for p, l := range k.Libraries {
		f.libraries[p] = library{l.Target, ldcache.Library{Soname: l.Soname, ABI: ldcache.ABI{Class: l.Class, Machine: l.Machine}}}
		f.size += len(p) + len(l.Target) + len(l.Soname) + 96
	}
	return nil
}

// library takes an entry with a library's name.
func (f *Facts) library(h *tar.Header, content io.Reader) error {
	var l library
	switch h.Typeflag {
	case tar.TypeSymlink:
		l.target = h.Linkname
	case tar.TypeLink:
		first, ok := f.libraries[h.Linkname]
		if !ok {
			return nil // of something that is none
		}
		l = first
	case tar.TypeReg:
		var ok bool
		var err error
		if l.Library, ok, err = ldcache.Inspect(content, h.Size); err != nil || !ok {
			return err
		}
	default:
		return nil
	}
	f.libraries[h.Name] = l
	f.size += len(h.Name) + len(l.target) + len(l.Soname) + 96
	return nil
}
