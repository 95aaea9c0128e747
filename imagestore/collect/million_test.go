package collect_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/collect"
	"bakefarm/imagestore/s3store"
	"bakefarm/imagestore/storetest"

	"github.com/opencontainers/go-digest"
)

// noObjects is a store of which garbage collection asks nothing but its objects.
type noObjects struct{ collect.Store }

func (noObjects) Objects(context.Context, func(s3store.Object) error) error { return nil }

func (noObjects) Wholes(context.Context, func(s3store.Whole) error) error { return nil }

// BenchmarkMillion collects over a million pieces in a thousand packs, nine tenths of which are needed: in SQLite as a
// process has it, without S3, of which a run over what it knows asks nothing.
func BenchmarkMillion(b *testing.B) {
	const packCount, perPack = 1000, 1000
	sum := func(i int) (s imagestore.Sum) {
		binary.BigEndian.PutUint64(s[:], uint64(i)*0x9e3779b97f4a7c15) // spread, as digests are
		binary.BigEndian.PutUint64(s[8:], uint64(i))
		return s
	}
	ledger := storetest.NewLedger()
	index, err := catalog.Open(b.TempDir()+"/catalog.db", ledger, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	for p := range packCount {
		if err := ledger.Register(b.Context(), farm.Pack{ID: fmt.Sprintf("P%08d", p), State: farm.PackLive, Size: perPack * 1000, IndexAt: perPack * 1000, Entries: perPack, At: time.Now()}); err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- index.Run(ctx, func(_ context.Context, p farm.Pack) ([]imagestore.Entry, error) {
			var n int
			fmt.Sscanf(p.ID, "P%d", &n)
			entries := make([]imagestore.Entry, perPack)
			for i := range entries {
				entries[i] = imagestore.Entry{Digest: sum(n*perPack + i).Digest(), Offset: int64(i) * 1000, Length: 1000}
			}
			return entries, nil
		}, nil)
	}()
	defer func() { cancel(); <-done; index.Close() }()
	if err := index.CatchUp(b.Context()); err != nil {
		b.Fatal(err)
	}
	needed := make([]digest.Digest, 0, packCount*perPack)
	for i := range packCount * perPack {
		if i/perPack%10 != 0 {
			needed = append(needed, sum(i).Digest())
		}
	}
	for b.Loop() {
		r, err := collect.New(collect.Config{Packs: packs{ledger}, Index: index, Store: noObjects{}, DryRun: true, MinAge: time.Nanosecond,
			Now: func() time.Time { return time.Now().Add(time.Hour) },
			Roots: func(_ context.Context, m *collect.Marker) error {
				for _, d := range needed {
					m.Need(d, 0)
				}
				return nil
			}}).Run(b.Context())
		if err != nil || r.Condemned != packCount/10 || r.Entries != packCount*perPack {
			b.Fatalf("%+v, %v", r, err)
		}
		b.ReportMetric(float64(r.Entries), "entries")
		b.ReportMetric(float64(r.Read), "objects-read")
	}
}
