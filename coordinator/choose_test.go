package coordinator

import (
	"slices"
	"testing"
)

func TestWhoIsFirst(t *testing.T) {
	want := []candidate{
		{id: "idle team, old bake", team: "b", bake: "2"},
		{id: "idle team, young bake", team: "b", bake: "3"},
		{id: "busy team, oldest bake", team: "a", bake: "1", busy: 7},
		{id: "background, idle team", team: "c", bake: "0", background: true},
		{id: "background, busy team", team: "a", bake: "0", busy: 7, background: true},
	}
	have := slices.Clone(want)
	slices.Reverse(have)
	slices.SortFunc(have, candidate.before)
	if !slices.Equal(have, want) {
		t.Errorf("%+v", have)
	}
}

func TestTeams(t *testing.T) {
	for name, team := range map[string]string{"shop/checkout": "shop", "shop/eu/checkout": "shop", "base": "base", "": ""} {
		if teamOf(name) != team {
			t.Errorf("%q: %q", name, teamOf(name))
		}
	}
	if need("arm64.run") != "arch=arm64, kind=run" || need("any.cut") != "kind=cut" {
		t.Error(need("arm64.run"), need("any.cut"))
	}
}
