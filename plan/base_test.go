package plan

import (
	"slices"
	"strings"
	"testing"

	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

func overBase(t *testing.T, text string, base *recipe.LockedBase, added map[string][]recipe.LockedPackage, source BaseSource) *Plan {
	t.Helper()
	r := parse(t, text)
	trees, err := recipe.BuildTrees(context(), r.App)
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Lock(r, base, added, trees), trees, urls, source)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func shardOf(p *Plan, kind farm.Kind) (found []Shard) {
	for _, s := range p.Shards {
		if s.Kind == kind {
			found = append(found, s)
		}
	}
	return found
}

const imageBase = "{image: registry.example/team/base:1}"

func overImage(os string) string {
	return "apiVersion: bakefarm/v1\nname: shop/over\nos: " + os + "\napp: [{copy: ., to: /bin}]\n"
}

func lockedBase(image string) *recipe.LockedBase {
	return &recipe.LockedBase{Platforms: map[string]recipe.LockedBasePlatform{"linux/amd64": {Image: sha(image), Merged: []string{"bin"},
		Packages: []recipe.BasePackage{{Name: "libc6", Version: "2.36", Arch: "amd64"}}}}}
}

func TestPlanOverBase(t *testing.T) {
	source := BaseSource{From: recipe.FromRegistry, Ref: "registry.example/team/base:1", Name: "registry.example/team/base:1"}
	p := overBase(t, overImage(imageBase), lockedBase("a"), nil, source)
	base, image, layers := shardOf(p, farm.KindImport), shardOf(p, farm.KindImage), shardOf(p, farm.KindAssemble)
	if len(base) != 1 || len(image) != 1 || len(layers) != 1 {
		t.Fatalf("shards %+v", p.Shards)
	}
	if !slices.Equal(image[0].Deps, []digest.Digest{base[0].Key, layers[0].Key}) || layers[0].Deps[0] != base[0].Key {
		t.Errorf("the image is of %q, the app's layer of %q", image[0].Deps, layers[0].Deps)
	}
	if spec := layers[0].Spec.(AssembleSpec); !spec.Base || !slices.ContainsFunc(spec.Dirs, func(e recipe.TreeEntry) bool { return e.Path == "usr/bin" }) {
		t.Errorf("/bin is a link in the base: %+v", spec.Dirs)
	}
	if base[0].Label != "import registry.example/team/base:1 linux/amd64" || base[0].Reason(farm.SourceMiss) != "no farm member has imported registry.example/team/base:1 linux/amd64 with this digest with format 1" {
		t.Errorf("%q, %q", base[0].Label, base[0].Reason(farm.SourceMiss))
	}
	elsewhere := overBase(t, overImage(imageBase), lockedBase("a"), nil, BaseSource{From: recipe.FromRecipe, Ref: "base@prod"})
	if elsewhere.Images[0].Shard != p.Images[0].Shard {
		t.Error("where a base comes from changes what is made of it")
	}
	if other := overBase(t, overImage(imageBase), lockedBase("b"), nil, source); other.Images[0].Shard == p.Images[0].Shard {
		t.Error("another base makes the same image")
	}
	// A key is a contract with every action cache: a change raises the format number.
	if want := digest.Digest("sha256:4984020ff8c694ec84d9e63174c20145dbcd8179e2ccd336287941aa8e8951ed"); base[0].Key != want {
		t.Errorf("the key of an import is %s, want %s", base[0].Key, want)
	}
}

func TestPlanPackagesOverBase(t *testing.T) {
	added := map[string][]recipe.LockedPackage{"linux/amd64": packages}
	p := overBase(t, overImage("{image: {ref: registry.example/team/base:1, suite: bookworm, packages: [tzdata]}}"), lockedBase("a"), added, BaseSource{})
	base, configure := shardOf(p, farm.KindImport)[0], shardOf(p, farm.KindConfigure)
	if len(configure) != 1 || configure[0].Deps[0] != base.Key || !configure[0].Spec.(ConfigureSpec).Base || configure[0].Spec.(ConfigureSpec).Below != 0 {
		t.Fatalf("configure %+v", configure)
	}
	for _, s := range shardOf(p, farm.KindAssemble) {
		if spec := s.Spec.(AssembleSpec); !spec.Base || s.Deps[0] != base.Key || spec.OS != nil && spec.Role != RolePackages {
			t.Errorf("layer %+v", spec)
		}
	}
	if image := shardOf(p, farm.KindImage)[0]; !slices.Equal(image.Spec.(ImageSpec).Roles, []string{RolePackages, RoleScripts, RoleApp}) || len(image.Deps) != 4 {
		t.Errorf("image %+v", image.Spec)
	}
}

func TestResolveOverBase(t *testing.T) {
	r := parse(t, overImage("{image: {ref: registry.example/team/base:1, packages: [curl]}}")+"outputs: [{oci: {}}, {disk: {size: 2GiB}}]\n")
	found := map[string]*Found{"linux/amd64": {Base: Base{Codename: "trixie", Status: sha("status")}, List: []recipe.BasePackage{{Name: "udev"}, {Name: "linux-image-amd64"}}}}
	q, err := Resolve(r, found)
	if err != nil || len(q) != 2 {
		t.Fatalf("%+v: %v", q, err)
	}
	if q[0].Observe.Suite != "trixie" || q[0].Installed != sha("status") || !slices.Equal(q[0].Debian.Packages, []string{"curl"}) {
		t.Errorf("%+v", q[0])
	}
	for _, there := range []string{"udev", "linux-image-cloud-amd64"} {
		if slices.Contains(q[1].Debian.Packages, there) {
			t.Errorf("%s is asked for, and the base has one", there)
		}
	}
	if !slices.Contains(q[1].Debian.Packages, "systemd-sysv") {
		t.Errorf("the disk asks for %q", q[1].Debian.Packages)
	}
}

func TestFilesDigest(t *testing.T) {
	source := func(dir string, chunk string) BaseSource {
		return BaseSource{From: recipe.FromLayout, Path: dir, Files: []recipe.ContextFile{{Path: strings.TrimPrefix(dir+"/index.json", "./"), Size: 3, Chunks: []digest.Digest{sha(chunk)}}}}
	}
	one := source("base", "a").FilesDigest()
	if source("elsewhere", "a").FilesDigest() != one {
		t.Error("where the files lie changes what they are")
	}
	if source("base", "b").FilesDigest() == one {
		t.Error("other content is the same base")
	}
	other := source("base", "a")
	if other.Name = "tag"; other.FilesDigest() == one {
		t.Error("another tag of a layout is the same base")
	}
}
