package plan

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// Plan is the DAG of one bake's shards.
type Plan struct {
	Shards []Shard  // dependencies before what depends on them; no key twice
	Images []Output // the index first when there are several platforms, then the image of each, sorted by platform; disks
}

// Shard is one unit of work before anybody wants it.
type Shard struct {
	Key   digest.Digest
	Kind  farm.Kind
	Class string // farm.Class
	Label string // the kind, a space, and what it is about: "convert libc6 2.36-9 amd64"
	Spec  any    // the kind's spec of this package: JSON
	// Deps are the keys of the shards whose outputs the spec refers to, in the spec's order. A key may stand here more
	// than once: two equal chunks of a file are one shard.
	Deps []digest.Digest
	// Work is about how much a worker has to go through, in bytes; 0: hard to say, or little. Of what a bake could run, the
	// largest shards run first, so that no large one is left over in the end. No part of the key.
	Work int64
	// Requires are labels that its worker must have, beside those that the bake requires. No part of the key.
	Requires []string
}

// Output is an image that the plan makes.
type Output struct {
	Kind     string        // farm.ImageOCI, farm.ImageDisk
	Platform string        // empty: the index over all platforms
	Shard    digest.Digest // key of the image, index or disk shard
}

// MaxShards bounds a plan.
const MaxShards = 100_000

// debArches maps an OCI platform to the Debian architecture that runs on it.
var debArches = map[string]string{
	"linux/386":      "i386",
	"linux/amd64":    "amd64",
	"linux/arm/v5":   "armel",
	"linux/arm/v7":   "armhf",
	"linux/arm64":    "arm64",
	"linux/arm64/v8": "arm64",
	"linux/loong64":  "loong64",
	"linux/mips64le": "mips64el",
	"linux/ppc64le":  "ppc64el",
	"linux/riscv64":  "riscv64",
	"linux/s390x":    "s390x",
}

// DebArch returns the Debian architecture of an OCI platform.
func DebArch(platform string) (string, error) {
	arch, ok := debArches[platform]
	if !ok {
		return "", fmt.Errorf("platform %q: no Debian architecture runs on it; known are %s",
			platform, strings.Join(slices.Sorted(maps.Keys(debArches)), ", "))
	}
	return arch, nil
}

// Question is what a recipe asks of the world for one system before it can be locked.
type Question struct {
	Platform  string // or recipe.SystemOf a disk
	Observe   ObserveSpec
	Debian    recipe.Debian // what to solve against the answer
	Installed digest.Digest // over a base: Base.Status
}

// Found is what a base for one platform came to: the output of its import, with the list of its packages.
type Found struct {
	Base
	Image digest.Digest
	List  []recipe.BasePackage
}

// Solve returns the shard that answers the question, given what was observed. What is in stay stays as it is, as far as
// that leaves a system; own are packages of the user's.
func (q Question) Solve(observed ObserveOutput, stay []Stay, own []Own) Shard {
	return Solve(SolveSpec{Debian: q.Debian, Arch: q.Observe.Arch, Indexes: observed.Indexes, Pins: observed.Pins, Stay: stay, Own: own, Installed: q.Installed})
}

// Locate returns the shard that finds out where packages can be had, given what was observed.
func (q Question) Locate(observed ObserveOutput, packages []recipe.LockedPackage) Shard {
	return Solve(SolveSpec{Debian: recipe.Debian{Suite: q.Debian.Suite}, Arch: q.Observe.Arch, Indexes: observed.Indexes, Locate: packages})
}

// Resolve returns the questions of a recipe, one for each system of its outputs, sorted; none when it is all there
// already, as over scratch. bases are what the recipe's base came to, by platform: packages over it are of its suite, where
// the recipe names none, and are asked for beside what it has.
func Resolve(r *recipe.Recipe, bases map[string]*Found) ([]Question, error) {
	if r.OS.Debian == nil {
		return nil, nil
	}
	var questions []Question
	for _, system := range r.Systems() {
		d := *r.OS.Debian
		platform, _ := recipe.PlatformOf(system)
		arch, err := DebArch(platform)
		if err != nil {
			return nil, err
		}
		q := Question{Platform: system}
		there := d.Packages
		if base := bases[platform]; base != nil {
			if d.Suite == "" {
				d.Suite = base.Codename
			}
			q.Installed = base.Status
			for _, p := range base.List {
				there = append(slices.Clip(there), p.Name)
			}
		}
		if disk := r.DiskOf(system); disk != nil {
			d.Packages = append(slices.Clip(d.Packages), machinePackages(there, arch, disk)...)
		}
		q.Observe, q.Debian = ObserveSpec{Suite: d.Suite, Arch: arch, Mirror: d.Mirror, Keyring: d.Keyring}, d
		questions = append(questions, q)
	}
	return questions, nil
}

