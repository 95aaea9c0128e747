package execute

import (
	"errors"
	"io"
	"strings"
	"testing"

	"bakefarm/compose"
	"bakefarm/worker/cache"
	"bakefarm/worker/workertest"

	"github.com/opencontainers/go-digest"
)

// A layer that this process composed is read of the members' tars, of their pieces where the cache has lost one, and not
// at all where it has other bytes in place of one.
func TestMade(t *testing.T) {
	c, err := cache.Open(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	j := &job{Env: &Env{Store: workertest.NewStore(t), Cache: c, Turns: NewTurns(0), Records: NewRecords()}, say: t.Logf}
	l := &layer{job: j, w: j.Store.Begin(), own: map[digest.Digest][]byte{}}
	l.members = append(l.members, compose.Member{TarDigest: digest.FromBytes(nil)}) // a head with nothing in it
	for name, size := range map[string]int{"first": 100_000, "second": compose.SegmentSize + 100_000} {
		m, err := j.newMember(l.w).cut(t.Context(), func(w io.Writer) error {
			e := compose.Entry{Type: '0', Path: name, Mode: 0o644, Size: int64(size)}
			return compose.WriteEntry(w, e, strings.NewReader(strings.Repeat(name[:1], size)))
		})
		if err != nil {
			t.Fatal(err)
		}
		l.members = append(l.members, m)
	}
	composed, err := l.hash(t.Context(), l.members)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := func() error {
		r := j.made(t.Context(), composed.DiffID)
		if r == nil {
			t.Fatal("nobody knows what the layer is made of")
		}
		defer r.Close()
		raw, err := io.ReadAll(r)
		if err == nil && digest.FromBytes(raw) != composed.DiffID {
			t.Error("what was read is another layer")
		}
		return err
	}
	if err := read(); err != nil {
		t.Error(err)
	}
	gone := l.members[1].TarDigest
	c.Drop(gone)
	if err := read(); err != nil {
		t.Errorf("without the tar of a member: %v", err)
	}
	w := c.Create()
	if _, err := w.Write(make([]byte, l.members[1].TarSize)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(gone); err != nil {
		t.Fatal(err)
	}
	if err := read(); !errors.Is(err, cache.ErrCorrupt) || !MayPass(err) {
		t.Errorf("with other bytes in a member's place: %v, want one that passes", err)
	}
	if j.made(t.Context(), composed.DiffID) != nil {
		t.Error("it would be read so again")
	}
}
