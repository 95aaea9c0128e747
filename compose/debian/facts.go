package debian

import (
	"archive/tar"
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
	f := &Facts{texts: map[string]text{}, libraries: map[string]library{}}
	total := 0
	for r := tar.NewReader(member); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			return nil, err
		}
		switch {
		case isText(h.Name) && h.Typeflag == tar.TypeReg:
			if total += int(min(h.Size, maxTexts)); h.Size > maxText || total > maxTexts {
				return nil, fmt.Errorf("%s: %d bytes: such files have at most %d, and %d together", h.Name, h.Size, maxText, maxTexts)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				return nil, err
			}
			f.texts[h.Name] = text{data, h.ModTime.Unix()}
			f.size += len(data) + len(h.Name) + 64
		case ldcache.IsLibrary(path.Base(h.Name)):
			if err := f.library(h, r); err != nil {
				return nil, err
			}
		}
	}
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
