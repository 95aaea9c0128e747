package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

// RunLedger runs the conformance suite for imagestore.Ledger. fresh makes one without packs.
func RunLedger(t *testing.T, fresh func(t *testing.T) imagestore.Ledger) {
	pack := func(id string) farm.Pack {
		return farm.Pack{
			Schema: farm.Schema, ID: id, State: farm.PackLive, Size: 1000, Index: digest.FromString(id), IndexAt: 900, Entries: 2,
			Writer: "test", At: time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC),
		}
	}
	// collect follows until n changes have come.
	collect := func(t *testing.T, l imagestore.Ledger, after uint64, n int) []farm.PackChange {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		enough := errors.New("enough")
		var got []farm.PackChange
		err := l.Follow(ctx, after, func(c farm.PackChange) error {
			if got = append(got, c); len(got) == n {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Fatalf("follow ended with %v after %d of %d changes", err, len(got), n)
		}
		return got
	}
	t.Run("RegisterAndFollow", func(t *testing.T) {
		l := fresh(t)
		var want []string
		for i := range 5 {
			id := fmt.Sprintf("P%025d", i)
			if err := l.Register(t.Context(), pack(id)); err != nil {
				t.Fatal(err)
			}
			want = append(want, id)
		}
		got := collect(t, l, 0, 5)
		var ids []string
		for i, c := range got {
			if c.Pack == nil || c.Pack.ID != c.ID || c.Pack.Index != digest.FromString(c.ID) || !c.Pack.At.Equal(pack("").At) || c.Pack.State != farm.PackLive {
				t.Errorf("change %+v, pack %+v", c, c.Pack)
			}
			if i > 0 && c.Seq <= got[i-1].Seq {
				t.Errorf("sequence %d after %d", c.Seq, got[i-1].Seq)
			}
			ids = append(ids, c.ID)
		}
		if !slices.Equal(ids, want) {
			t.Errorf("order %q, want %q", ids, want)
		}
		last, err := l.Last(t.Context())
		if err != nil || last != got[4].Seq {
			t.Errorf("last %d, %v; want %d", last, err, got[4].Seq)
		}
		if rest := collect(t, l, got[2].Seq, 2); rest[0].ID != want[3] || rest[1].ID != want[4] {
			t.Errorf("resumed with %+v", rest)
		}
	})
	t.Run("Idempotent", func(t *testing.T) {
		l := fresh(t)
		for range 3 {
			if err := l.Register(t.Context(), pack("P0000000000000000000000000")); err != nil {
				t.Fatal(err)
			}
		}
		other := pack("P0000000000000000000000000")
		other.Size++
		if err := l.Register(t.Context(), other); !errors.Is(err, imagestore.ErrConflict) {
			t.Errorf("another record: %v, want ErrConflict", err)
		}
		if got := collect(t, l, 0, 1); got[0].Pack.Size != 1000 {
			t.Errorf("size %d", got[0].Pack.Size)
		}
	})
	t.Run("Live", func(t *testing.T) {
		l := fresh(t)
		ctx, cancel := context.WithCancel(t.Context())
		seen := make(chan string, 10)
		done := make(chan error, 1)
		go func() {
			done <- l.Follow(ctx, 0, func(c farm.PackChange) error { seen <- c.ID; return nil })
		}()
		for _, id := range []string{"A", "B", "C"} {
			if err := l.Register(t.Context(), pack(id)); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-seen:
				if got != id {
					t.Errorf("saw %s, want %s", got, id)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s was not seen", id)
			}
		}
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("follow does not end with its context")
		}
	})
	t.Run("Identity", func(t *testing.T) {
		l := fresh(t)
		a, err := l.Identity(t.Context())
		if err != nil || a == "" {
			t.Fatalf("%q, %v", a, err)
		}
		if b, err := l.Identity(t.Context()); err != nil || b != a {
			t.Errorf("%q, then %q, %v", a, b, err)
		}
	})
	t.Run("Concurrent", func(t *testing.T) {
		l := fresh(t)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for k := range 10 {
					if err := l.Register(t.Context(), pack(fmt.Sprintf("P%d-%d", i, k))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		ids := map[string]bool{}
		for _, c := range collect(t, l, 0, 80) {
			ids[c.ID] = true
		}
		if len(ids) != 80 {
			t.Errorf("%d packs, want 80", len(ids))
		}
	})
}
