package plan

import (
	"slices"
	"strings"
	"testing"

	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// inBase marks the packages of those names as the variant's.
func inBase(packages []recipe.LockedPackage, names ...string) []recipe.LockedPackage {
	packages = slices.Clone(packages)
	for i := range packages {
		packages[i].Base = slices.Contains(names, packages[i].Name)
	}
	return packages
}

// layersOf returns the roles of the only image of a plan, and its layers.
func layersOf(t *testing.T, p *Plan) (roles []string, layers []Shard) {
	t.Helper()
	byKey := make(map[digest.Digest]Shard)
	for _, s := range p.Shards {
		byKey[s.Key] = s
	}
	image := byKey[p.Images[0].Shard]
	for _, dep := range image.Deps {
		layers = append(layers, byKey[dep])
	}
	return image.Spec.(ImageSpec).Roles, layers
}

func TestVariantHasALayerOfItsOwn(t *testing.T) {
	many := append(slices.Clone(packages), recipe.LockedPackage{Name: "zlib1g", Version: "1", Arch: "amd64", SHA256: sha("zlib1g")})
	roles, layers := layersOf(t, bake(t, demo, context(), inBase(many, "libc6", "zlib1g")))
	if !slices.Equal(roles, []string{"os", "packages", "app"}) {
		t.Fatalf("layers %q", roles)
	}
	names := func(s Shard) (names []string) {
		for _, p := range s.Spec.(AssembleSpec).OS.Packages {
			names = append(names, p.Name)
		}
		return names
	}
	base, upper := layers[0], layers[1]
	if got := names(base); !slices.Equal(got, []string{"libc6", "zlib1g"}) || len(base.Deps) != 2 {
		t.Errorf("the variant's layer has %q", got)
	}
	if got := names(upper); !slices.Equal(got, []string{"libc6", "zlib1g", "tzdata"}) || upper.Spec.(AssembleSpec).OS.Below != 2 {
		t.Errorf("the layer over it is of %q", got)
	}
	if !slices.Equal(upper.Deps[:2], base.Deps) {
		t.Error("the upper layer is not made over the lower one's packages")
	}

	// Whatever is added, the variant's layer is the one that it is alone.
	for name, set := range map[string][]recipe.LockedPackage{
		"alone":         slices.DeleteFunc(inBase(many, "libc6", "zlib1g"), func(p recipe.LockedPackage) bool { return !p.Base }),
		"another added": inBase([]recipe.LockedPackage{many[0], {Name: "vim", Version: "2", Arch: "amd64", SHA256: sha("vim")}, many[2]}, "libc6", "zlib1g"),
	} {
		if _, other := layersOf(t, bake(t, demo, context(), set)); other[0].Key != base.Key {
			t.Errorf("%s: the variant's layer has another key", name)
		}
	}
	for name, set := range map[string][]recipe.LockedPackage{
		"no variant":           many,
		"nothing but variant":  inBase(many, "libc6", "tzdata", "zlib1g"),
		"a Lock without marks": inBase(many),
	} {
		if roles, _ := layersOf(t, bake(t, demo, context(), set)); !slices.Equal(roles, []string{"os", "app"}) {
			t.Errorf("%s: layers %q", name, roles)
		}
	}
	// What is below is another layer than one of the same packages in one.
	_, one := layersOf(t, bake(t, demo, context(), many))
	if one[0].Key == upper.Key || one[0].Key == base.Key {
		t.Error("a layer over another one has the key of one that stands alone")
	}
}

func TestExclude(t *testing.T) {
	whole := map[digest.Digest]bool{}
	for _, s := range bake(t, demo, context(), inBase(packages, "libc6")).Shards {
		whole[s.Key] = true
	}
	p := bake(t, slim, context(), inBase(packages, "libc6"))
	var fresh []string
	for _, s := range p.Shards {
		if !whole[s.Key] {
			fresh = append(fresh, s.Label)
		}
	}
	want := []string{"trim libc6 2.36-9 amd64", "trim tzdata 2024a-0", "assemble os layer bookworm amd64", "assemble packages layer bookworm amd64", "image linux/amd64"}
	if !slices.Equal(fresh, want) {
		t.Errorf("what is left out costs %q, want %q", fresh, want)
	}
	again := bake(t, strings.Replace(slim, "[docs, man]", "[man, docs]", 1), context(), inBase(packages, "libc6"))
	if again.Images[0].Shard != p.Images[0].Shard {
		t.Error("the order of presets makes another image")
	}
	_, layers := layersOf(t, p)
	if spec := layers[1].Spec.(AssembleSpec); !slices.Contains(spec.OS.Exclude, "/usr/share/man/*/*") {
		t.Errorf("spec %+v", spec.OS)
	}
}
