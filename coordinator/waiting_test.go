package coordinator

import (
	"testing"

	"bakefarm/farm"
)

func TestMatch(t *testing.T) {
	any := []string{"any.convert"}
	lacks := func(why string, labels ...string) farm.Worker {
		return farm.Worker{Classes: any, Lacks: map[string]string{"arm64.configure": why}, Labels: labels}
	}
	can := farm.Worker{Classes: []string{"any.convert", "arm64.configure"}}
	const advice = ". Mend it (bakefarm doctor looks at a machine), start a worker that can, or write scripts: skip"
	for name, test := range map[string]struct {
		workers  map[string]farm.Worker
		requires []string
		want     verdict
	}{
		"nobody is there":       {nil, nil, verdict{}},
		"one can":               {map[string]farm.Worker{"a": lacks("x"), "b": can}, nil, verdict{able: true}},
		"one that must not":     {map[string]farm.Worker{"b": can}, []string{"gpu"}, verdict{}},
		"none takes such work":  {map[string]farm.Worker{"old": {Classes: any}}, nil, verdict{}},
		"forbidden, and not it": {map[string]farm.Worker{"a": lacks("x")}, []string{"gpu"}, verdict{}},
		"none may": {map[string]farm.Worker{"b": lacks("no runtime", "gpu=x"), "a": lacks("no runtime", "gpu"), "c": lacks("no emulator", "gpu"), "d": lacks("no label")}, []string{"gpu"},
			verdict{why: "no worker of this farm can run programs of arm64 images. c: no emulator; a, b: no runtime" + advice}},
	} {
		if got := match(test.workers, "arm64.configure", test.requires); got != test.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if need("arm64.run", nil) != "arch=arm64, kind=run" || need("any.cut", []string{"gpu", "region=eu"}) != "kind=cut, gpu, region=eu" {
		t.Error(need("arm64.run", nil), need("any.cut", []string{"gpu", "region=eu"}))
	}
}

// What can be done about it depends on the work.
func TestMatchTests(t *testing.T) {
	workers := map[string]farm.Worker{"w": {Lacks: map[string]string{"amd64.boot": "no QEMU", "amd64.run": "no runtime"}}}
	for class, want := range map[string]string{
		"amd64.boot": "no worker of this farm can start amd64 disks. w: no QEMU. Mend it (bakefarm doctor looks at a machine), start a worker that can, or leave the disk out of tests (on: oci)",
		"amd64.run":  "no worker of this farm can run programs of amd64 images. w: no runtime. Mend it (bakefarm doctor looks at a machine), start a worker that can, or leave the image out of tests (on: disk)",
	} {
		if got := match(workers, class, nil).why; got != want {
			t.Errorf("%s: %s", class, got)
		}
	}
}
