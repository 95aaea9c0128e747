package recipe

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"bakefarm/recipe/strict"
)

func readOutputs(v strict.Value, r *Recipe) []Output {
	os := r.OS
	const example = "[{oci: {platforms: [linux/amd64]}}]"
	values, ok := v.Items(example)
	if ok && len(values) == 0 {
		v.Refuse("is empty, so that nothing would be made; write %s, or leave outputs out for just that", example)
	}
	var outputs []Output
	for _, v := range values {
		f, ok := v.Fields("{oci: {platforms: [linux/amd64]}}", "oci", "disk")
		if !ok {
			continue
		}
		disk, hasDisk := f.Get("disk")
		oci, hasOCI := f.Get("oci")
		switch {
		case hasDisk && hasOCI:
			v.Refuse("names both oci and disk; make them two items of the list")
		case !hasDisk && !hasOCI && len(f.Entries) == 0:
			v.Refuse("names no output; write {oci: {platforms: [linux/amd64]}}")
		}
		if hasDisk {
			d := readDisk(disk)
			switch {
			case d.Initrd == InitrdDistribution && os.Debian != nil && os.Debian.Scripts == "skip":
				disk.Refuse("has initrd: distribution, which the packages' maintainer scripts make; write scripts: run")
			case d.Initrd == InitrdDistribution && d.Filesystem == FilesystemEROFS:
				disk.Refuse("has initrd: distribution, which lays nothing over a root of erofs to write to; leave initrd out, or take ext4")
			case otherInit(os) != "" && len(r.Config.Entrypoint)+len(r.Config.Cmd) > 0:
				disk.Refuse("has %s for its init, and a disk's entrypoint is a unit of systemd; take %[1]s out of os.debian.packages, or config.entrypoint and config.cmd away", otherInit(os))
			case os.Scratch:
				disk.Refuse("has no kernel over scratch; write os: {debian: {suite: bookworm}}")
			case slices.ContainsFunc(outputs, func(o Output) bool { return o.Disk != nil && o.Disk.Platform == d.Platform }):
				disk.Refuse("is a second disk for %s; keep one", d.Platform)
			}
			outputs = append(outputs, Output{Disk: d})
		}
		if hasOCI {
			if slices.ContainsFunc(outputs, func(o Output) bool { return o.OCI != nil }) {
				v.Refuse("is a second oci output; name all platforms in one")
			}
			outputs = append(outputs, Output{OCI: readOCI(oci)})
		}
	}
	return outputs
}

// OtherInits are the packages that bring an init which is not systemd.
var OtherInits = []string{"sysvinit-core", "runit-init", "openrc"}

// otherInit is the one of OtherInits that an OS names; empty: none.
func otherInit(os OS) string {
	if os.Debian != nil {
		for _, p := range os.Debian.Packages {
			if name, _, _ := strings.Cut(p, "="); slices.Contains(OtherInits, name) {
				return name
			}
		}
	}
	return ""
}

// Bounds of a disk, in bytes.
const (
	minDisk = 256 << 20
	maxDisk = 16 << 40
)

func readDisk(v strict.Value) *DiskOutput {
	const example = "{size: 2GiB, boot: uefi}"
	d := &DiskOutput{Platform: DefaultPlatform, Size: minDisk, Boot: BootUEFI, Filesystem: "ext4"}
	f, ok := v.Fields(example, "size", "boot", "filesystem", "platform", "cmdline", "secureBoot", "initrd", "restart")
	if !ok {
		return d
	}
	if v, ok := f.Need("size", "size: 2GiB"); ok {
		if s, ok := v.TextOrInteger("2GiB"); ok {
			switch n, ok := parseSize(s); {
			case !ok:
				v.Refuse("%q is no size; write a number with MiB, GiB or TiB, such as 2GiB", clip(s))
			case n < minDisk || n > maxDisk:
				v.Refuse("is %s; a disk has from 256MiB to 16TiB", clip(s))
			default:
				d.Size = n
			}
		}
	}
	choose := func(key string, to *string, known ...string) {
		v, ok := f.Get(key)
		if !ok {
			return
		}
		if s, ok := v.Text(known[0]); ok {
			if !slices.Contains(known, s) {
				v.Refuse("%q is not in this release of bakefarm; write %s", clip(s), strings.Join(known, " or "))
				return
			}
			*to = s
		}
	}
	choose("boot", &d.Boot, BootUEFI, BootHybrid, BootDirect)
	choose("filesystem", &d.Filesystem, FilesystemExt4, FilesystemEROFS)
	own, always := "bakefarm", "always"
	choose("initrd", &own, own, InitrdDistribution)
	choose("restart", &always, always, RestartOnFailure, RestartNever)
	if own != "bakefarm" {
		d.Initrd = own
	}
	if always != "always" {
		d.Restart = always
	}
	choose("platform", &d.Platform, Platforms...)
	if v, ok := f.Get("boot"); ok && d.Boot == BootHybrid && d.Platform != "linux/amd64" {
		v.Refuse("hybrid is for the BIOS of PCs, and %s has none; write uefi", d.Platform)
	}
	if v, ok := f.Get("secureBoot"); ok {
		const example = "the SHA-256 fingerprint of a certificate, as openssl x509 -noout -fingerprint -sha256 prints it"
		if s, ok := v.Text(example); ok {
			plain := strings.ToLower(strings.ReplaceAll(s, ":", ""))
			switch {
			case !fingerprint.MatchString(plain):
				v.Refuse("%q is no fingerprint; write %s", clip(s), example)
			case d.Boot == BootDirect:
				v.Refuse("is for what firmware starts, and with boot: direct it starts nothing; write boot: uefi")
			default:
				d.SecureBoot = plain
			}
		}
	}
	if v, ok := f.Get("cmdline"); ok {
		if s, ok := v.Text("quiet"); ok {
			switch {
			case hasControl(s) || len(s) > 1024:
				v.Refuse("want at most 1024 bytes on one line, such as quiet")
			case slices.ContainsFunc(strings.Fields(s), func(w string) bool { return strings.HasPrefix(w, "root=") }):
				v.Refuse("has root= in it, which the disk sets itself; take it out")
			default:
				d.Cmdline = strings.Join(strings.Fields(s), " ")
			}
		}
	}
	return d
}

