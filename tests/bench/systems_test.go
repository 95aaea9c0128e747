package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"bakefarm/api"
)

// systems measures a Debian minbase, without and with its maintainer scripts: on an empty farm, where the packages are
// converted but nothing else is there, and with a package more when all the rest is there.
func (b *bench) systems() {
	b.proxied()
	names, err := b.minbase()
	if err != nil {
		b.t.Fatal(err)
	}
	extract, extractErr := newMmdebstrap(b.dir, suite, b.proxy, "extract", names)
	configure, configureErr := newMmdebstrap(b.dir, suite, b.proxy, "minbase", nil)

	what := fmt.Sprintf("Debian minbase (%d packages)", len(names))
	b.measure(what+", files only, cold", coldRounds, b.onEmptyFarm("skip", false),
		b.rival("mmdebstrap --variant=extract, to out.tar", extract, extractErr, filepath.Join(b.dir, "out.tar")),
		b.rival("mmdebstrap --variant=extract, to null", extract, extractErr, os.DevNull))
	byMmdebstrap := func() *contender {
		return b.rival("mmdebstrap --variant=minbase, to out.tar", configure, configureErr, filepath.Join(b.dir, "out.tar"))
	}
	b.measure(what+", scripts run, cold", coldRounds, b.onEmptyFarm("run", false), byMmdebstrap())
	b.measure(what+", scripts run, packages converted before", coldRounds, b.onEmptyFarm("run", true), byMmdebstrap())

	// Sets that differ in a package or two, of packages that are converted all: each is solved and assembled for the first time.
	farm := startFarmIn(b.t, b.environment)
	defer farm.stop()
	more := []string{"ca-certificates", "less", "netbase"}
	for _, scripts := range []string{"skip", "run"} {
		if _, _, err := farm.bake(b.ctx, job{recipe: systemText("os", scripts, more...)}, false); err != nil {
			b.t.Fatal(err)
		}
		next, rival := 0, byMmdebstrap()
		name := "Debian with one package more, scripts run, packages converted before"
		if scripts == "skip" {
			name = "Debian of packages converted before, files only"
			rival = b.rival("mmdebstrap --variant=extract, to out.tar", extract, extractErr, filepath.Join(b.dir, "out.tar"))
		}
		b.measure(name, coldRounds,
			&contender{name: "bakefarm, from POST to pullable", run: func() (time.Duration, error) {
				settle()
				_, took, err := farm.bake(b.ctx, job{recipe: systemText("os", scripts, more[next])}, false)
				next++
				return took, err
			}}, rival)
	}
}

// proxied has packages come from this machine, if it can.
func (b *bench) proxied() {
	local, err := newArchive(b.t, filepath.Join(b.dir, "archive"))
	if err != nil {
		b.note("packages come over the network each time: %v", err)
		return
	}
	b.proxy = local.server.URL
	b.environment = []string{"http_proxy=" + b.proxy}
}

// minbase bakes a Debian minbase once, which also makes the packages local, and returns their names.
func (b *bench) minbase() ([]string, error) {
	farm := startFarmIn(b.t, b.environment)
	defer farm.stop()
	bake, _, err := farm.bake(b.ctx, job{recipe: recipeText("os", false)}, false)
	if err != nil {
		return nil, err
	}
	lock, err := farm.client.Lock(b.ctx, bake.ID)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range lock.OS.Debian.Platforms["linux/amd64"] {
		names = append(names, p.Name)
	}
	return names, nil
}

// onEmptyFarm bakes the system on a farm of its own each time, which has converted the packages if it is to.
func (b *bench) onEmptyFarm(scripts string, converted bool) *contender {
	return &contender{name: "bakefarm, from POST to pullable", run: func() (took time.Duration, err error) {
		farm := startFarmIn(b.t, b.environment)
		defer farm.stop()
		bake := func(scripts string) (api.Bake, time.Duration, error) {
			settle()
			return farm.bake(b.ctx, job{recipe: systemText("os", scripts)}, false)
		}
		if converted {
			if _, _, err := bake("skip"); err != nil {
				return 0, err
			}
		}
		_, took, err = bake(scripts)
		return took, err
	}}
}

// rival makes the system with mmdebstrap.
func (b *bench) rival(name string, m *mmdebstrap, err error, target string) *contender {
	return &contender{name: name, err: err, run: func() (time.Duration, error) {
		settle()
		if target != os.DevNull {
			defer os.RemoveAll(target)
		}
		return m.bake(b.ctx, target)
	}}
}
