package collect_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"bakefarm/imagestore"
	"bakefarm/imagestore/collect"
	"bakefarm/imagestore/s3store"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
)

// rewrite changes a pack's object in the bucket.
func (l *little) rewrite(pack string, change func([]byte) []byte) {
	l.Helper()
	client, bucket, _, err := s3store.Dial("http://key:secret-of-the-test@s3.invalid/test", http.RoundTripper(l.server.Transport()))
	l.must(err)
	var all []minio.ObjectInfo
	for o := range client.ListObjects(l.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
		all = append(all, o)
	}
	for _, o := range all {
		if !strings.HasSuffix(o.Key, pack) {
			continue
		}
		body, err := client.GetObject(l.Context(), bucket, o.Key, minio.GetObjectOptions{})
		l.must(err)
		raw := make([]byte, o.Size)
		_, err = body.Read(raw)
		if err != nil && err.Error() != "EOF" {
			l.Fatal(err)
		}
		body.Close()
		if raw = change(raw); raw == nil {
			l.must(client.RemoveObject(l.Context(), bucket, o.Key, minio.RemoveObjectOptions{}))
			return
		}
		_, err = client.PutObject(l.Context(), bucket, o.Key, strings.NewReader(string(raw)), int64(len(raw)), minio.PutObjectOptions{})
		l.must(err)
		return
	}
	l.Fatalf("no object of pack %s", pack)
}

// packOf finds the pack of a piece.
func (l *little) packOf(piece string) imagestore.Location {
	l.Helper()
	l.must(l.janitor.index.CatchUp(l.Context()))
	at, err := l.janitor.index.Locate(l.Context(), []digest.Digest{digest.FromBytes(content(piece))})
	l.must(err)
	return at[0]
}

// TestScrub: damage is found, put aside, told, and healed by the next bake.
func TestScrub(t *testing.T) {
	for name, damage := range map[string]func(at imagestore.Location) func([]byte) []byte{
		"flipped": func(at imagestore.Location) func([]byte) []byte {
			return func(b []byte) []byte { b[at.Offset+5] ^= 1; return b }
		},
		"lost": func(imagestore.Location) func([]byte) []byte { return func([]byte) []byte { return nil } },
		"broken index": func(imagestore.Location) func([]byte) []byte {
			return func(b []byte) []byte { b[len(b)-70] ^= 1; return b }
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLittle(t, nil)
			w := l.worker.store.Begin() // in one pack with others, which must survive where they can
			for _, p := range []string{"a", "n1", "n2"} {
				_, err := w.Put(t.Context(), content(p))
				l.must(err)
			}
			l.must(w.Commit(t.Context()))
			l.begin("1", "hurt", "a", "b").finish()
			l.begin("2", "fine", "c", "d").finish()
			scrub := func(cursor string) collect.Scrubbed {
				s, err := l.collector(nil).Scrub(t.Context(), cursor, func(string, collect.Scrubbed) {})
				l.must(err)
				return s
			}
			if s := scrub(""); len(s.Damage) != 0 || s.Packs != s.Of || s.Packs == 0 || s.Entries < 6 {
				t.Fatalf("nothing is damaged: %+v", s)
			}
			at := l.packOf("a")
			l.rewrite(at.Pack, damage(at))
			dry, err := l.collector(func(c *collect.Config) { c.DryRun = true }).Scrub(t.Context(), "", func(string, collect.Scrubbed) {})
			if err != nil || len(dry.Damage) != 1 || dry.Quarantined != 0 || l.states()[:1] == "0" {
				t.Fatalf("dry run: %+v, %v", dry, err)
			}
			s := scrub("")
			if len(s.Damage) != 1 || s.Damage[0].Pack != at.Pack || s.Damage[0].Healed || s.Quarantined != 1 {
				t.Fatalf("%+v", s)
			}
			if name == "flipped" {
				if s.Damage[0].Digest != digest.FromBytes(content("a")) {
					t.Errorf("%+v", s.Damage[0])
				}
				if at := l.packOf("n2"); at.Condemned {
					t.Error("a whole neighbour was not copied")
				}
			}
			if again := scrub(at.Pack); len(again.Damage) != 0 {
				t.Errorf("behind the cursor: %+v", again)
			}

			// Garbage collection lives with it, and the next bake heals it.
			l.collect()
			l.begin("3", "hurt", "a", "b").finish()
			l.check("after another bake")
			for range 2 {
				l.pass(grace * 2)
				l.collect()
				l.check("after collecting")
			}
			if s := scrub(""); len(s.Damage) != 0 {
				t.Errorf("in the end: %+v, %s", s, l.states())
			}
		})
	}
}

// TestScrubStops where it is told to, and says from where to go on.
func TestScrubStops(t *testing.T) {
	l := newLittle(t, nil)
	for _, p := range []string{"a", "b", "c"} {
		l.begin(p, p, p).finish()
	}
	ctx, cancel := context.WithCancel(t.Context())
	var cursor string
	_, err := l.collector(nil).Scrub(ctx, "", func(c string, s collect.Scrubbed) {
		if cursor == "" {
			cursor = c
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || cursor == "" {
		t.Fatalf("%v, cursor %q", err, cursor)
	}
	rest, err := l.collector(nil).Scrub(t.Context(), cursor, func(string, collect.Scrubbed) {})
	if err != nil || rest.Packs != rest.Of-1 {
		t.Errorf("%+v, %v", rest, err)
	}
}
