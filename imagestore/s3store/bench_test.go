package s3store_test

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"testing"

	"bakefarm/imagestore"
	"bakefarm/imagestore/storetest"
)

func bothWires(b *testing.B, f func(b *testing.B, farm *s3farm)) {
	b.Run("http", func(b *testing.B) { f(b, newS3Farm(b, false)) })
	b.Run("inprocess", func(b *testing.B) { f(b, newS3Farm(b, true)) })
}

func BenchmarkCommitSmall(b *testing.B) {
	bothWires(b, func(b *testing.B, f *s3farm) {
		s := f.open(b)
		data := storetest.Bytes(1, 1000)
		i := uint64(0)
		for b.Loop() {
			i++
			binary.BigEndian.PutUint64(data, i)
			w := s.Begin()
			_, err := w.Put(b.Context(), data)
			if err := errors.Join(err, w.Commit(b.Context())); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// 90 packages of a Debian base, converted by 8 workers at once.
func BenchmarkCommit90x200KB(b *testing.B) {
	bothWires(b, func(b *testing.B, f *s3farm) {
		s := f.open(b)
		const pieces, size, writers = 90, 200_000, 8
		b.SetBytes(pieces * size)
		round := uint64(0)
		for b.Loop() {
			round++
			next := make(chan uint64, pieces)
			for i := range uint64(pieces) {
				next <- i
			}
			close(next)
			var wg sync.WaitGroup
			for range writers {
				data := storetest.Bytes(1, size)
				wg.Go(func() {
					for i := range next {
						binary.BigEndian.PutUint64(data, round)
						binary.BigEndian.PutUint64(data[8:], i)
						w := s.Begin()
						_, err := w.Put(b.Context(), data)
						if err := errors.Join(err, w.Commit(b.Context())); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
		}
		b.ReportMetric(float64(len(f.ledger.Keys()))/float64(round), "packs/op")
	})
}

func BenchmarkRead64MiB(b *testing.B) {
	bothWires(b, func(b *testing.B, f *s3farm) {
		s := f.open(b)
		w := s.Begin()
		var content []byte
		var parts []imagestore.Part
		for i := range 128 {
			data := storetest.Bytes(uint64(i), 512<<10)
			p, err := w.Put(b.Context(), data)
			if err != nil {
				b.Fatal(err)
			}
			content, parts = append(content, data...), append(parts, p)
		}
		blob := storetest.BlobOf(content, parts...)
		if err := errors.Join(w.Compose(b.Context(), blob), w.Commit(b.Context())); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(blob.Size)
		for b.Loop() {
			rc, err := s.Open(b.Context(), blob.Digest, 0, -1)
			if err != nil {
				b.Fatal(err)
			}
			n, err := io.Copy(io.Discard, rc)
			if err := errors.Join(err, rc.Close()); err != nil || n != blob.Size {
				b.Fatal(n, err)
			}
		}
	})
}
