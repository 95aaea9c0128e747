package recipe

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseBases(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for text, want := range map[string]OS{
		"{image: debian}": {Base: &Base{From: FromRegistry, Ref: "debian", Name: "debian"}},
		"{image: 'docker://registry.example:5000/team/base:1'}":   {Base: &Base{From: FromRegistry, Ref: "registry.example:5000/team/base:1", Name: "registry.example:5000/team/base:1"}},
		"{image: 'localhost/base:1@" + digest + "'}":              {Base: &Base{From: FromRegistry, Ref: "localhost/base:1@" + digest, Name: "localhost/base:1@" + digest}},
		"{image: 'oci:./images/base'}":                            {Base: &Base{From: FromLayout, Ref: "oci:./images/base", Path: "images/base"}},
		"{image: 'oci:base:12.1'}":                                {Base: &Base{From: FromLayout, Ref: "oci:base:12.1", Path: "base", Name: "12.1"}},
		"{image: 'docker-archive:./base.tar:team/base:1'}":        {Base: &Base{From: FromArchive, Ref: "docker-archive:./base.tar:team/base:1", Path: "base.tar", Name: "team/base:1"}},
		"{tar: ./rootfs.tar.zst}":                                 {Base: &Base{From: FromTar, Ref: "./rootfs.tar.zst", Path: "rootfs.tar.zst"}},
		"{recipe: base/debian@prod}":                              {Base: &Base{From: FromRecipe, Ref: "base/debian@prod", Name: "base/debian", At: "prod"}},
		"{recipe: {ref: base@0123456789abcdef}}":                  {Base: &Base{From: FromRecipe, Ref: "base@0123456789abcdef", Name: "base", At: "0123456789abcdef"}},
		"{image: {ref: a.example/b:1, packages: [curl, tzdata]}}": {Base: &Base{From: FromRegistry, Ref: "a.example/b:1", Name: "a.example/b:1"}, Debian: &Debian{Variant: VariantBase, Packages: []string{"curl", "tzdata"}, Scripts: "run"}},
		"{tar: {path: r.tar, suite: bookworm, packages: [curl], scripts: skip}}": {Base: &Base{From: FromTar, Ref: "r.tar", Path: "r.tar"},
			Debian: &Debian{Suite: "bookworm", Variant: VariantBase, Packages: []string{"curl"}, Scripts: "skip"}},
	} {
		r, err := Parse("f", []byte("apiVersion: bakefarm/v1\nname: a/b\nos: "+text+"\n"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if !reflect.DeepEqual(r.OS, want) {
			t.Errorf("%s: %+v %+v", text, r.OS.Base, r.OS.Debian)
		}
	}
	r, err := Parse("f", []byte("apiVersion: bakefarm/v1\nname: a/b\nos: {image: a.example/b}\napp: [{package: ./a.deb}]\n"))
	if err != nil || r.OS.Debian == nil || r.OS.Debian.Variant != VariantBase {
		t.Errorf("a package of one's own over a base: %v", err)
	}
}

func TestFindBase(t *testing.T) {
	c := &Context{Files: []ContextFile{{Path: "base/blobs/sha256/aa"}, {Path: "base/index.json"}, {Path: "empty.tar"}, {Path: "none", Dir: true}}}
	for ref, want := range map[string]string{
		"oci:base": "", "oci:none": "is no OCI image layout", "oci:other": "is not in the context",
		"docker-archive:empty.tar": "is empty", "docker-archive:base": "is no file",
	} {
		r, err := Parse("f", []byte("apiVersion: bakefarm/v1\nname: a/b\nos: {image: '"+ref+"'}\n"))
		if err != nil {
			t.Fatal(err)
		}
		files, err := FindBase(c, r.OS.Base)
		if want == "" && (err != nil || len(files) != 2) || want != "" && (err == nil || !strings.Contains(err.Error(), "os.image") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestPackagesOverBase(t *testing.T) {
	l := &Lock{OS: LockedOS{
		Base: &LockedBase{Platforms: map[string]LockedBasePlatform{"linux/amd64": {Packages: []BasePackage{
			{"libc6", "2.36", "amd64"}, {"libc6", "2.36", "i386"}, {"openssl", "3.0.1", "amd64"}, {"zlib1g", "1", "amd64"}}}}},
		Debian: &LockedDebian{Platforms: map[string][]LockedPackage{"linux/amd64": {{Name: "curl", Version: "7", Arch: "amd64"}, {Name: "openssl", Version: "3.0.2", Arch: "amd64"}}}},
	}}
	var got []string
	for _, p := range l.PackagesOf("linux/amd64") {
		got = append(got, p.Name+" "+p.Version+" "+p.Arch)
	}
	if want := "curl 7 amd64, libc6 2.36 amd64, libc6 2.36 i386, openssl 3.0.2 amd64, zlib1g 1 amd64"; strings.Join(got, ", ") != want {
		t.Errorf("%q", got)
	}
	if l.PackagesOf("linux/arm64") != nil {
		t.Error("a platform that the Lock does not have has packages")
	}
}
