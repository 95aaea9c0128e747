package coordinator

import (
	"testing"

	"bakefarm/farm"
)

func TestUnservedReason(t *testing.T) {
	any := []string{"any.convert"}
	lacks := func(why string) farm.Worker {
		return farm.Worker{Classes: any, Lacks: map[string]string{"arm64.configure": why}}
	}
	const advice = ". Mend it (bakefarm doctor looks at a machine), start a worker that can, or write scripts: skip"
	for name, test := range map[string]struct {
		workers map[string]farm.Worker
		want    string
	}{
		"nobody is there": {nil, ""},
		"one can":         {map[string]farm.Worker{"a": lacks("x"), "b": {Classes: []string{"any.convert", "arm64.configure"}}}, ""},
		"none can": {map[string]farm.Worker{"b": lacks("no runtime"), "a": lacks("no runtime"), "c": lacks("no emulator"), "old": {Classes: any}},
			"no worker of this farm can run programs of arm64 images. c: no emulator; a, b: no runtime; old: takes no such work" + advice},
	} {
		if got := unservedReason("arm64.configure", test.workers); got != test.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