// Lock puts together what a recipe resolved to: its base, the answers to its questions by platform, and its app as
// recipe.BuildTrees made it, one tree for each item.
func Lock(r *recipe.Recipe, base *recipe.LockedBase, packages map[string][]recipe.LockedPackage, trees []*recipe.Tree) *recipe.Lock {
	l := &recipe.Lock{APIVersion: recipe.LockVersion, Config: r.Config, Outputs: r.Outputs}
	kinds := []farm.Kind{farm.KindAssemble}
	if len(r.Platforms()) > 0 {
		kinds = append(kinds, farm.KindImage)
	}
	if len(r.Systems()) > len(r.Platforms()) {
		kinds = append(kinds, farm.KindRoot, farm.KindDisk)
	}
	if l.OS.Base = base; base != nil {
		kinds = append(kinds, farm.KindImport)
	}
	if d := r.OS.Debian; d != nil {
		l.OS.Debian = &recipe.LockedDebian{Suite: d.Suite, Scripts: d.Scripts, Exclude: d.Exclude, Platforms: packages}
		kinds = append(kinds, farm.KindConvert)
		if len(d.Exclude) > 0 {
			kinds = append(kinds, farm.KindTrim)
		}
		if d.Scripts == scriptsRun {
			kinds = append(kinds, farm.KindConfigure)
		}
	} else {
		l.OS.Scratch = base == nil
	}
	for _, t := range trees {
		l.App = append(l.App, t.Locked())
	}
	if len(trees) > 0 {
		kinds = append(kinds, farm.KindCut)
	}
	if len(r.Platforms()) > 1 {
		kinds = append(kinds, farm.KindIndex)
	}
	l.Formats = make(map[string]int, len(kinds))
	for _, kind := range kinds {
		l.Formats[string(kind)] = Formats[kind]
	}
	return l
}

// scriptsRun is the value of LockedDebian.Scripts that has maintainer scripts run.
const scriptsRun = "run"

// New plans a bake: for each platform the layers of the OS, with the packages in the Lock's order, and one of what their
// maintainer scripts change, then one for the app, all items merged, the images over them, and an index over several
// images; and the disks of the same. Over a base its layers come first. trees are those that the Lock names, in its order.
// urls says where a package can be fetched, source where the base can; no key depends on them.
func New(lock *recipe.Lock, trees []*recipe.Tree, urls func(recipe.LockedPackage) []string, source BaseSource) (*Plan, error) {
	if err := check(lock, trees); err != nil {
		return nil, err
	}
	b := builder{seen: make(map[digest.Digest]bool), apps: make(map[string]digest.Digest)}
	if lock.OS.Base == nil {
		if _, err := b.app(lock, trees, "", ""); err != nil {
			return nil, err
		}
	}
	for _, platform := range recipe.PlatformsOf(lock.Outputs) {
		spec := ImageSpec{Platform: platform, Config: lock.Config}
		var base digest.Digest
		var layers []digest.Digest
		var err error
		if lock.OS.Base != nil {
			if base, err = b.base(lock.OS.Base, platform, source); err != nil {
				return nil, err
			}
			spec.Base = true
		}
		if lock.OS.Debian != nil {
			if spec.Roles, layers, err = b.debian(lock.OS.Debian, platform, base, urls); err != nil {
				return nil, err
			}
		}
		app, err := b.app(lock, trees, platform, base)
		if err != nil {
			return nil, err
		}
		if app != "" {
			spec.Roles, layers = append(spec.Roles, RoleApp), append(layers, app)
		}
		if base != "" {
			layers = slices.Insert(layers, 0, base)
		}
		if len(layers) == 0 {
			return nil, fmt.Errorf("%s: neither a package nor an app file: the image would be empty", platform)
		}
		b.images = append(b.images, Output{Kind: farm.ImageOCI, Platform: platform, Shard: b.add(Image(spec, layers))})
	}
	if len(b.images) > 1 {
		b.images = slices.Insert(b.images, 0, Output{Kind: farm.ImageOCI, Shard: b.index()})
	}
	for _, o := range lock.Outputs {
		if o.Disk != nil {
			if err := b.disk(lock, o.Disk, trees, source, urls); err != nil {
				return nil, err
			}
		}
	}
	if len(b.images) == 0 {
		return nil, errors.New("lock: no output")
	}
	if len(b.shards) > MaxShards {
		return nil, fmt.Errorf("the bake has %d shards, more than %d; pack small parts of the app together", len(b.shards), MaxShards)
	}
	return &Plan{Shards: b.shards, Images: b.images}, nil
}

