package s3store_test

import (
	"errors"
	"testing"

	"bakefarm/imagestore/s3store"
)

func TestClaim(t *testing.T) {
	f := newS3Farm(t, true)
	one, two := f.open(t), f.open(t)
	for range 2 {
		if err := one.Claim(t.Context(), "one", false); err != nil {
			t.Fatal(err)
		}
	}
	if err := two.Claim(t.Context(), "two", false); !errors.Is(err, s3store.ErrForeign) {
		t.Errorf("another farm's bucket: %v", err)
	}
	if err := two.Claim(t.Context(), "two", true); err != nil {
		t.Error(err)
	}
	if err := one.Claim(t.Context(), "one", false); !errors.Is(err, s3store.ErrForeign) {
		t.Errorf("taken over: %v", err)
	}
}
