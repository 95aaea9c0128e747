// Package workertest makes what tests of workers stand on: a real image store in this process.
package workertest

import (
	"context"
	"testing"

	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/faults"
	"bakefarm/imagestore/s3embed"
	"bakefarm/imagestore/s3store"
	"bakefarm/imagestore/storetest"
)

// NewStore opens an empty image store over the embedded S3 server, without a network in between. It is closed when the
// test ends.
func NewStore(t testing.TB) *s3store.Store {
	t.Helper()
	store, _ := NewFaulty(t)
	return store
}

// NewFaulty opens such a store with something that faults can be added to between it and its server.
func NewFaulty(t testing.TB) (*s3store.Store, *faults.Transport) {
	t.Helper()
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	server, err := s3embed.Open(t.TempDir(), s3embed.Config{AccessKey: "key", SecretKey: "secret-of-the-test"})
	fatal(err)
	between := faults.New(server.Transport())
	client, bucket, prefix, err := s3store.Dial("http://key:secret-of-the-test@s3.invalid/test", between)
	fatal(err)
	ledger := storetest.NewLedger()
	index, err := catalog.Open("", ledger, nil, nil)
	fatal(err)
	store, err := s3store.Open(t.Context(), s3store.Config{Client: client, Bucket: bucket, Prefix: prefix, Ledger: ledger, Locator: index, Writer: t.Name()})
	fatal(err)

	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	following := make(chan error, 1)
	go func() { following <- index.Run(ctx, store.ReadIndex, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-following; err != nil {
			t.Error(err)
		}
		for _, close := range []func() error{store.Close, index.Close, server.Close} {
			if err := close(); err != nil {
				t.Error(err)
			}
		}
	})
	return store, between
}