var fingerprint = regexp.MustCompile(`^[0-9a-f]{64}$`)

var sizeForm = regexp.MustCompile(`^([0-9]{1,8})(MiB|GiB|TiB)$`)

// parseSize reads a size in whole MiB, GiB or TiB.
func parseSize(s string) (int64, bool) {
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	return n << map[string]int{"MiB": 20, "GiB": 30, "TiB": 40}[m[2]], err == nil
}

// The system of a disk has packages that the image for its platform has not, a kernel to begin with: it is asked for and
// locked under a name of its own.
const diskSystem = "+disk"

// SystemOf names the system of a disk as Locks do: linux/amd64+disk.
func SystemOf(d *DiskOutput) string { return d.Platform + diskSystem }

// PlatformOf returns the platform of a system, and whether it is a disk's.
func PlatformOf(system string) (platform string, disk bool) {
	return strings.CutSuffix(system, diskSystem)
}

// Systems returns the systems that have to be locked for the outputs, sorted, each once: the platforms of images, and
// those of disks.
func (r *Recipe) Systems() []string {
	all := r.Platforms()
	for _, o := range r.Outputs {
		if o.Disk != nil {
			all = append(all, SystemOf(o.Disk))
		}
	}
	return sortedSet(all)
}

// DiskOf returns the disk of a system; nil when it is an image's.
func (r *Recipe) DiskOf(system string) *DiskOutput {
	for _, o := range r.Outputs {
		if o.Disk != nil && SystemOf(o.Disk) == system {
			return o.Disk
		}
	}
	return nil
}

var platformForm = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$`)

// otherNames of the platforms, as other tools write them. One name each, so that a Lock and an image have only one.
var otherNames = map[string]string{
	"amd64": "linux/amd64", "x86_64": "linux/amd64", "linux/x86_64": "linux/amd64",
	"arm64": "linux/arm64", "aarch64": "linux/arm64", "linux/aarch64": "linux/arm64", "linux/arm64/v8": "linux/arm64",
}

func readOCI(v strict.Value) *OCIOutput {
	out := &OCIOutput{Platforms: []string{DefaultPlatform}}
	f, ok := v.Fields("{platforms: [linux/amd64]}", "platforms")
	if !ok {
		return out
	}
	v, ok = f.Get("platforms")
	if !ok {
		return out
	}
	names, at, ok := v.Texts("[linux/amd64, linux/arm64]")
	if ok && len(names) == 0 {
		v.Refuse("is empty; write [linux/amd64], or leave it out for just that")
	}
	known := strings.Join(Platforms, " or ")
	for i, name := range names {
		switch {
		case slices.Contains(Platforms, name):
		case otherNames[name] != "":
			at[i].Refuse("%q is another name of %s; write that", name, otherNames[name])
		case platformForm.MatchString(name):
			at[i].Refuse("%q is not in this release of bakefarm yet; write %s", clip(name), known)
		default:
			at[i].Refuse("%q is no platform; write os/architecture: %s", clip(name), known)
		}
	}
	out.Platforms = sortedSet(names)
	return out
}
