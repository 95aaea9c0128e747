package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"bakefarm/api"

	"github.com/google/go-containerregistry/pkg/crane"
)

var farmFlags = flag.String("farm-flags", "", "more flags of the farms that are measured, such as --pprof 127.0.0.1:6060")

var benchTools = flag.Bool("bench-tools", false, "measure bakefarm and the tools beside it, for some minutes")

// How often each thing is done: what takes long, less often.
const (
	warmRounds = 7
	coldRounds = 3
)

func TestBench(t *testing.T) {
	if !*benchTools {
		t.Skip("measures only with -bench-tools: make bench")
	}
	b := &bench{t: t, ctx: t.Context(), dir: roomy(t)}
	machine := machine()
	b.rebakes()
	b.systems()
	fmt.Println()
	if err := render(os.Stdout, machine, b.measured, b.notes); err != nil {
		t.Fatal(err)
	}
}

// machine says where and when this is measured, and how busy the machine was just before.
func machine() string {
	load := "unknown"
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ = strings.Cut(string(raw), " ")
	}
	return fmt.Sprintf("%d cores, %s/%s, %s, %s; load of the last minute before: %s",
		runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), time.Now().UTC().Format("2006-01-02 15:04 UTC"), load)
}

// bench is one run of everything.
type bench struct {
	t           testing.TB
	ctx         context.Context
	dir         string   // scratch
	proxy       string   // of the packages; empty: none
	environment []string // of farms
	apps        uint64   // made so far
	measured    []*measurement
	notes       []string
}

func (b *bench) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}

// measure asks a question and keeps the answer. bakefarm must have one.
func (b *bench) measure(what string, rounds int, by ...*contender) {
	b.t.Helper()
	b.t.Log(what) // some minutes of silence look like a fault
	m := &measurement{what, by}
	m.rounds(rounds)
	if m.by[0].err != nil {
		b.t.Fatalf("%s: %s: %v", what, m.by[0].name, m.by[0].err)
	}
	b.measured = append(b.measured, m)
}

// recipeText is the recipe of a Debian minbase with some more packages, and the app when there is one. No scripts run.
func recipeText(name string, app bool, packages ...string) string {
	text := systemText(name, "skip", packages...)
	if app {
		text += "app:\n  - {copy: ., to: /" + where + "}\n"
	}
	return text
}

// systemText is the recipe of a Debian minbase with some more packages. scripts is skip or run.
func systemText(name, scripts string, packages ...string) string {
	return "apiVersion: bakefarm/v1\nname: bench/" + name + "\nos:\n  debian: {suite: " + suite + ", variant: minbase, scripts: " + scripts +
		", packages: [" + strings.Join(packages, ", ") + "]}\nconfig: {cmd: [/bin/sh]}\n"
}

const suite = "bookworm"

// newApp writes an app that nobody has seen to a directory of its own.
func (b *bench) newApp() string {
	b.apps++
	dir := filepath.Join(b.dir, fmt.Sprint("app", b.apps), "app")
	if err := writeApp(dir, makeApp(b.apps, appBytes)); err != nil {
		b.t.Fatal(err)
	}
	return dir
}

// rewrite gives one file of an app, of about the middle size, bytes that nobody has seen.
func (b *bench) rewrite(dir string) {
	b.apps++
	file := makeApp(b.apps, appBytes)[12]
	if err := writeApp(dir, []appFile{file}); err != nil {
		b.t.Fatal(err)
	}
}

// settle lets the disk finish what earlier runs left to write, which would else be charged to the next one.
func settle() { syscall.Sync() }

// way is a contender's way to bake an app's directory.
type way struct {
	name string
	bake func(dir string) (time.Duration, error)
	app  string // the app that it has baked already
	err  error  // why it is left out
}

