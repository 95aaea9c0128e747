package farm

import (
	"fmt"
	"slices"
	"time"
)

// Pin keeps a version whatever the retention policy says, until somebody takes it out. A version may have several.
type Pin struct {
	Hold string    `json:"hold,omitempty"` // a legal hold: the case that it is for; empty: an ordinary pin
	Note string    `json:"note,omitempty"`
	By   string    `json:"by"`
	At   time.Time `json:"at"`
}

// Trash says that a version is to go: nothing resolves to it by a name or tag any more. Until the time is over it can be
// restored as it was, and who has its digest still pulls it.
//
//	(there) ──trash──▶ trash ──until──▶ (deleted: the record goes, garbage collection takes what nothing else needs)
//	   ▲                 │
//	   └────restore──────┘   by hand, by a bake that leads to it again, or because a channel points to it
type Trash struct {
	At     time.Time `json:"at"`
	Until  time.Time `json:"until"`
	By     string    `json:"by"`
	Reason string    `json:"reason"` // why, for people: the rule that let it expire, or a person's note
}

// MaxPins bounds the pins and holds of one version.
const MaxPins = 32

// WithPin is the version with a pin more. A second ordinary pin, or a second hold for the same case, replaces the first.
func (v Version) WithPin(p Pin) (Version, error) {
	v.Pins = append(v.withoutPin(p.Hold), p)
	if len(v.Pins) > MaxPins {
		return v, fmt.Errorf("%s:%s has %d pins and holds, which is the limit: take one out first", v.Name, v.Version, MaxPins)
	}
	return v, nil
}

// WithoutPin is the version without the ordinary pin, or without the hold for a case. had is false when there was none.
func (v Version) WithoutPin(hold string) (without Version, had bool) {
	pins := v.withoutPin(hold)
	had = len(pins) < len(v.Pins)
	v.Pins = pins
	return v, had
}

func (v Version) withoutPin(hold string) []Pin {
	return slices.DeleteFunc(slices.Clone(v.Pins), func(p Pin) bool { return p.Hold == hold })
}

// RetentionPolicy is the farm's retention policy as it was set.
type RetentionPolicy struct {
	Schema int       `json:"schema"`
	File   string    `json:"file"` // name of its file, for messages
	Text   string    `json:"text"` // YAML
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}
