package registry

import (
	"strings"
	"testing"

	"bakefarm/farm"
)

func FuzzRange(f *testing.F) {
	for _, header := range []string{"", "bytes=0-", "bytes=-5", "bytes=3-9", "bytes=9-3", "bytes=0-1,4-5", "bytes=99999999999999999999-"} {
		f.Add(header, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		s, partial, err := parseRange(header, size)
		if err != nil {
			return
		}
		if s.offset < 0 || s.length < 0 || s.offset > size-s.length || partial && s.length == 0 || !partial && s != (span{0, size}) {
			t.Errorf("Range %q of %d bytes: %+v, partial %v", header, size, s, partial)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, path := range []string{"/v2/", "/v2", "/v2/a/b/manifests/c", "/v2/a/tags/list", "/v2/manifests/manifests/manifests", "/v2/../blobs/x"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		p, ok := parse(path)
		if !ok {
			return
		}
		if strings.Contains(p.ref, "/") {
			t.Errorf("%q: reference %q", path, p.ref)
		}
		if p.repo == "" || farm.ValidateName(p.repo) != nil {
			return
		}
		if whole := "/v2/" + p.repo + "/" + p.kind + "/" + p.ref; (p.kind == "manifests" || p.kind == "blobs" || p.kind == "referrers") && whole != path {
			t.Errorf("%q: %+v", path, p)
		}
	})
}
