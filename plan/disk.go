package plan

import (
	"errors"
	"slices"
	"strings"

	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// Inits are the packages one of which is a machine's /sbin/init.
var Inits = append([]string{"systemd-sysv"}, recipe.OtherInits...)

// machinePackages are the packages that a machine has beside those that a recipe names, unless it names others of their
// kind: a kernel, an init, what firmware starts.
func machinePackages(named []string, arch string, d *recipe.DiskOutput) []string {
	names := make([]string, len(named))
	for i, n := range named {
		names[i], _, _ = strings.Cut(n, "=")
	}
	var more []string
	need := func(name string, instead func(string) bool) {
		if !slices.ContainsFunc(names, instead) {
			more = append(more, name)
		}
	}
	same := func(name string) func(string) bool { return func(n string) bool { return n == name } }
	need("linux-image-cloud-"+arch, func(n string) bool { return strings.HasPrefix(n, "linux-image-") })
	need("systemd-sysv", func(n string) bool { return slices.Contains(Inits, n) })
	for _, name := range []string{"udev", "dbus", "systemd-resolved"} {
		need(name, same(name))
	}
	if d.Boot != recipe.BootDirect {
		need("systemd-boot-efi", same("systemd-boot-efi"))
	}
	if d.Initrd == recipe.InitrdDistribution {
		need("initramfs-tools", func(n string) bool {
			return slices.Contains([]string{"initramfs-tools", "dracut", "tiny-initramfs"}, n)
		})
	}
	return more
}

// disk adds the shards of a disk. It has the layers of the image for its platform; only those of added packages are its
// own, with its kernel.
func (b *builder) disk(lock *recipe.Lock, d *recipe.DiskOutput, trees []*recipe.Tree, source BaseSource, urls func(recipe.LockedPackage) []string) error {
	system := recipe.SystemOf(d)
	var base digest.Digest
	var layers []digest.Digest
	var err error
	switch {
	case lock.OS.Base != nil:
		if base, err = b.base(lock.OS.Base, d.Platform, source); err != nil {
			return err
		}
	case lock.OS.Debian == nil:
		return errors.New("lock: a disk over scratch has no kernel")
	}
	if lock.OS.Debian != nil {
		if _, layers, err = b.debian(lock.OS.Debian, system, base, urls); err != nil {
			return err
		}
	}
	if base != "" {
		layers = slices.Insert(layers, 0, base)
	}
	if len(layers) == 0 {
		return errors.New("lock: a disk without a package has no kernel")
	}
	var seed strings.Builder
	for _, key := range layers {
		seed.WriteString(key.String() + "\n")
	}
	spec := DiskSpec{Disk: *d, Config: lock.Config, Seed: digest.FromString(seed.String()), Base: base != ""}
	spec.Enabled = base == "" && lock.OS.Debian.Scripts == scriptsRun
	for _, p := range lock.PackagesOf(system) {
		spec.Packages = append(spec.Packages, p.Name)
	}
	root := *d
	root.Restart = "" // the app's
	parts := []digest.Digest{b.add(RootOf(RootSpec{Disk: root, Seed: spec.Seed, Base: base != ""}, layers))}
	if base != "" {
		parts = slices.Insert(parts, 0, base)
	}
	if app, err := b.app(lock, trees, d.Platform, base); err != nil {
		return err
	} else if app != "" {
		parts = append(parts, app)
	}
	b.images = append(b.images, Output{Kind: farm.ImageDisk, Platform: d.Platform, Shard: b.add(Disk(spec, parts))})
	return nil
}
