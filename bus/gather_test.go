package bus_test

import (
	"fmt"
	"testing"

	"bakefarm/bus"
	"bakefarm/farm"
)

// Lists are the same however many records there are: a few are read at once, many through a consumer.
func TestGather(t *testing.T) {
	b := open(t, bus.Config{})
	want := map[string]string{}
	put := func(key string) {
		t.Helper()
		if _, err := b.Tags.Put(t.Context(), key, farm.Tag{Schema: farm.Schema, Digest: key}); err != nil {
			t.Fatal(err)
		}
		want[key] = key
	}
	check := func(prefix string, n int) {
		t.Helper()
		all, err := b.Tags.List(t.Context(), prefix)
		if err != nil || len(all) != n {
			t.Fatalf("%q: %d records, want %d: %v", prefix, len(all), n, err)
		}
		for key, tag := range all {
			if want[key] != tag.Digest {
				t.Errorf("%s is %s", key, tag.Digest)
			}
		}
	}
	check("", 0)
	check("shop/app@", 0)
	put("shop/app@") // ends in '@': a filter of its own
	check("shop/app@", 1)
	for i := range 300 { // more than a batch
		put(fmt.Sprint("shop/app@", i))
	}
	put("shop/other@1")
	check("shop/app@", 301)
	check("shop/app@29", 11)
	check("shop/other@", 1)
	if err := b.Tags.Delete(t.Context(), "shop/app@7", 0); err != nil {
		t.Fatal(err)
	}
	check("shop/app@", 300)
	for i := range 1200 { // more than is gathered
		put(fmt.Sprint("large/app@", i))
	}
	check("large/app@", 1200)
	check("", 1501)
}
