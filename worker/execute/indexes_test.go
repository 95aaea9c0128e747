package execute

import (
	"errors"
	"testing"

	"bakefarm/compose/apt"

	"github.com/opencontainers/go-digest"
)

// An index is loaded once, again after it was forgotten or could not be loaded, and one that is being loaded stays.
func TestIndexes(t *testing.T) {
	x, loads := NewIndexes(), 0
	file := digest.FromString("Packages")
	get := func(load func() error) (*apt.Index, error) {
		return x.get(t.Context(), file, func() (*apt.Index, error) { loads++; return &apt.Index{Packages: []*apt.Package{{Name: "a"}}}, load() })
	}
	nothing := func() error { return nil }
	if _, err := get(func() error { return errors.New("gone") }); err == nil {
		t.Error("a load that fails is no error")
	}
	first, _ := get(nothing)
	if again, _ := get(nothing); again != first || loads != 2 {
		t.Errorf("%d loads", loads)
	}
	x.Clear()
	if x.total != 0 {
		t.Errorf("%d packages of no index", x.total)
	}
	second, _ := get(func() error { x.Clear(); return nil })
	if again, _ := get(nothing); again != second || loads != 3 || x.total != 1 {
		t.Errorf("%d loads, %d packages", loads, x.total)
	}
}
