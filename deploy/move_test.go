package deploy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// at is a channel that points to the first version and pointed to the others before.
func at(move uint64, versions ...string) farm.Channel {
	return farm.Channel{Schema: farm.Schema, Name: "shop/cart", Channel: "prod", Move: move, Version: versions[0], Recent: versions[1:], By: "ann", At: noon}
}

// told writes a channel as "version (recent) move".
func told(c farm.Channel) string {
	return fmt.Sprintf("%s (%s) %d", c.Version, strings.Join(c.Recent, " "), c.Move)
}

func TestPromoteTransition(t *testing.T) {
	none := farm.Channel{Name: "shop/cart", Channel: "prod"}
	full := strings.Fields("z a b c d e f g h i j") // ten in the window
	tests := []struct {
		name    string
		from    farm.Channel
		version string
		want    string
	}{
		{"a new channel", none, "a", "a () 1"},
		{"the next version", at(1, "a"), "b", "b (a) 2"},
		{"where it is", at(2, "b", "a"), "b", "b (a) 2"},
		{"back to one of the window", at(3, "c", "b", "a"), "a", "a (c b) 4"},
		{"a full window", at(11, full...), "n", "n (z a b c d e f g h i) 12"},
		{"within a full window", at(11, full...), "j", "j (z a b c d e f g h i) 12"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := told(test.from)
			got, err := promote(test.from, test.version, "bob", nil, noon)
			if err != nil || told(got) != test.want {
				t.Errorf("got %s, want %s; %v", told(got), test.want, err)
			}
			if told(test.from) != before {
				t.Errorf("the channel given was changed: %s", told(test.from))
			}
			if got.Move != test.from.Move && (got.Action != farm.ActionPromote || got.From != test.from.Version || got.By != "bob" || got.Schema != farm.Schema) {
				t.Errorf("the move: %+v", got)
			}
		})
	}
}

func TestPromoteExpects(t *testing.T) {
	c := at(7, "b", "a")
	c.Action = farm.ActionPromote
	for _, test := range []struct {
		from        farm.Channel
		version, by string
		expect      uint64
		want        string // part of the error; empty: none
		move        uint64
	}{
		{c, "c", "bob", 7, "", 8},
		{c, "b", "bob", 7, "", 7},
		{c, "c", "bob", 6, "channel prod of shop/cart is at move 7, not 6: ann pointed it to b on 2026-11-22 12:00:00", 0},
		{c, "c", "bob", 8, "is at move 7, not 8", 0},
		{c, "b", "ann", 6, "", 7}, // the same request again
		{c, "b", "bob", 6, "is at move 7", 0},
		{c, "b", "ann", 5, "is at move 7", 0},
		{farm.Channel{Name: "shop/cart", Channel: "prod"}, "a", "bob", 0, "", 1},
		{farm.Channel{Name: "shop/cart", Channel: "prod"}, "a", "bob", 1, "shop/cart has no channel prod, so it is not at move 1", 0},
	} {
		got, err := promote(test.from, test.version, test.by, &test.expect, noon)
		switch {
		case test.want == "" && (err != nil || got.Move != test.move):
			t.Errorf("expecting %d: %s, %v", test.expect, told(got), err)
		case test.want != "" && (!errors.Is(err, bus.ErrConflict) || !strings.Contains(err.Error(), test.want)):
			t.Errorf("expecting %d: %v, want %s", test.expect, err, test.want)
		}
	}
}

func TestRollbackTransition(t *testing.T) {
	tests := []struct {
		name string
		from farm.Channel
		to   string
		want string // or part of the error
	}{
		{"to the one before", at(3, "c", "b", "a"), "", "b (a c) 4"},
		{"further back", at(4, "b", "a", "c"), "", "a (c b) 5"},
		{"to a named one", at(3, "c", "b", "a"), "a", "a (b c) 4"},
		{"to where it is", at(3, "c", "b", "a"), "c", "c (b a) 3"},
		{"from the first", at(1, "a"), "", "channel prod of shop/cart has pointed to nothing else before a"},
		{"out of the window", at(3, "c", "b", "a"), "x", "version x is not in the rollback window of channel prod of shop/cart, which has b, a"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := told(test.from)
			got, err := rollback(test.from, test.to, "bob", noon)
			if err != nil {
				if !errors.Is(err, bus.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v", err)
				}
				return
			}
			if told(got) != test.want {
				t.Errorf("got %s, want %s", told(got), test.want)
			}
			if told(test.from) != before {
				t.Errorf("the channel given was changed: %s", told(test.from))
			}
			if got.Move != test.from.Move && (got.Action != farm.ActionRollback || got.From != test.from.Version || got.By != "bob") {
				t.Errorf("the move: %+v", got)
			}
		})
	}
}

// Whatever moves: the window has each other version once, not the present one, at most ten; what it pointed to just before
// is among them, so that retention keeps it; numbers count up by one.
func TestMovesKeepTheWindow(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		c := farm.Channel{Name: "shop/cart", Channel: "prod"}
		for range 60 {
			next, err := promote(c, fmt.Sprintf("v%d", r.IntN(15)), "ann", nil, noon)
			if r.IntN(3) == 0 && len(c.Recent) > 0 {
				to := ""
				if r.IntN(2) == 0 {
					to = c.Recent[r.IntN(len(c.Recent))]
				}
				next, err = rollback(c, to, "ann", noon)
			}
			if err != nil {
				t.Fatal(err)
			}
			sorted := slices.Sorted(slices.Values(next.Recent))
			switch {
			case next.Version == c.Version && next.Move != c.Move, next.Version != c.Version && next.Move != c.Move+1:
				t.Fatalf("%s becomes %s", told(c), told(next))
			case len(sorted) > farm.RollbackWindow, len(slices.Compact(sorted)) != len(next.Recent), slices.Contains(next.Recent, next.Version):
				t.Fatalf("the window of %s", told(next))
			case c.Version != "" && next.Version != c.Version && !slices.Contains(next.Recent, c.Version):
				t.Fatalf("%s becomes %s and forgets", told(c), told(next))
			}
			c = next
		}
	}
}
