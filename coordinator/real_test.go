package coordinator_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"bakefarm/coordinator"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/s3embed"
	"bakefarm/imagestore/s3store"
)

// onS3 puts the farm's pieces into the embedded S3 server, over the farm's own ledger.
func (f *testFarm) onS3() {
	f.t.Helper()
	server, err := s3embed.Open(f.t.TempDir(), s3embed.Config{AccessKey: "key", SecretKey: "secretsecret"})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { server.Close() })
	client, bucket, prefix, err := s3store.Dial("http://key:secretsecret@127.0.0.1:1/farm", server.Transport())
	if err != nil {
		f.t.Fatal(err)
	}
	cat, err := catalog.Open("", f.bus.Ledger(), nil, testLog())
	if err != nil {
		f.t.Fatal(err)
	}
	store, err := s3store.Open(f.t.Context(), s3store.Config{
		Client: client, Bucket: bucket, Prefix: prefix, Ledger: f.bus.Ledger(), Locator: cat, Writer: "test", Log: testLog(),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		if err := cat.Run(ctx, store.ReadIndex, nil); err != nil {
			f.t.Errorf("catalog: %v", err)
		}
	})
	f.t.Cleanup(func() {
		if err := store.Close(); err != nil {
			f.t.Errorf("close the store: %v", err)
		}
		cancel()
		following.Wait()
		cat.Close()
	})
	f.real = store
}

func TestOnS3(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.onS3()
	stop := f.start()
	f.worker("w1").start()
	f.worker("w2").start()
	var ids []string
	for i := range 8 {
		ids = append(ids, f.submit(f.request(debianRecipe, map[string]string{"server": fmt.Sprint(i / 2)})).ID)
	}
	for _, id := range ids {
		f.done(id)
	}
	stop()
	f.start(func(c *coordinator.Config) { c.MaxAge = 1 << 40 })
	b := f.submit(f.request(debianRecipe, map[string]string{"server": "0"}))
	if !b.Cached {
		t.Errorf("%+v", b)
	}
	log := f.waitFor(ids[0], func(b farm.Bake) bool { return b.Log != "" }).Log
	if raw, err := imagestore.ReadAll(t.Context(), f.real, log, 1<<20); err != nil || len(raw) == 0 {
		t.Errorf("log: %d bytes, %v", len(raw), err)
	}
}
