package s3store_test

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"bakefarm/imagestore"
	"bakefarm/imagestore/faults"
	"bakefarm/imagestore/storetest"

	"github.com/opencontainers/go-digest"
)

func (f *s3farm) schedule(t testing.TB, text string) func(http.RoundTripper) http.RoundTripper {
	t.Helper()
	fs, err := faults.Parse(strings.ReplaceAll(text, "@", "@"+f.prefix+"/packs/"))
	if err != nil {
		t.Fatal(err)
	}
	return func(next http.RoundTripper) http.RoundTripper { return faults.New(next, fs...) }
}

// Trouble that passes is not seen at all: the whole suite passes while every store of it meets it.
func TestConformanceWithFaults(t *testing.T) {
	for name, text := range map[string]string{
		"puts fail":       "put@:1:fail=503,put@:3:break,put@:5:fail=500,put@:6:lose",
		"puts are torn":   "put@:1:tear=0,put@:2:tear=700,put@:4:tear=100000,put@:5:lose,put@:7:dup",
		"puts come twice": "put@:*:dup,put@:2:delay=20ms",
		"gets fail":       "get@:1:fail=503,get@:2:break,get@:4:lose,get@:6:fail=429,get@:7:delay=30ms",
		"gets are torn":   "get@:1:tear=0,get@:2:tear=50,get@:4:tear=70000,get@:6:dup",
		"gets are wrong":  "get@:1:corrupt=0,get@:2:corrupt=33,get@:4:corrupt=5000,get@:5:corrupt=99999",
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "puts are torn" && name != "gets are wrong" {
				t.Skip("make test meets all troubles")
			}
			t.Parallel()
			storetest.Run(t, func(t *testing.T) storetest.Storage {
				f := newS3Farm(t, true)
				f.through = f.schedule(t, text)
				st := f.storage()
				st.Objects = nil // a PUT that failed may have left one behind
				st.Small = true
				return st
			})
		})
	}
}

// Trouble that stays is an error, and nothing is to be seen of what failed; when it has gone, the same work succeeds.
func TestFaultsThatStay(t *testing.T) {
	a, b := storetest.Bytes(1, 300_000), storetest.Bytes(2, 400_000)
	content := slices.Concat(a, b, a)
	work := func(t *testing.T, s imagestore.Store) error {
		w := s.Begin()
		pa, err := w.Put(t.Context(), a)
		if err != nil {
			return err
		}
		if err := w.Commit(t.Context()); err != nil {
			return err
		}
		w = s.Begin()
		pb, err := w.Put(t.Context(), b)
		if err != nil {
			return err
		}
		if err := w.Compose(t.Context(), storetest.BlobOf(content, pa, pb, pa)); err != nil {
			return err
		}
		return w.Commit(t.Context())
	}
	d := digest.FromBytes(content)
	read := func(t *testing.T, s imagestore.Store) error {
		got, err := storetest.Read(t.Context(), s, d, 0, -1)
		if err == nil && !bytes.Equal(got, content) {
			t.Fatalf("wrong bytes without an error: %d bytes", len(got))
		}
		return err
	}
	for _, action := range []string{"fail=503", "fail=403", "break", "lose", "tear=1000", "tear=500000"} {
		t.Run("put "+action, func(t *testing.T) {
			t.Parallel()
			f := newS3Farm(t, true)
			good := f.open(t)
			f.through = f.schedule(t, "put@:*:"+action)
			bad := f.open(t)
			err := work(t, bad)
			if err == nil {
				if action != "tear=500000" { // more than there is
					t.Fatal("no error")
				}
				return
			}
			if !strings.Contains(err.Error(), f.host()) {
				t.Errorf("the error does not say where: %v", err)
			}
			have, err := good.Have(t.Context(), []digest.Digest{digest.FromBytes(a), digest.FromBytes(b), d})
			if err != nil || slices.Contains(have, true) || len(f.ledger.Keys()) != 0 {
				t.Errorf("have %v, %v; packs %q", have, err, f.ledger.Keys())
			}
			if err := work(t, good); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(read(t, good), read(t, bad)); err != nil {
				t.Error(err)
			}
		})
	}
	for _, action := range []string{"fail=503", "fail=403", "break", "lose", "tear=10", "tear=350000", "corrupt=5", "corrupt=300001"} {
		t.Run("get "+action, func(t *testing.T) {
			t.Parallel()
			f := newS3Farm(t, true)
			good := f.open(t)
			if err := work(t, good); err != nil {
				t.Fatal(err)
			}
			if err := good.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			// The index is read first, unharmed: its own troubles are the catalog's.
			index := f.index(t)
			f.through = f.schedule(t, "get@:*:"+action)
			err := read(t, f.openWith(t, index))
			if err == nil {
				t.Fatal("no error")
			}
			if strings.HasPrefix(action, "corrupt") != errors.Is(err, imagestore.ErrCorrupt) {
				t.Errorf("%v", err)
			}
			if errors.Is(err, imagestore.ErrNotFound) {
				t.Errorf("what can't be read is not missing: %v", err)
			}
			if err := read(t, good); err != nil {
				t.Error(err)
			}
		})
	}
}

// The one upload of a group fails: so do all Commits that were in it, and only these.
func TestFailedGroup(t *testing.T) {
	f := newS3Farm(t, true)
	f.through = f.schedule(t, "put@:1:fail=403")
	s := f.open(t)
	w1, w2, w3 := s.Begin(), s.Begin(), s.Begin()
	shared, own := storetest.Bytes(1, 1000), storetest.Bytes(2, 1000)
	for w, data := range map[imagestore.Writer][]byte{w1: shared, w2: shared, w3: own} {
		if _, err := w.Put(t.Context(), data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w1.Commit(t.Context()); err == nil {
		t.Error("first: no error")
	}
	if err := errors.Join(w2.Commit(t.Context()), w3.Commit(t.Context())); err != nil {
		t.Error(err)
	}
	for _, data := range [][]byte{shared, own} {
		if got, err := storetest.Read(t.Context(), s, digest.FromBytes(data), 0, -1); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
	}
}

// Every try of an upload is another pack.
func TestRetriesHaveTheirOwnIDs(t *testing.T) {
	f := newS3Farm(t, true)
	var log *faults.Transport
	f.through = func(next http.RoundTripper) http.RoundTripper {
		log = faults.New(next, faults.Fault{Op: "PUT", Prefix: f.prefix, Nth: 1, Action: faults.Lose()}, faults.Fault{Op: "PUT", Prefix: f.prefix, Nth: 2, Action: faults.Fail(503)})
		return log
	}
	s := f.open(t)
	storetest.Put(t, s, storetest.Bytes(1, 1000))
	keys := map[string]bool{}
	for _, e := range log.Log() {
		keys[e.Key] = true
	}
	for _, id := range f.ledger.Keys() {
		keys[f.prefix+"/packs/"+id[10:12]+"/"+id] = true
	}
	if len(keys) != 3 || len(f.ledger.Keys()) != 1 {
		t.Errorf("keys %v, registered %q", keys, f.ledger.Keys())
	}
}