// check refuses what would make a plan that is not the Lock's.
func check(lock *recipe.Lock, trees []*recipe.Tree) error {
	for kind, format := range lock.Formats {
		if ours, ok := Formats[farm.Kind(kind)]; !ok || ours != format {
			return fmt.Errorf("lock: made with format %d of %s, this release makes format %d: lock the recipe again", format, kind, ours)
		}
	}
	if err := lock.OS.Validate(); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if d := lock.OS.Debian; d != nil && d.Scripts != scriptsRun && d.Scripts != "skip" {
		return fmt.Errorf("lock: os.debian.scripts is %.20q: want run or skip", d.Scripts)
	}
	if len(trees) != len(lock.App) {
		return fmt.Errorf("lock: %d app items, but %d trees", len(lock.App), len(trees))
	}
	for i, t := range trees {
		if locked := t.Locked(); locked != lock.App[i] {
			return fmt.Errorf("lock: app[%d] is the tree %s, not %s", i, lock.App[i].Tree, locked.Tree)
		}
	}
	return nil
}

// builder collects shards in topological order.
type builder struct {
	shards []Shard
	images []Output
	seen   map[digest.Digest]bool
	apps   map[string]digest.Digest // app layers, by what they lie over
}

func (b *builder) add(s Shard) digest.Digest {
	if !b.seen[s.Key] {
		b.seen[s.Key] = true
		b.shards = append(b.shards, s)
	}
	return s.Key
}

// debian adds the shards of an OS and returns the roles and keys of its layers, none when there is no package.
//
// The packages of the variant are one layer, as it is without any other package, and those that were asked for another
// one over it, with what follows from all of them: dpkg's status, the loader's index, alternatives. So all images of a
// suite have the same lowest layer, and another version of one added package leaves it alone. The user's own packages
// are a third layer, over those. Where all packages are of one sort, there is one layer.
//
// Scripts run where packages are laid: those of the variant's over its layer, which makes one more layer that all images
// of the suite have; then those of all other packages together over everything, as when apt installs them into a system
// that is there. What one package's script changes may be another's, and may depend on every package of the set.
//
// Over a base, whose shard's key it is, all of that lies over the base's layers, which are configured.
func (b *builder) debian(os *recipe.LockedDebian, system string, over digest.Digest, urls func(recipe.LockedPackage) []string) (roles []string, layers []digest.Digest, err error) {
	platform, _ := recipe.PlatformOf(system)
	arch, err := DebArch(platform)
	if err != nil {
		return nil, nil, err
	}
	packages, ok := os.Platforms[system]
	if !ok {
		return nil, nil, fmt.Errorf("lock: os: no packages for %s", system)
	}
	var base, added, own set
	for i, p := range packages {
		if err := p.SHA256.Validate(); err != nil {
			return nil, nil, fmt.Errorf("lock: os: package %q: %w", p.Name, err)
		}
		if i > 0 && !before(packages[i-1], p) {
			return nil, nil, fmt.Errorf("lock: os: %s %s comes after %s %s: want each package once, sorted by name and architecture",
				p.Name, p.Arch, packages[i-1].Name, packages[i-1].Arch)
		}
		to := &added
		switch {
		case p.Own:
			to = &own
		case p.Base:
			to = &base
		}
		to.packages = append(to.packages, p)
		to.members = append(to.members, b.convert(p, os.Exclude, urls(p)))
	}
	run := os.Scripts == scriptsRun
	layer := func(role string, s set, below int) {
		spec := AssembleSpec{Role: role, OS: &AssembleOS{Suite: os.Suite, Arch: arch, Exclude: os.Exclude, Packages: s.packages, Below: below, Scripts: run}, Base: over != ""}
		roles, layers = append(roles, role), append(layers, b.add(Assemble(spec, from(over, s.members))))
	}
	configured := 0 // layers
	configure := func(variant bool) {
		spec := ConfigureSpec{Arch: arch, Below: configured, Variant: variant, Base: over != ""}
		roles, layers = append(roles, RoleScripts), append(layers, b.add(Configure(spec, from(over, layers))))
		configured = len(layers)
	}
	var whole set
	for _, sort := range []struct {
		role string
		set
	}{{RoleOS, base}, {RolePackages, added}, {RoleOwn, own}} {
		below := len(whole.packages)
		if len(sort.packages) == 0 {
			continue
		}
		if below == 0 && over == "" {
			sort.role = RoleOS
		}
		whole = set{append(slices.Clip(whole.packages), sort.packages...), append(slices.Clip(whole.members), sort.members...)}
		layer(sort.role, whole, below)
		if run && len(whole.packages) == len(base.packages) {
			configure(true)
		}
	}
	if run && len(layers) > configured {
		configure(false)
	}
	return roles, layers, nil
}

