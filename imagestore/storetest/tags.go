package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

// RunTags runs the conformance suite for imagestore.Tags. fresh makes one without tags.
func RunTags(t *testing.T, fresh func(t *testing.T) imagestore.Tags) {
	one, two := digest.FromString("one"), digest.FromString("two")
	t.Run("SetAndGet", func(t *testing.T) {
		tags := fresh(t)
		if _, _, err := tags.Tag(t.Context(), "team/app", "v1"); !errors.Is(err, imagestore.ErrNotFound) {
			t.Fatalf("no tag: %v, want ErrNotFound", err)
		}
		r1, err := tags.SetTag(t.Context(), "team/app", "v1", one, 0)
		if err != nil {
			t.Fatal(err)
		}
		d, r, err := tags.Tag(t.Context(), "team/app", "v1")
		if err != nil || d != one || r != r1 {
			t.Fatalf("got %s %d %v, want %s %d", d, r, err, one, r1)
		}
		r2, err := tags.SetTag(t.Context(), "team/app", "v1", two, r1)
		if err != nil || r2 == r1 {
			t.Fatalf("revision %d after %d, %v", r2, r1, err)
		}
		for _, stale := range []uint64{0, r1, r2 + 1} {
			if _, err := tags.SetTag(t.Context(), "team/app", "v1", one, stale); !errors.Is(err, imagestore.ErrConflict) {
				t.Errorf("revision %d: %v, want ErrConflict", stale, err)
			}
		}
		if _, err := tags.SetTag(t.Context(), "team/app", "none", one, 7); !errors.Is(err, imagestore.ErrConflict) {
			t.Errorf("revision of a tag that is not there: %v, want ErrConflict", err)
		}
		if d, _, _ := tags.Tag(t.Context(), "team/app", "v1"); d != two {
			t.Errorf("got %s, want %s", d, two)
		}
	})
	t.Run("List", func(t *testing.T) {
		tags := fresh(t)
		// Repositories whose names begin alike, and tags with every character that may be in one.
		for _, k := range [][2]string{{"a", "z"}, {"a", "b.1_x-Y"}, {"a", "A"}, {"a/b", "inner"}, {"ab", "other"}, {"a.b", "dot"}} {
			if _, err := tags.SetTag(t.Context(), k[0], k[1], one, 0); err != nil {
				t.Fatal(err)
			}
		}
		for repo, want := range map[string][]string{"a": {"A", "b.1_x-Y", "z"}, "a/b": {"inner"}, "ab": {"other"}, "a.b": {"dot"}, "none": nil} {
			got, err := tags.ListTags(t.Context(), repo)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %q, %v; want %q", repo, got, err, want)
			}
		}
	})
	t.Run("OneWins", func(t *testing.T) {
		tags := fresh(t)
		r, err := tags.SetTag(t.Context(), "r", "t", one, 0)
		if err != nil {
			t.Fatal(err)
		}
		var wins atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				_, err := tags.SetTag(t.Context(), "r", "t", digest.FromString(fmt.Sprint(i)), r)
				if err == nil {
					wins.Add(1)
				} else if !errors.Is(err, imagestore.ErrConflict) {
					t.Errorf("%v, want ErrConflict", err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Errorf("%d won", wins.Load())
		}
	})
}
