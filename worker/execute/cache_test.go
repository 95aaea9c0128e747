package execute_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"bakefarm/farm"
	"bakefarm/plan"
	"bakefarm/worker/cache"

	"github.com/opencontainers/go-digest"
)

// Whatever happens to the files of the cache, the layer is the same.
func TestDamagedCache(t *testing.T) {
	b := newBench(t, newStore(t))
	spec, members := b.specOf(hello, libhello)
	var want plan.Layer
	b.must(farm.KindAssemble, spec, &want, members...)
	if err := b.env.Cache.Close(); err != nil { // which writes it all
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(b.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil || digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(name)).Validate() != nil {
			continue
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0xff, 0, 0xff}, info.Size()/3); err != nil {
			t.Fatal(err)
		}
		f.Close()
		damaged++
	}
	if damaged < 5 {
		t.Fatalf("the cache has %d entries: the test tests nothing", damaged)
	}
	if b.env.Cache, err = cache.Open(b.dir, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.env.Cache.Close() })
	var got plan.Layer
	b.must(farm.KindAssemble, spec, &got, members...)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("made %+v of a damaged cache, not %+v", got, want)
	}
}

// An entry that is whole but has the bytes of another name poisons nothing.
func TestSwappedCache(t *testing.T) {
	b := newBench(t, newStore(t))
	spec, members := b.specOf(hello, libhello)
	var want, got plan.Layer
	b.must(farm.KindAssemble, spec, &want, members...)
	big := members[0].(plan.Member)
	b.env.Cache.Drop(big.TarDigest)
	w := b.env.Cache.Create()
	if _, err := w.Write(make([]byte, big.TarSize)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(big.TarDigest); err != nil {
		t.Fatal(err)
	}
	b.must(farm.KindAssemble, spec, &got, members...)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("made %+v of a poisoned cache, not %+v", got, want)
	}
}