// from is dependencies with the shard of the base in front, if there is one.
func from(over digest.Digest, keys []digest.Digest) []digest.Digest {
	if over == "" {
		return slices.Clone(keys)
	}
	return slices.Insert(slices.Clone(keys), 0, over)
}

// convert adds the shards of a package and returns the key of the last.
func (b *builder) convert(p recipe.LockedPackage, exclude, urls []string) digest.Digest {
	key := b.add(Convert(ConvertSpec{Package: p, URLs: urls}))
	if len(exclude) > 0 {
		key = b.add(Trim(TrimSpec{Package: p, Exclude: exclude}, key))
	}
	return key
}

// set is packages and the keys of the shards that make their members.
type set struct {
	packages []recipe.LockedPackage
	members  []digest.Digest
}

// index adds the shard of the index over all images and returns its key.
func (b *builder) index() digest.Digest {
	var spec ImageIndexSpec
	var images []digest.Digest
	for _, image := range b.images {
		spec.Platforms, images = append(spec.Platforms, image.Platform), append(images, image.Shard)
	}
	return b.add(ImageIndex(spec, images))
}

func before(a, b recipe.LockedPackage) bool {
	return a.Name < b.Name || a.Name == b.Name && a.Arch < b.Arch
}

// app adds the shards of the app layer for a platform and returns the layer's key, empty when there is nothing in it. Over a
// base the directories on the way are as they are there: its key is that of the base's shard.
func (b *builder) app(lock *recipe.Lock, trees []*recipe.Tree, platform string, over digest.Digest) (digest.Digest, error) {
	merge := lock.OS.Debian != nil
	var links []string
	if lock.OS.Base != nil && !merge {
		links = lock.OS.Base.Platforms[platform].Merged
		merge = len(links) > 0
	}
	what := strings.Join(append(slices.Clone(links), over.String()), " ")
	if made, ok := b.apps[what]; ok {
		return made, nil
	}
	if merge {
		merged := make([]*recipe.Tree, len(trees))
		for i, t := range trees {
			var err error
			if merged[i], err = t.MergeUsr(links...); err != nil {
				return "", fmt.Errorf("app[%d].%w", i, err)
			}
		}
		trees = merged
	}
	tree, err := recipe.MergeTrees(trees...)
	if err != nil || len(tree.Entries) == 0 {
		b.apps[what] = ""
		return "", err
	}
	spec := AssembleSpec{Role: RoleApp, Base: over != ""}
	var files []recipe.TreeEntry
	for _, e := range tree.Entries {
		if e.Type == recipe.TypeDir {
			spec.Dirs = append(spec.Dirs, e)
		} else {
			files = append(files, e)
		}
	}
	var members []digest.Digest
	for _, run := range Runs(files) {
		members = append(members, b.add(Cut(run)))
	}
	b.apps[what] = b.add(Assemble(spec, from(over, members)))
	return b.apps[what], nil
}
