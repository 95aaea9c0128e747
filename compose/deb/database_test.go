package deb

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bakefarm/compose"
	"bakefarm/compose/deb/debtest"
)

func fixtureRecords(t testing.TB) []*Record {
	t.Helper()
	a, _ := convert(t, fixture.Build(t))
	b, _ := convert(t, debtest.Package{
		Name: "bar", Fields: map[string]string{"Essential": "yes", "Filename": "pool/x", "SHA256": "00", "X-Custom": "kept", "Description": "two\n lines\n .\n here"},
		Entries: []debtest.Entry{{Name: "usr/"}, {Name: "usr/bin/"}, {Name: "usr/bin/bar", Content: "bar"}},
	}.Build(t))
	return []*Record{a.Record, b.Record}
}

func find(t *testing.T, files []compose.File, path string) compose.File {
	t.Helper()
	i := slices.IndexFunc(files, func(f compose.File) bool { return f.Path == path })
	if i < 0 {
		t.Fatalf("there is no %s", path)
	}
	return files[i]
}

func TestDatabase(t *testing.T) {
	records := fixtureRecords(t)
	files, err := Database(records, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	md5 := records[0].Conffiles[0].MD5
	const want = `Package: bar
Essential: yes
Status: install ok installed
Maintainer: Test <test@example.org>
Architecture: all
Version: 1.0-1
Description: two
 lines
 .
 here
X-Custom: kept

Package: libfoo1
Status: install ok installed
Priority: optional
Section: libs
Installed-Size: 12
Maintainer: Test <test@example.org>
Architecture: amd64
Multi-Arch: same
Version: 1:2.0-3
Depends: libc6 (>= 2.36)
Conffiles:
 /etc/foo.conf MD5
Description: a fixture
Homepage: https://example.org/

`
	if got := string(find(t, files, "var/lib/dpkg/status").Content); got != strings.Replace(want, "MD5", md5, 1) {
		t.Errorf("status is\n%s", got)
	}
	if got := string(find(t, files, "var/lib/dpkg/triggers/File").Content); got != "/usr/share/foo libfoo1:amd64/noawait\n" {
		t.Errorf("triggers/File is %q", got)
	}
	if got := string(find(t, files, "var/lib/dpkg/triggers/foo-changed").Content); got != "libfoo1:amd64\n" {
		t.Errorf("triggers/foo-changed is %q", got)
	}
	if f := find(t, files, "var/lib/dpkg/info/libfoo1:amd64.postinst"); f.Mode != 0o755 || f.ModTime != debtest.Date {
		t.Errorf("postinst is %+v", f.Entry)
	}
	if got := string(find(t, files, "var/lib/dpkg/info/bar.list").Content); got != "/.\n/usr\n/usr/bin\n/usr/bin/bar\n" {
		t.Errorf("bar.list is %q", got)
	}

	slices.Reverse(records)
	again, err := Database(records, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	a, errA := compose.Head(nil, files)
	b, errB := compose.Head(nil, again)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("the order of the records changes the database (%v, %v)", errA, errB)
	}
}

func TestDatabaseRefuses(t *testing.T) {
	records := fixtureRecords(t)
	if _, err := Database(append(records, records[1]), "amd64"); err == nil {
		t.Error("a package that is there twice: accepted")
	}
	if _, err := Database(records, "arm64"); err == nil {
		t.Error("another architecture: accepted")
	}
	bad, _ := convert(t, debtest.Package{Control: map[string]string{"triggers": "interest ../../../etc/x\n"}}.Build(t))
	if _, err := Database([]*Record{bad.Record}, "amd64"); err == nil {
		t.Error("a trigger that names a file elsewhere: accepted")
	}
}

func TestMergedUsr(t *testing.T) {
	for _, c := range []struct {
		suite, arch string
		records     []*Record
		want        string
	}{
		{"bookworm", "amd64", nil, "bin lib lib32 lib64 libx32 sbin"},
		{"bookworm", "arm64", nil, "bin lib sbin"},
		{"trixie", "amd64", nil, "bin lib lib64 sbin"},
		{"bookworm", "arm64", []*Record{{Aliases: []string{"lib", "lib64"}}}, "bin lib lib64 sbin"},
	} {
		var links []string
		for _, f := range MergedUsr(c.suite, c.arch, c.records) {
			if f.Type == tar.TypeSymlink {
				links = append(links, f.Path)
				if f.Link != "usr/"+f.Path {
					t.Errorf("%s points to %s", f.Path, f.Link)
				}
			}
		}
		if got := strings.Join(links, " "); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.suite, c.arch, got, c.want)
		}
	}
}

// dpkg itself must find nothing to say about a system that was unpacked from our members and head.
func TestRealDpkgIsContent(t *testing.T) {
	root := t.TempDir()
	var plain bytes.Buffer
	var dirs [][]compose.Entry
	var records []*Record
	for _, p := range []debtest.Package{fixture, {Name: "bar", Entries: []debtest.Entry{{Name: "bin/bar", Content: "bar", Mode: 0o755}}}} {
		res, tar := convert(t, p.Build(t))
		plain.Write(tar)
		dirs = append(dirs, res.Record.Inventory.Dirs)
		records = append(records, res.Record)
	}
	made, err := Database(records, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	head, err := compose.Head(dirs, append(made, MergedUsr("bookworm", "amd64", records)...))
	if err != nil {
		t.Fatal(err)
	}
	untar(t, root, io.MultiReader(bytes.NewReader(head), &plain))
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	admin := filepath.Join(root, "var/lib/dpkg")
	if got := run("dpkg-query", "--admindir="+admin, "-f", "${binary:Package} ${Version} ${db:Status-Abbrev}\n", "-W"); got != "bar 1.0-1 ii \nlibfoo1:amd64 1:2.0-3 ii \n" {
		t.Errorf("dpkg-query says %q", got)
	}
	if got := run("dpkg", "--root="+root, "--audit"); got != "" {
		t.Errorf("dpkg --audit says %q", got)
	}
	if got := run("dpkg", "--root="+root, "--verify"); got != "" {
		t.Errorf("dpkg --verify says %q", got)
	}
	if got := run("dpkg-query", "--admindir="+admin, "-S", "/bin/bar"); got != "bar: /bin/bar\n" {
		t.Errorf("dpkg-query -S says %q", got)
	}
	if err := os.WriteFile(filepath.Join(root, "usr/bin/bar"), []byte("changed"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, _ := exec.Command("dpkg", "--root="+root, "--verify").CombinedOutput(); !strings.Contains(string(got), "/bin/bar") {
		t.Errorf("dpkg --verify does not see a changed file: %q", got)
	}
}

// untar unpacks with the tar program, as an ordinary user would.
func untar(t *testing.T, root string, r io.Reader) {
	t.Helper()
	cmd := exec.Command("tar", "-x", "--no-same-owner", "-C", root)
	cmd.Stdin = r
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
}

// As dpkg does it, blanks are kept at the end of a field's lines, but for the last one.
func TestBlanksAtTheEndOfLines(t *testing.T) {
	fields, err := ParseParagraph([]byte("Package: x  \nDescription:  short \n long \t\n .\n end \nTag: \n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Field{{"Package", "x"}, {"Description", "short \n long \t\n .\n end"}, {"Tag", ""}}
	if !slices.Equal(fields, want) {
		t.Errorf("%q, want %q", fields, want)
	}
}
