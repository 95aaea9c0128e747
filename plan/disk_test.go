package plan

import (
	"slices"
	"strings"
	"testing"

	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// withDisk is the demo with a disk beside its image.
var withDisk = strings.TrimSuffix(demo, "\n") + "\noutputs: [{oci: {}}, {disk: {size: 2GiB}}]\n"

// bakeDisk plans a recipe with other packages for its disk.
func bakeDisk(t *testing.T, text string, ctx *recipe.Context, systems map[string][]recipe.LockedPackage) *Plan {
	t.Helper()
	r := parse(t, text)
	trees, err := recipe.BuildTrees(ctx, r.App)
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Lock(r, nil, systems, trees), trees, urls, BaseSource{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDiskAsksForAMachine(t *testing.T) {
	questions, err := Resolve(parse(t, withDisk), nil)
	if err != nil || len(questions) != 2 {
		t.Fatalf("%+v: %v", questions, err)
	}
	image, disk := questions[0], questions[1]
	if image.Platform != "linux/amd64" || disk.Platform != "linux/amd64+disk" || Observe(image.Observe).Key != Observe(disk.Observe).Key {
		t.Errorf("asks for %s and %s", image.Platform, disk.Platform)
	}
	more := disk.Debian.Packages[len(image.Debian.Packages):]
	if want := []string{"linux-image-cloud-amd64", "systemd-sysv", "udev", "dbus", "systemd-resolved", "systemd-boot-efi"}; !slices.Equal(more, want) {
		t.Errorf("beside the recipe's: %q\nwant %q", more, want)
	}
	own := machinePackages([]string{"linux-image-amd64=6.1.1", "sysvinit-core", "dbus"}, "amd64", &recipe.DiskOutput{Boot: recipe.BootDirect})
	if theirs := machinePackages([]string{"dracut"}, "amd64", &recipe.DiskOutput{Initrd: recipe.InitrdDistribution}); slices.Contains(theirs, "initramfs-tools") {
		t.Errorf("beside dracut: %q", theirs)
	}
	if want := []string{"udev", "systemd-resolved"}; !slices.Equal(own, want) {
		t.Errorf("beside a kernel and an init of one's own: %q, want %q", own, want)
	}
}

func TestDiskSharesLayers(t *testing.T) {
	kernel := recipe.LockedPackage{Name: "linux-image-cloud-amd64", Version: "6.1", Arch: "amd64", SHA256: sha("kernel")}
	image := inBase(packages, "libc6")
	machine := slices.Insert(slices.Clone(image), 1, kernel)
	var root Shard // of the last plan's disk
	plan := func(ctx *recipe.Context, text string) (disk, oci Shard) {
		p := bakeDisk(t, text, ctx, map[string][]recipe.LockedPackage{"linux/amd64": image, "linux/amd64+disk": machine})
		byKey := make(map[digest.Digest]Shard)
		for _, s := range p.Shards {
			byKey[s.Key] = s
		}
		if len(p.Images) != 2 || p.Images[0].Kind != farm.ImageOCI || p.Images[1].Kind != farm.ImageDisk || p.Images[1].Platform != "linux/amd64" {
			t.Fatalf("images %+v", p.Images)
		}
		disk = byKey[p.Images[1].Shard]
		root = byKey[disk.Deps[0]]
		return disk, byKey[p.Images[0].Shard]
	}
	disk, oci := plan(context(), withDisk)
	if len(root.Deps) != 2 || len(disk.Deps) != 2 || root.Kind != farm.KindRoot || root.Deps[0] != oci.Deps[0] || root.Deps[1] == oci.Deps[1] || disk.Deps[1] != oci.Deps[2] {
		t.Errorf("the disk has %q over %q\nthe image has %q: want the variant's and the app's in common", disk.Deps, root.Deps, oci.Deps)
	}
	system := root.Key
	ctx := context()
	ctx.Files[1].Chunks[0] = sha("another app")
	changed, _ := plan(ctx, withDisk)
	if root.Key != system {
		t.Error("another app wants another system")
	}
	if changed.Key == disk.Key || changed.Spec.(DiskSpec).Seed != disk.Spec.(DiskSpec).Seed {
		t.Error("another app wants another disk with the same identifiers")
	}
	if len(root.Requires) > 0 {
		t.Errorf("a disk that nobody signs wants workers with %q", root.Requires)
	}
	unsigned := root.Key
	plan(context(), strings.Replace(withDisk, "size: 2GiB", "size: 2GiB, secureBoot: abababababababababababababababababababababababababababababababab", 1))
	if root.Key == unsigned || !slices.Equal(root.Requires, []string{"secure-boot=abababababababababababababababab"}) {
		t.Errorf("a signed disk is the same, or wants workers with %q", root.Requires)
	}
	larger, _ := plan(context(), strings.Replace(withDisk, "2GiB", "3GiB", 1))
	if larger.Key == disk.Key {
		t.Error("a larger disk has the same key")
	}
	if got := disk.Reason(farm.SourceMiss); got != "no farm member has made the disk for linux/amd64 of this system, app and configuration with format 6" {
		t.Errorf("%q", got)
	}
	alone := bakeDisk(t, strings.Replace(withDisk, "{oci: {}}, ", "", 1), context(), map[string][]recipe.LockedPackage{"linux/amd64+disk": machine})
	if len(alone.Images) != 1 || alone.Images[0].Shard != disk.Key {
		t.Errorf("a disk alone is another: %+v", alone.Images)
	}
}