// rebakes measures baking an app again on an OS that is there.
func (b *bench) rebakes() {
	farm := startFarm(b.t)
	recipe := recipeText("app", true)
	cached := false
	ways := []*way{
		{name: "bakefarm, from POST to pullable", bake: func(dir string) (time.Duration, error) {
			_, took, err := farm.bake(b.ctx, job{recipe, dir}, cached)
			return took, err
		}},
		{name: "bakefarm bake, the whole process", bake: func(dir string) (time.Duration, error) {
			return farm.command(b.ctx, job{recipe, dir})
		}},
	}
	base, _, err := farm.bake(b.ctx, job{recipe: recipeText("os", false)}, false)
	if err != nil {
		b.t.Fatalf("bake the OS: %v\n%s", err, farm.said())
	}
	address, registryErr := startRegistry(b.t)
	ways = append(ways, b.rivals(farm, base, address, registryErr)...)

	// Each has baked the app of its own before, so that all is as warm as it gets.
	for _, w := range ways {
		w.app = b.newApp()
		if w.err == nil {
			_, w.err = w.bake(w.app)
		}
	}
	ask := func(what string, prepare func(*way) string) {
		var by []*contender
		for _, w := range ways {
			by = append(by, &contender{name: w.name, err: w.err, run: func() (time.Duration, error) {
				dir := prepare(w)
				settle()
				return w.bake(dir)
			}})
		}
		b.measure(what, warmRounds, by...)
	}
	ask("20 MB app, all bytes new", func(*way) string { return b.newApp() })
	ask("20 MB app, one file changed", func(w *way) string { b.rewrite(w.app); return w.app })
	// What the last round has left is baked once more.
	cached = true
	ask("20 MB app, nothing changed", func(w *way) string { return w.app })
	cached = false

	b.pulls(farm, base, address, registryErr)
	if peak, err := farm.peak(); err == nil {
		b.note("peak memory of the farm's process after all that: %.0f MB resident", float64(peak)/1e6)
	} else {
		b.note("left out: peak memory of the farm: %v", err)
	}
	farm.stop()
	b.impatient()
}

// rivals are buildah and crane, with the farm's own OS image as base, pushing to a registry.
func (b *bench) rivals(farm *aFarm, base api.Bake, address string, registryErr error) []*way {
	image := address + "/" + base.Name + ":" + base.Version
	target := address + "/bench/"
	if registryErr == nil {
		from := strings.TrimPrefix(farm.server, "http://") + "/" + base.Name + ":" + base.Version
		registryErr = crane.Copy(from, image, crane.Insecure)
	}
	byCrane := &way{name: "crane append + push", err: registryErr, bake: func(dir string) (time.Duration, error) {
		return withCrane(dir, image, target+"crane:latest")
	}}
	byBuildah := &way{name: "buildah bud + push", err: registryErr}
	if registryErr == nil {
		dir := filepath.Join(b.dir, "buildah")
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.t.Fatal(err)
		}
		builder, err := newBuildah(b.t, b.ctx, dir, image)
		byBuildah.err = err
		byBuildah.bake = func(dir string) (time.Duration, error) { return builder.bake(b.ctx, dir, target+"buildah:latest") }
	}
	return []*way{byBuildah, byCrane}
}

// pulls measures reading the OS image through the registry APIs.
func (b *bench) pulls(farm *aFarm, base api.Bake, address string, registryErr error) {
	ref := path.Join(base.Name + ":" + base.Version)
	puller := func(name, host string, err error) *contender {
		c := &contender{name: name, err: err}
		c.run = func() (took time.Duration, err error) {
			took, c.bytes, err = pull(host + "/" + ref)
			return took, err
		}
		return c
	}
	b.measure(fmt.Sprintf("pull of a %.0f MB image", float64(base.Images[0].Size)/1e6), warmRounds,
		puller("bakefarm", strings.TrimPrefix(farm.server, "http://"), nil), puller("docker-registry", address, registryErr))
}

// impatient measures what asking the Debian mirror adds to a bake: once in five minutes, a bake does.
func (b *bench) impatient() {
	farm := startFarm(b.t, "--max-age", "1ms")
	defer farm.stop()
	recipe, dir := recipeText("app", true), b.newApp()
	bake := func() (time.Duration, error) {
		_, took, err := farm.bake(b.ctx, job{recipe, dir}, false)
		return took, err
	}
	if _, err := bake(); err != nil {
		b.t.Fatal(err)
	}
	b.measure("20 MB app, one file changed, mirror asked anew", warmRounds, &contender{name: "bakefarm, from POST to pullable", run: func() (time.Duration, error) {
		b.rewrite(dir)
		settle()
		return bake()
	}})
}
