package plan

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

var update = flag.Bool("update", false, "write the golden files: only together with a raised format number")

func sha(s string) digest.Digest { return digest.FromString(s) }

func parse(t *testing.T, text string) *recipe.Recipe {
	t.Helper()
	r, err := recipe.Parse("bakefarm.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const demo = `
apiVersion: bakefarm/v1
name: demo/hello
os: {debian: {suite: bookworm, packages: [tzdata], scripts: skip}}
app:
  - {copy: ./dist, to: /opt/hello}
  - {copy: ./etc/hello.conf, to: /etc/, owner: "1000:1000"}
config: {entrypoint: [/opt/hello/hello], env: {PORT: 8080}, ports: [8080]}
`

var slim = strings.Replace(demo, "scripts: skip", "scripts: skip, exclude: [docs, man]", 1)

const overScratch = `
apiVersion: bakefarm/v1
name: demo/tiny
os: {scratch: true}
app: [{copy: ./dist, to: /}]
`

var packages = []recipe.LockedPackage{
	{Name: "libc6", Version: "2.36-9", Arch: "amd64", SHA256: sha("libc6"), Size: 100},
	{Name: "tzdata", Version: "2024a-0", Arch: "all", SHA256: sha("tzdata"), Size: 200},
}

func context() *recipe.Context {
	return &recipe.Context{Files: []recipe.ContextFile{
		{Path: "dist/current", Link: "hello"},
		{Path: "dist/data.bin", Size: 9 << 20, Chunks: []digest.Digest{sha("d0"), sha("d1"), sha("d2")}},
		{Path: "dist/hello", Exec: true, Size: 100, Chunks: []digest.Digest{sha("hello")}},
		{Path: "etc/hello.conf", Size: 5, Chunks: []digest.Digest{sha("conf")}},
	}}
}

func urls(p recipe.LockedPackage) []string { return []string{"http://mirror.example/" + p.Name} }

// bake plans a recipe over the test's context and packages; change may alter the Lock's packages.
func bake(t *testing.T, text string, ctx *recipe.Context, packages []recipe.LockedPackage) *Plan {
	t.Helper()
	p, err := tryBake(t, text, ctx, packages)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryBake(t *testing.T, text string, ctx *recipe.Context, packages []recipe.LockedPackage) (*Plan, error) {
	t.Helper()
	r := parse(t, text)
	trees, err := recipe.BuildTrees(ctx, r.App)
	if err != nil {
		t.Fatal(err)
	}
	lock := Lock(r, nil, map[string][]recipe.LockedPackage{"linux/amd64": packages}, trees)
	again, err := recipe.DecodeLock(lock.Encode())
	if err != nil || again.Key() != lock.Key() {
		t.Fatalf("the Lock does not survive its encoding: %v", err)
	}
	return New(lock, trees, urls, BaseSource{})
}

// TestGoldenKeys holds keys to what they were: each stands in action caches. They change only with a format number.
func TestGoldenKeys(t *testing.T) {
	var b strings.Builder
	question := ObserveSpec{Suite: "bookworm", Arch: "amd64"}
	indexes := []Index{{Base: "http://mirror.example/debian", Suite: "bookworm", Codename: "bookworm", Component: "main",
		Release: sha("release"), SignedBy: "ABCD", Packages: sha("packages"), Name: "main/binary-amd64/Packages.xz", Size: 5}}
	shards := []Shard{Observe(question), Solve(SolveSpec{
		Debian: *parse(t, demo).OS.Debian, Arch: "amd64", Indexes: indexes})}
	for _, text := range []string{demo, overScratch, overScratch + "outputs: [{oci: {platforms: [linux/arm64, linux/amd64]}}]\n"} {
		shards = append(shards, bake(t, text, context(), packages).Shards...)
	}
	shards = append(shards, bake(t, demo, context(), inBase(packages, "libc6")).Shards...)
	shards = append(shards, bake(t, slim, context(), inBase(packages, "libc6")).Shards...)
	shards = append(shards, bake(t, run(demo), context(), inBase(packages, "libc6")).Shards...)
	for _, s := range shards {
		fmt.Fprintf(&b, "%s %s %d %s\n", s.Key, s.Class, Formats[s.Kind], s.Label)
	}
	golden := filepath.Join("testdata", "keys.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("keys changed: raise the format number of the kind, then run with -update.\n got:\n%s want:\n%s", b.String(), want)
	}
}

// run is a recipe with maintainer scripts, which is the default.
func run(text string) string { return strings.Replace(text, ", scripts: skip", "", 1) }

// Scripts run over the variant's packages, and those of the others over all of them, on workers that can, and only they.
func TestScriptsRun(t *testing.T) {
	skipped := map[digest.Digest]bool{}
	for _, s := range bake(t, demo, context(), inBase(packages, "libc6")).Shards {
		skipped[s.Key] = true
	}
	roles, layers := layersOf(t, bake(t, run(demo), context(), inBase(packages, "libc6")))
	if !slices.Equal(roles, []string{RoleOS, RoleScripts, RolePackages, RoleScripts, RoleApp}) {
		t.Fatalf("the image has %v", roles)
	}
	key := func(n int) (keys []digest.Digest) {
		for _, s := range layers[:n] {
			keys = append(keys, s.Key)
		}
		return keys
	}
	for i, s := range layers {
		switch spec := s.Spec.(type) {
		case AssembleSpec:
			if shared := skipped[s.Key]; shared != (spec.OS == nil) || spec.OS != nil && !spec.OS.Scripts {
				t.Errorf("%s: shared with scripts: skip: %v", s.Label, shared)
			}
		case ConfigureSpec:
			below := 0
			if i == 3 {
				below = 2
			}
			if s.Label != "configure amd64 system" || s.Class != "amd64.configure" || spec.Below != below || spec.Variant != (below == 0) || !slices.Equal(s.Deps, key(i)) {
				t.Errorf("%+v, want it over %v", s, key(i))
			}
		}
	}
	for name, test := range map[string]struct {
		packages []recipe.LockedPackage
		roles    []string
		below    int
	}{
		"nothing but variant": {inBase(packages, "libc6", "tzdata"), []string{RoleOS, RoleScripts, RoleApp}, 0},
		"no variant":          {packages, []string{RoleOS, RoleScripts, RoleApp}, 0},
	} {
		roles, layers := layersOf(t, bake(t, run(demo), context(), test.packages))
		if !slices.Equal(roles, test.roles) || layers[1].Spec.(ConfigureSpec).Below != test.below {
			t.Errorf("%s: layers %v", name, roles)
		}
	}
	for _, s := range bake(t, run(demo), context(), inBase(packages, "libc6")).Shards {
		if _, scripts := s.Spec.(ConfigureSpec); !scripts && !strings.HasPrefix(s.Class, "any.") {
			t.Errorf("%s is of class %s", s.Label, s.Class)
		}
	}
	if l := Lock(parse(t, run(demo)), nil, nil, nil); l.OS.Debian.Scripts != "run" || l.Formats[string(farm.KindConfigure)] == 0 {
		t.Errorf("lock %+v, formats %v", l.OS.Debian, l.Formats)
	}
}

func TestPlanIsTopologicalAndWhole(t *testing.T) {
	p := bake(t, demo, context(), packages)
	at := make(map[digest.Digest]*Shard)
	for i := range p.Shards {
		s := &p.Shards[i]
		for _, dep := range s.Deps {
			if at[dep] == nil {
				t.Errorf("%s comes before its dependency %s", s.Label, dep)
			}
		}
		if at[s.Key] != nil {
			t.Errorf("%s stands twice", s.Label)
		}
		at[s.Key] = s
		if _, err := json.Marshal(s.Spec); err != nil {
			t.Error(err)
		}
		if s.Class != "any."+string(s.Kind) {
			t.Errorf("%s: class %s", s.Label, s.Class)
		}
	}
	if len(p.Images) != 1 || p.Images[0].Platform != "linux/amd64" {
		t.Fatalf("images: %+v", p.Images)
	}
	image := at[p.Images[0].Shard]
	if spec := image.Spec.(ImageSpec); !slices.Equal(spec.Roles, []string{"os", "app"}) || spec.Config.Env["PORT"] != "8080" {
		t.Errorf("image spec: %+v", spec)
	}
	system, app := at[image.Deps[0]], at[image.Deps[1]]
	if spec := system.Spec.(AssembleSpec); spec.Role != "os" || spec.OS.Arch != "amd64" || len(spec.OS.Packages) != len(system.Deps) {
		t.Errorf("os layer: %+v", spec)
	}
	for i, dep := range system.Deps {
		if spec := at[dep].Spec.(ConvertSpec); spec.Package != packages[i] || spec.URLs[0] != "http://mirror.example/"+packages[i].Name {
			t.Errorf("member %d of the os layer: %+v", i, spec)
		}
	}
	var dirs, files []string
	for _, d := range app.Spec.(AssembleSpec).Dirs {
		dirs = append(dirs, d.Path)
	}
	for _, dep := range app.Deps {
		if spec := at[dep].Spec.(CutSpec); spec.Segment == nil || spec.Segment.Chunk == 0 {
			for _, e := range spec.Entries {
				files = append(files, e.Path)
			}
		}
	}
	if want := []string{"etc", "opt", "opt/hello"}; !slices.Equal(dirs, want) {
		t.Errorf("directories %q, want %q", dirs, want)
	}
	if want := []string{"etc/hello.conf", "opt/hello/current", "opt/hello/data.bin", "opt/hello/hello"}; !slices.Equal(files, want) {
		t.Errorf("files %q, want %q", files, want)
	}
}

// TestKeysCoverInputsOnly changes one input at a time and says which kinds get other keys.
func TestKeysCoverInputsOnly(t *testing.T) {
	base := bake(t, demo, context(), packages)
	tests := []struct {
		name string
		make func() *Plan
		want string // labels of the new shards, up to the first space
	}{
		{"nothing", func() *Plan { return bake(t, demo, context(), packages) }, ""},
		{"another recipe name", func() *Plan {
			return bake(t, strings.Replace(demo, "demo/hello", "demo/other", 1), context(), packages)
		}, ""},
		{"config", func() *Plan { return bake(t, strings.Replace(demo, "8080}", "9090}", 1), context(), packages) }, "image"},
		{"a file", func() *Plan {
			c := context()
			c.Files[2].Chunks = []digest.Digest{sha("changed")}
			return bake(t, demo, c, packages)
		}, "cut assemble image"},
		{"an owner of a directory", func() *Plan {
			return bake(t, strings.Replace(demo, "to: /opt/hello}", `to: /opt/hello/sub}`, 1), context(), packages)
		}, "cut cut cut assemble image"}, // the run before data.bin, its first segment, the run after it
		{"a package", func() *Plan {
			p := slices.Clone(packages)
			p[1].SHA256 = sha("other tzdata")
			return bake(t, demo, context(), p)
		}, "convert assemble image"},
		{"a package's name and version", func() *Plan {
			p := slices.Clone(packages)
			p[1].Version, p[1].Size = "9", 9
			return bake(t, demo, context(), p)
		}, ""},
		{"the suite", func() *Plan { return bake(t, strings.Replace(demo, "bookworm", "trixie", 1), context(), packages) }, "assemble image"},
		{"scratch below the same app", func() *Plan {
			return bake(t, strings.Replace(demo, "{debian: {suite: bookworm, packages: [tzdata], scripts: skip}}", "{scratch: {}}", 1), context(), nil)
		}, "image"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			have := make(map[digest.Digest]bool)
			for _, s := range base.Shards {
				have[s.Key] = true
			}
			var fresh []string
			for _, s := range test.make().Shards {
				if !have[s.Key] {
					kind, _, _ := strings.Cut(s.Label, " ")
					fresh = append(fresh, kind)
				}
			}
			if got := strings.Join(fresh, " "); got != test.want {
				t.Errorf("new keys: %q, want %q", got, test.want)
			}
		})
	}
}

func TestFormatNumberChangesKeys(t *testing.T) {
	before := bake(t, demo, context(), packages)
	defer func(n int) { Formats[farm.KindConvert] = n }(Formats[farm.KindConvert])
	Formats[farm.KindConvert]++
	after := bake(t, demo, context(), packages)
	for i := range before.Shards {
		s := &before.Shards[i]
		app := s.Kind == farm.KindCut || strings.HasPrefix(s.Label, "assemble app")
		if same := s.Key == after.Shards[i].Key; same != app {
			t.Errorf("%s: same key %v after another format of convert", s.Label, same)
		}
	}
}

func TestSolveKey(t *testing.T) {
	spec := func() SolveSpec {
		return SolveSpec{Arch: "amd64",
			Debian:  recipe.Debian{Suite: "bookworm", Variant: "none", Packages: []string{"git"}, Scripts: "skip"},
			Indexes: []Index{{Base: "b", Suite: "s", Codename: "c", Component: "m", Packages: sha("p"), Name: "n"}}}
	}
	base := Solve(spec()).Key
	for name, test := range map[string]struct {
		change func(*SolveSpec)
		same   bool
	}{
		"evidence":     {func(s *SolveSpec) { s.Indexes[0].Release, s.Indexes[0].SignedBy = sha("r"), "F" }, true},
		"where to ask": {func(s *SolveSpec) { s.Debian.Mirror, s.Debian.Keyring = "http://m.example", "/k" }, true},
		"index":        {func(s *SolveSpec) { s.Indexes[0].Packages = sha("q") }, false},
		"base":         {func(s *SolveSpec) { s.Indexes[0].Base = "other" }, false},
		"package":      {func(s *SolveSpec) { s.Debian.Packages = []string{"git", "vim"} }, false},
		"variant":      {func(s *SolveSpec) { s.Debian.Variant = "minbase" }, false},
		"architecture": {func(s *SolveSpec) { s.Arch = "arm64" }, false},
		"order":        {func(s *SolveSpec) { s.Debian.Packages = []string{"vim", "git"} }, false},
		"origin":       {func(s *SolveSpec) { s.Indexes[0].Origin = "Debian" }, false},
		"automatic":    {func(s *SolveSpec) { s.Indexes[0].NotAutomatic = true }, false},
		"pins":         {func(s *SolveSpec) { s.Pins = []Pin{{"*", "release o=Debian", "-1"}} }, false},
	} {
		s := spec()
		test.change(&s)
		if same := Solve(s).Key == base; same != test.same {
			t.Errorf("%s: same key: %v", name, same)
		}
	}
}

func TestSystemLinksSurviveTheApp(t *testing.T) {
	text := strings.Replace(demo, "to: /opt/hello", "to: /bin", 1)
	p := bake(t, text, context(), packages)
	for _, s := range p.Shards {
		if spec, ok := s.Spec.(AssembleSpec); ok && spec.Role == RoleApp {
			for _, d := range spec.Dirs {
				if d.Path == "bin" {
					t.Error("the app layer has a directory /bin, which replaces the link to usr/bin")
				}
			}
			if !slices.ContainsFunc(spec.Dirs, func(e recipe.TreeEntry) bool { return e.Path == "usr/bin" }) {
				t.Error("the app layer has no /usr/bin")
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	bookworm := `
apiVersion: bakefarm/v1
name: demo/os
os: {debian: {suite: bookworm, scripts: skip}}
`
	if _, err := tryBake(t, bookworm, nil, nil); err == nil || !strings.Contains(err.Error(), "the image would be empty") {
		t.Errorf("neither packages nor app: %v", err)
	}
	twice := []recipe.LockedPackage{packages[0], packages[0]}
	if _, err := tryBake(t, bookworm, nil, twice); err == nil || !strings.Contains(err.Error(), "each package once") {
		t.Errorf("a package twice: %v", err)
	}
	bad := []recipe.LockedPackage{{Name: "x", SHA256: "nonsense"}}
	if _, err := tryBake(t, bookworm, nil, bad); err == nil || !strings.Contains(err.Error(), `package "x"`) {
		t.Errorf("a package without content: %v", err)
	}

	r := parse(t, demo)
	trees, err := recipe.BuildTrees(context(), r.App)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]recipe.LockedPackage{"linux/amd64": packages}
	for name, test := range map[string]struct {
		change func(l *recipe.Lock) []*recipe.Tree
		want   string
	}{
		"fewer trees":      {func(*recipe.Lock) []*recipe.Tree { return trees[:1] }, "2 app items, but 1 trees"},
		"other trees":      {func(*recipe.Lock) []*recipe.Tree { return []*recipe.Tree{trees[1], trees[0]} }, "app[0] is the tree"},
		"another format":   {func(l *recipe.Lock) []*recipe.Tree { l.Formats["cut"] = 99; return trees }, "format 99 of cut"},
		"no such kind":     {func(l *recipe.Lock) []*recipe.Tree { l.Formats["fold"] = 1; return trees }, "of fold"},
		"no system":        {func(l *recipe.Lock) []*recipe.Tree { l.OS.Debian = nil; return trees }, "exactly one of"},
		"no such platform": {func(l *recipe.Lock) []*recipe.Tree { l.Outputs[0].OCI.Platforms = []string{"plan9/386"}; return trees }, "plan9/386"},
		"not locked for": {func(l *recipe.Lock) []*recipe.Tree {
			l.Outputs[0].OCI.Platforms = []string{"linux/arm64"}
			return trees
		}, "no packages for linux/arm64"},
		"no such way": {func(l *recipe.Lock) []*recipe.Tree { l.OS.Debian.Scripts = "walk"; return trees }, "want run or skip"},
		"no output":   {func(l *recipe.Lock) []*recipe.Tree { l.Outputs = nil; return trees }, "no output"},
	} {
		lock, err := recipe.DecodeLock(Lock(r, nil, all, trees).Encode())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(lock, test.change(lock), urls, BaseSource{}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestTwoPlatformsShareWhatTheyCan(t *testing.T) {
	r := parse(t, demo)
	r.Outputs[0].OCI.Platforms = []string{"linux/amd64", "linux/arm64"}
	trees, err := recipe.BuildTrees(context(), r.App)
	if err != nil {
		t.Fatal(err)
	}
	arm := slices.Clone(packages)
	arm[0].Arch, arm[0].SHA256 = "arm64", sha("libc6 arm64")
	p, err := New(Lock(r, nil, map[string][]recipe.LockedPackage{"linux/amd64": packages, "linux/arm64": arm}, trees), trees, urls, BaseSource{})
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[farm.Kind]int)
	for _, s := range p.Shards {
		count[s.Kind]++
	}
	if count[farm.KindConvert] != 3 || count[farm.KindAssemble] != 3 || count[farm.KindImage] != 2 || count[farm.KindIndex] != 1 {
		t.Errorf("shards %v", count)
	}
	var made []string
	for _, i := range p.Images {
		made = append(made, i.Kind+" "+i.Platform)
	}
	if !slices.Equal(made, []string{"oci ", "oci linux/amd64", "oci linux/arm64"}) {
		t.Fatalf("images %q: want the index first", made)
	}
	index := p.Shards[len(p.Shards)-1]
	if spec := index.Spec.(ImageIndexSpec); index.Key != p.Images[0].Shard || !slices.Equal(spec.Platforms, []string{"linux/amd64", "linux/arm64"}) ||
		!slices.Equal(index.Deps, []digest.Digest{p.Images[1].Shard, p.Images[2].Shard}) {
		t.Errorf("index %+v", index)
	}
	if want := "no farm member has made the index over linux/amd64, linux/arm64 of these images with format 1"; index.Reason(farm.SourceMiss) != want {
		t.Errorf("reason: %s", index.Reason(farm.SourceMiss))
	}

	// One platform alone is the same image, under a Lock that knows of no index.
	alone := bake(t, demo, context(), packages)
	if len(alone.Images) != 1 || alone.Images[0] != p.Images[1] {
		t.Errorf("alone %+v, with another platform %+v", alone.Images, p.Images[1])
	}
	if l := Lock(parse(t, demo), nil, nil, nil); l.Formats[string(farm.KindIndex)] != 0 {
		t.Errorf("formats of a Lock for one platform: %v", l.Formats)
	}
}

func TestResolve(t *testing.T) {
	q, err := Resolve(parse(t, demo), nil)
	if err != nil || len(q) != 1 || q[0].Platform != "linux/amd64" || q[0].Observe != (ObserveSpec{Suite: "bookworm", Arch: "amd64"}) {
		t.Fatalf("%+v, %v", q, err)
	}
	if s := q[0].Solve(ObserveOutput{}, nil, nil); s.Label != "solve bookworm amd64" || s.Spec.(SolveSpec).Debian.Packages[0] != "tzdata" {
		t.Errorf("%+v", s)
	}
	if q, err := Resolve(parse(t, overScratch), nil); q != nil || err != nil {
		t.Errorf("scratch asks %+v, %v", q, err)
	}
	for platform, want := range map[string]string{"linux/amd64": "amd64", "linux/arm/v7": "armhf", "linux/ppc64le": "ppc64el"} {
		if arch, err := DebArch(platform); arch != want || err != nil {
			t.Errorf("DebArch(%s) = %s, %v", platform, arch, err)
		}
	}
	if _, err := DebArch("windows/amd64"); err == nil || !strings.Contains(err.Error(), "windows/amd64") {
		t.Errorf("windows: %v", err)
	}
}

func TestDecide(t *testing.T) {
	p := bake(t, demo, context(), packages)
	sources := func(had func(s *Shard) bool) (string, int) {
		asked := make(map[digest.Digest]int)
		decisions := p.Decide(func(key digest.Digest) bool {
			if asked[key]++; asked[key] > 1 {
				t.Errorf("asked twice for %s", key)
			}
			i := slices.IndexFunc(p.Shards, func(s Shard) bool { return s.Key == key })
			return had(&p.Shards[i])
		})
		count := make(map[farm.Source]int)
		for i, d := range decisions {
			count[d.Source]++
			if d.Reason == "" {
				t.Errorf("%s: no reason", p.Shards[i].Label)
			}
		}
		return fmt.Sprintf("%d hit, %d miss, %d pruned", count[farm.SourceHit], count[farm.SourceMiss], count[farm.SourcePruned]), len(asked)
	}
	total := len(p.Shards) // 2 convert, 5 cut, 2 assemble, 1 image
	if got, asked := sources(func(*Shard) bool { return false }); got != fmt.Sprintf("0 hit, %d miss, 0 pruned", total) || asked != total {
		t.Errorf("nothing there: %s, %d asked", got, asked)
	}
	if got, asked := sources(func(*Shard) bool { return true }); got != fmt.Sprintf("1 hit, 0 miss, %d pruned", total-1) || asked != 1 {
		t.Errorf("all there: %s, %d asked", got, asked)
	}
	if got, _ := sources(func(s *Shard) bool { return s.Label == "assemble os layer bookworm amd64" }); got != fmt.Sprintf("1 hit, %d miss, 2 pruned", total-3) {
		t.Errorf("the OS layer there: %s", got)
	}
	if got, _ := sources(func(s *Shard) bool { return s.Kind == farm.KindConvert || s.Kind == farm.KindCut }); got != fmt.Sprintf("%d hit, 3 miss, 0 pruned", total-3) {
		t.Errorf("only members there: %s", got)
	}

	for i, d := range p.Decide(func(digest.Digest) bool { return false }) {
		if s := p.Shards[i]; s.Label == "convert libc6 2.36-9 amd64" && d.Reason != "no farm member has converted libc6 2.36-9 amd64 with format 2" {
			t.Errorf("reason: %s", d.Reason)
		}
	}
}

// The user's own packages are the uppermost layer of the system, whatever they are called.
func TestOwnPackagesHaveTheirLayer(t *testing.T) {
	list := slices.Clone(packages)
	list[0].Base = true
	own := recipe.LockedPackage{Name: "checkout", Version: "1.4", Arch: "amd64", SHA256: sha("checkout"), Size: 300, Own: true}
	p := bake(t, demo, context(), append([]recipe.LockedPackage{own}, list...))
	without := map[digest.Digest]bool{}
	for _, s := range bake(t, demo, context(), list).Shards {
		without[s.Key] = true
	}
	for _, s := range p.Shards {
		switch spec := s.Spec.(type) {
		case AssembleSpec:
			if isOwn := spec.Role == RoleOwn; isOwn == without[s.Key] || isOwn && (spec.OS.Below != 2 || spec.OS.Packages[2] != own) {
				t.Errorf("%s: shared %v, %+v", s.Label, without[s.Key], spec.OS)
			}
		case ImageSpec:
			if !slices.Equal(spec.Roles, []string{RoleOS, RolePackages, RoleOwn, RoleApp}) {
				t.Errorf("the image has %v", spec.Roles)
			}
		}
	}
	if s := Inspect(InspectSpec{File: "a.deb", Size: 3, Chunks: []digest.Digest{sha("a")}}); s.Key != Inspect(InspectSpec{File: "b.deb", Size: 3, Chunks: []digest.Digest{sha("a")}}).Key || s.Label != "inspect a.deb" {
		t.Errorf("%+v", s)
	}
}
