package bus

import (
	"testing"

	"bakefarm/farm"
)

// Records that this release can't read stop nobody who follows, and are counted.
func TestUnreadableRecords(t *testing.T) {
	b, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for key, raw := range map[string]string{"garbage": "{", "later": `{"schema":99}`} {
		if _, err := b.Shards.kv.Put(t.Context(), escapeKey(key), []byte(raw)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Shards.Create(t.Context(), "good", farm.Shard{ID: "good"}); err != nil {
		t.Fatal(err)
	}
	err = b.Shards.Follow(t.Context(), 0, func(_ uint64, key string, s *farm.Shard) error {
		if key != "good" || s.ID != "good" {
			t.Errorf("%s: %+v", key, s)
		}
		return ErrStop
	})
	if err != nil || b.Unreadable()["shards"] != 2 {
		t.Errorf("%v, %v", err, b.Unreadable())
	}
	if _, _, err := b.Shards.Get(t.Context(), "later"); err == nil {
		t.Error("what can't be read was got")
	}
}
