package deb

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"bakefarm/compose"
	"bakefarm/compose/deb/debtest"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture has a bit of everything that packages have.
var fixture = debtest.Package{
	Name: "libfoo1", Version: "1:2.0-3", Architecture: "amd64",
	Fields: map[string]string{"Multi-Arch": "same", "Section": "libs", "Priority": "optional", "Installed-Size": "12", "Depends": "libc6 (>= 2.36)", "Homepage": "https://example.org/"},
	Control: map[string]string{
		"conffiles": "/etc/foo.conf\n/etc/gone.conf\n",
		"postinst":  "#!/bin/sh\nexit 0\n",
		"triggers":  "# comment\nactivate-noawait ldconfig\ninterest-noawait /usr/share/foo\ninterest foo-changed\n",
		"md5sums":   "5d41402abc4b2a76b9719d911017c592  lib/x86_64-linux-gnu/libfoo.so.1.0\n",
	},
	Entries: []debtest.Entry{
		{Name: "etc/"}, {Name: "etc/foo.conf", Content: "a=b\n"},
		{Name: "lib/"}, {Name: "lib/x86_64-linux-gnu/"},
		{Name: "lib/x86_64-linux-gnu/libfoo.so.1.0", Content: "hello"},
		{Name: "lib/x86_64-linux-gnu/libfoo.so.1", Link: "libfoo.so.1.0"},
		{Name: "bin/"}, {Name: "bin/foo", Content: "#!/bin/sh\n", Mode: 0o4755, GID: 42, ModTime: debtest.Date + 1000},
		{Name: "bin/foo2", Type: tar.TypeLink, Link: "./bin/foo", Mode: 0o4755, GID: 42, ModTime: debtest.Date + 1000},
		{Name: "usr/"}, {Name: "usr/bin/"}, {Name: "usr/bin/ping", Content: "x", Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02"}, ModTime: debtest.Date - 1000},
		{Name: "var/games/foo/", Mode: 0o2775, GID: 60}, {Name: "var/games/foo/scores", Mode: 0o664, GID: 60},
	},
}

// convert converts and returns the result with the member's tar.
func convert(t testing.TB, deb []byte) (Result, []byte) {
	t.Helper()
	res, plain, err := tryConvert(deb, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return res, plain
}

func tryConvert(deb []byte, o Options) (Result, []byte, error) {
	var plain bytes.Buffer
	o.SHA256, o.Emit, o.Plain = digest.FromBytes(deb), func(compose.Piece, []byte) error { return nil }, &plain
	res, err := Convert(bytes.NewReader(deb), int64(len(deb)), o)
	return res, plain.Bytes(), err
}

func TestConvert(t *testing.T) {
	res, plain := convert(t, fixture.Build(t))
	type entry struct {
		name, link string
		mode       int64
		gid        int
		mtime      int64
	}
	want := []entry{
		{"etc/foo.conf", "", 0o644, 0, debtest.Date},
		{"usr/lib/x86_64-linux-gnu/libfoo.so.1.0", "", 0o644, 0, debtest.Date},
		{"usr/lib/x86_64-linux-gnu/libfoo.so.1", "libfoo.so.1.0", 0o777, 0, debtest.Date},
		{"usr/bin/foo", "", 0o4755, 42, debtest.Date},
		{"usr/bin/foo2", "usr/bin/foo", 0o4755, 42, debtest.Date},
		{"usr/bin/ping", "", 0o644, 0, debtest.Date - 1000},
		{"var/games/foo/scores", "", 0o664, 60, debtest.Date},
	}
	var got []entry
	var names []string
	tr := tar.NewReader(bytes.NewReader(plain))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry{h.Name, h.Linkname, h.Mode, h.Gid, h.ModTime.Unix()})
		names = append(names, h.Name)
		if h.Name == "usr/bin/ping" && h.PAXRecords["SCHILY.xattr.security.capability"] != "\x01\x00\x00\x02" {
			t.Errorf("ping's capability is %q", h.PAXRecords)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	r := res.Record
	if !slices.Equal(r.Inventory.Paths, names) {
		t.Errorf("inventory's paths are %q", r.Inventory.Paths)
	}
	var dirs []string
	for _, d := range r.Inventory.Dirs {
		dirs = append(dirs, d.Path)
		if d.Path == "var/games/foo" && (d.Mode != 0o2775 || d.GID != 60) {
			t.Errorf("%s is %o of group %d", d.Path, d.Mode, d.GID)
		}
	}
	if want := []string{"etc", "usr", "usr/bin", "usr/lib", "usr/lib/x86_64-linux-gnu", "var", "var/games", "var/games/foo"}; !slices.Equal(dirs, want) {
		t.Errorf("directories are %q, want %q", dirs, want)
	}
	if want := []string{"bin", "lib"}; !slices.Equal(r.Aliases, want) {
		t.Errorf("aliases are %q, want %q", r.Aliases, want)
	}
	if want := []Conffile{{"/etc/foo.conf", "6aea67367311873a8a1383e4373a0e3c"}}; !slices.Equal(r.Conffiles, want) {
		t.Errorf("conffiles are %v, want %v", r.Conffiles, want)
	}
	if got := strings.Join(r.List, " "); !strings.HasPrefix(got, "/. /etc /etc/foo.conf /lib /lib/x86_64-linux-gnu ") || !strings.Contains(got, " /bin/foo2 /usr /usr/bin ") {
		t.Errorf("file list is %s", got)
	}
	if r.Package != "libfoo1" || r.Version != "1:2.0-3" || r.MultiArch != "same" || r.Date != debtest.Date {
		t.Errorf("record is of %s %s %s %d", r.Package, r.Version, r.MultiArch, r.Date)
	}
}

// A failure here says that other bytes come out of the same package: raise convert's format number with the digests.
func TestGolden(t *testing.T) {
	const want = "9eaea755370204dc 1c89e053471741fa 26cf41c6caa3147b"
	for _, compression := range []string{"gz", "xz", "zst", "none"} {
		p := fixture
		p.Compression = compression
		for _, parallel := range []int{1, 4} {
			res, _, err := tryConvert(p.Build(t), Options{Parallel: parallel})
			if err != nil {
				t.Fatal(err)
			}
			record, err := res.Record.Encode()
			if err != nil {
				t.Fatal(err)
			}
			got := res.Member.Pieces[0].Digest.Encoded()[:16] + " " + res.Member.TarDigest.Encoded()[:16] + " " + digest.FromBytes(record).Encoded()[:16]
			if got != want {
				t.Errorf("%s: member and record are %s, want %s", compression, got, want)
			}
		}
	}
}

func TestConvertPackageOfDirectories(t *testing.T) {
	res, _ := convert(t, debtest.Package{Entries: []debtest.Entry{{Name: "srv/"}}}.Build(t))
	if len(res.Member.Pieces) != 0 || res.Member.TarSize != 0 || res.Member.Validate() != nil {
		t.Errorf("member is %+v", res.Member)
	}
}

func TestConvertWithoutMD5SumsMakesThem(t *testing.T) {
	res, _ := convert(t, debtest.Package{
		Control: map[string]string{"conffiles": "/etc/a\n"},
		Entries: []debtest.Entry{{Name: "etc/a", Content: "a"}, {Name: "bin/b", Content: "hello"}, {Name: "bin/c", Type: tar.TypeLink, Link: "./bin/b"}},
	}.Build(t))
	i := slices.IndexFunc(res.Record.Files, func(f ControlFile) bool { return f.Name == "md5sums" })
	if i < 0 {
		t.Fatal("there is no md5sums file")
	}
	want := "5d41402abc4b2a76b9719d911017c592  bin/b\n5d41402abc4b2a76b9719d911017c592  bin/c\n"
	if got := string(res.Record.Files[i].Data); got != want {
		t.Errorf("md5sums is %q, want %q", got, want)
	}
}

func TestConvertDropsMergedUsrLinks(t *testing.T) {
	res, plain := convert(t, debtest.Package{Entries: []debtest.Entry{{Name: "bin", Link: "usr/bin"}, {Name: "lib64", Link: "usr/lib64"}, {Name: "usr/"}}}.Build(t))
	if len(plain) != 0 || !slices.Equal(res.Record.Aliases, []string{"bin", "lib64"}) || !slices.Contains(res.Record.List, "/bin") {
		t.Errorf("%d bytes of tar, aliases %q, list %q", len(plain), res.Record.Aliases, res.Record.List)
	}
}

func TestConvertVerifiesTheWholePackage(t *testing.T) {
	deb := fixture.Build(t)
	emit := func(compose.Piece, []byte) error { return nil }
	for name, c := range map[string]struct {
		deb  []byte
		size int
	}{
		"flipped last byte": {append(bytes.Clone(deb[:len(deb)-1]), deb[len(deb)-1]^1), len(deb)},
		"longer":            {append(bytes.Clone(deb), "more"...), len(deb)},
		"longer, as said":   {append(bytes.Clone(deb), "more"...), len(deb) + 4},
		"other size said":   {deb, len(deb) + 1},
	} {
		_, err := Convert(bytes.NewReader(c.deb), int64(c.size), Options{SHA256: digest.FromBytes(deb), Emit: emit})
		// A flipped bit may also be what the decompressor stumbles over.
		if err == nil || !errors.Is(err, ErrDigest) && name != "flipped last byte" {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := debtest.Package{Name: "other"}.Build(t)
	if _, err := Convert(bytes.NewReader(other), int64(len(other)), Options{SHA256: digest.FromBytes(deb), Emit: emit}); !errors.Is(err, ErrDigest) {
		t.Errorf("another package: %v", err)
	}
	for n := range len(deb) {
		if n > 300 && n%37 != 0 {
			continue
		}
		if _, _, err := tryConvert(deb[:n], Options{}); err == nil {
			t.Errorf("cut off after %d of %d bytes: accepted", n, len(deb))
		}
	}
}

func TestConvertReturnsEmitsError(t *testing.T) {
	deb := fixture.Build(t)
	full := errors.New("store is full")
	if _, err := Convert(bytes.NewReader(deb), int64(len(deb)), Options{SHA256: digest.FromBytes(deb), Emit: func(compose.Piece, []byte) error { return full }}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

func TestConvertRefusesHostileEntries(t *testing.T) {
	file := func(name string) debtest.Entry { return debtest.Entry{Name: name, Content: "x"} }
	for name, c := range map[string]struct {
		entries []debtest.Entry
		want    string // in the error
	}{
		"dot dot":             {[]debtest.Entry{file("./../etc/passwd")}, `".."`},
		"dot dot inside":      {[]debtest.Entry{file("./usr/../../etc/passwd")}, `".."`},
		"absolute":            {[]debtest.Entry{file("/etc/passwd")}, "absolute"},
		"absolute via dot":    {[]debtest.Entry{file(".//etc/passwd")}, "absolute"},
		"unclean":             {[]debtest.Entry{file("./usr//bin/x")}, "not clean"},
		"line feed":           {[]debtest.Entry{file("./usr/a\n/etc/passwd")}, "line feed"},
		"not UTF-8":           {[]debtest.Entry{file("./usr/\xff")}, "UTF-8"},
		"twice":               {[]debtest.Entry{file("a"), file("a")}, "twice"},
		"directory twice":     {[]debtest.Entry{{Name: "a/"}, {Name: "a/"}}, "twice"},
		"twice when merged":   {[]debtest.Entry{file("bin/sh"), {Name: "usr/bin/sh", Link: "/bin/sh"}}, "merged-/usr"},
		"file then directory": {[]debtest.Entry{file("a"), {Name: "a/"}}, "twice"},
		"directory then file": {[]debtest.Entry{{Name: "a/"}, file("a")}, "no directory"},
		"parent then link":    {[]debtest.Entry{file("a/b"), {Name: "a", Link: "/etc"}}, "no directory"},
		"through a link":      {[]debtest.Entry{{Name: "a", Link: "/etc"}, file("a/passwd")}, "no directory"},
		"deep through a link": {[]debtest.Entry{{Name: "a", Link: "/etc"}, file("a/b/c/d")}, "no directory"},
		"through a file":      {[]debtest.Entry{file("a"), file("a/b")}, "no directory"},
		"alias elsewhere":     {[]debtest.Entry{{Name: "bin", Link: "/tmp"}}, "merged-/usr"},
		"alias as a file":     {[]debtest.Entry{file("lib")}, "merged-/usr"},
		"hard link outside":   {[]debtest.Entry{{Name: "a", Type: tar.TypeLink, Link: "../etc/shadow"}}, `".."`},
		"hard link absolute":  {[]debtest.Entry{{Name: "a", Type: tar.TypeLink, Link: "/etc/shadow"}}, "absolute"},
		"hard link unseen":    {[]debtest.Entry{{Name: "a", Type: tar.TypeLink, Link: "./b"}, file("b")}, "before it"},
		"hard link to link":   {[]debtest.Entry{{Name: "b", Link: "/etc/shadow"}, {Name: "a", Type: tar.TypeLink, Link: "./b"}}, "before it"},
		"hard link to self":   {[]debtest.Entry{{Name: "a", Type: tar.TypeLink, Link: "./a"}}, "before it"},
		"block device":        {[]debtest.Entry{{Name: "dev/sda", Type: tar.TypeBlock}}, "device"},
		"character device":    {[]debtest.Entry{{Name: "dev/mem", Type: tar.TypeChar}}, "device"},
		"unknown type":        {[]debtest.Entry{{Name: "a", Type: 'Z'}}, "none that dpkg knows"},
		"root is a link":      {[]debtest.Entry{{Name: ".", Link: "/etc"}}, "no directory"},
		"long component":      {[]debtest.Entry{file(strings.Repeat("a", 300))}, "limit"},
		"long path":           {[]debtest.Entry{file(strings.Repeat("a/", 2100) + "b")}, "limit"},
	} {
		p := debtest.Package{Entries: c.entries, NoRoot: name == "root is a link"}
		_, _, err := tryConvert(p.Build(t), Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestConvertRefusesHostileArchives(t *testing.T) {
	good := debtest.Package{}
	controlTar := func(entries ...debtest.Entry) []byte { return debtest.Package{Entries: entries}.Data(t) }
	members := func(m ...debtest.Member) debtest.Package { return debtest.Package{RawMembers: m} }
	binary := debtest.Member{Name: "debian-binary", Data: []byte("2.0\n")}
	control := debtest.Member{Name: "control.tar", Data: controlTar(debtest.Entry{Name: "control", Content: good.ControlText()})}
	data := debtest.Member{Name: "data.tar", Data: good.Data(t)}
	if _, _, err := tryConvert(members(binary, debtest.Member{Name: "_extra"}, control, data).Build(t), Options{}); err != nil {
		t.Fatalf("the parts that the table spoils: %v", err)
	}
	for name, c := range map[string]struct {
		p    debtest.Package
		want string
	}{
		"no debian-binary":   {members(control, data), "want debian-binary"},
		"old format":         {debtest.Package{Format: "0.939000\n"}, "want 2.x"},
		"future format":      {debtest.Package{Format: "3.0\n"}, "want 2.x"},
		"format of 1 MB":     {debtest.Package{Format: strings.Repeat("2", 1<<20)}, "version number"},
		"data first":         {members(binary, data, control), "where control.tar.* must stand"},
		"control twice":      {members(binary, control, control, data), "where data.tar.* must stand"},
		"no data":            {members(binary, control), "unexpected EOF"},
		"unknown extension":  {members(binary, control, debtest.Member{Name: "data.tar.rar"}), "not supported"},
		"wrong name":         {members(binary, control, debtest.Member{Name: "data.tarball"}), "must stand"},
		"not what it says":   {members(binary, control, debtest.Member{Name: "data.tar.xz", Data: []byte("no xz at all")}), "data.tar"},
		"no control file":    {members(binary, debtest.Member{Name: "control.tar", Data: controlTar()}, data), "no file named control"},
		"control: directory": {members(binary, debtest.Member{Name: "control.tar", Data: controlTar(debtest.Entry{Name: "a/"})}, data), "plain files"},
		"control: dot dot":   {members(binary, debtest.Member{Name: "control.tar", Data: controlTar(debtest.Entry{Name: "./../x"})}, data), "plain files"},
		"control: link":      {members(binary, debtest.Member{Name: "control.tar", Data: controlTar(debtest.Entry{Name: "control", Link: "/etc/passwd"})}, data), "plain files"},
		"package name":       {debtest.Package{Name: "../../x"}, "package name"},
		"upper case":         {debtest.Package{Name: "Foo"}, "package name"},
		"version":            {debtest.Package{Version: "1 0"}, "version"},
		"architecture":       {debtest.Package{Architecture: "../x"}, "architecture"},
		"Multi-Arch":         {debtest.Package{Fields: map[string]string{"Multi-Arch": "maybe"}}, "Multi-Arch"},
		"conffile relative":  {debtest.Package{Control: map[string]string{"conffiles": "etc/x\n"}}, "absolute"},
		"file list":          {debtest.Package{Control: map[string]string{"list": "/x\n"}}, "none of that name"},
		"two paragraphs":     {debtest.Package{Control: map[string]string{"control": good.ControlText() + "\nPackage: b\n"}}, "second paragraph"},
		"field twice":        {debtest.Package{Control: map[string]string{"control": good.ControlText() + "version: 2\n"}}, "twice"},
		"tar is garbage":     {debtest.Package{RawData: bytes.Repeat([]byte("garbage."), 1000)}, "tar"},
	} {
		_, _, err := tryConvert(c.p.Build(t), Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestConvertKeepsToLimits(t *testing.T) {
	small := Limits{Data: 1 << 20, Control: 1 << 16, Entries: 10, Names: 4096}
	var many, long []debtest.Entry
	for i := range 11 {
		many = append(many, debtest.Entry{Name: "d" + strings.Repeat("x", i) + "/"})
		if i < 9 {
			long = append(long, debtest.Entry{Name: strings.Repeat("y", 200) + strings.Repeat("z", i) + "/" + strings.Repeat("l", 200), Link: strings.Repeat("t", 200)})
		}
	}
	for name, p := range map[string]debtest.Package{
		"data bomb":     {Compression: "xz", Entries: []debtest.Entry{{Name: "a", Content: strings.Repeat("\x00", 8<<20)}}},
		"zst bomb":      {Compression: "zst", Entries: []debtest.Entry{{Name: "a", Content: strings.Repeat("\x00", 8<<20)}}},
		"after the end": {RawData: make([]byte, 8<<20)},
		"control bomb":  {Control: map[string]string{"templates": strings.Repeat("x", 1<<20)}},
		"many entries":  {Entries: many},
		"names":         {Entries: long},
		"many ctl files": {Control: func() map[string]string {
			m := map[string]string{}
			for i := range 300 {
				m["f"+strings.Repeat("x", i%60)+string(rune('a'+i/60))] = ""
			}
			return m
		}()},
	} {
		o := Options{Limits: small}
		if name == "many ctl files" {
			o.Limits.Control = 1 << 20
		}
		if _, _, err := tryConvert(p.Build(t), o); !errors.Is(err, ErrLimit) {
			t.Errorf("%s: got %v, want ErrLimit", name, err)
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	res, _ := convert(t, fixture.Build(t))
	data, err := res.Record.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r, err := DecodeRecord(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.Encode()
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("decoded and encoded again, it is another record (%v)", err)
	}
	for name, spoil := range map[string]func(r *Record){
		"name":           func(r *Record) { r.Package = "../x" },
		"other version":  func(r *Record) { r.Version = "9" },
		"file list":      func(r *Record) { r.List = append(r.List, "/a\n/b") },
		"control file":   func(r *Record) { r.Files[0].Name = "../../x" },
		"conffile":       func(r *Record) { r.Conffiles[0].MD5 = "x\n /etc/shadow" },
		"alias":          func(r *Record) { r.Aliases = []string{"etc"} },
		"dir":            func(r *Record) { r.Inventory.Dirs[0].Path = "../x" },
		"dir not sorted": func(r *Record) { slices.Reverse(r.Inventory.Dirs) },
		"path":           func(r *Record) { r.Inventory.Paths[0] = "/etc/passwd" },
	} {
		bad, err := DecodeRecord(data)
		if err != nil {
			t.Fatal(err)
		}
		spoil(bad)
		if _, err := bad.Encode(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, n := range []int{0, 1, 10, len(data) / 2, len(data) - 1} {
		if _, err := DecodeRecord(data[:n]); err == nil {
			t.Errorf("cut off after %d of %d bytes: accepted", n, len(data))
		}
	}
}

func FuzzDeb(f *testing.F) {
	for _, c := range []string{"gz", "xz", "zst", "none"} {
		p := fixture
		p.Compression = c
		f.Add(p.Build(f))
	}
	limits := Limits{Data: 1 << 20, Control: 1 << 18, Entries: 100, Names: 1 << 16}
	f.Fuzz(func(t *testing.T, deb []byte) {
		res, plain, err := tryConvert(deb, Options{Limits: limits, Parallel: 1})
		if err != nil {
			return
		}
		data, err := res.Record.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeRecord(data); err != nil {
			t.Fatal(err)
		}
		// What was accepted is a proper member: its own entries, below nothing but directories, once each.
		if err := compose.CheckUnique(nil, []compose.Owned{{Owner: "deb", Inventory: res.Record.Inventory}}); err != nil {
			t.Fatal(err)
		}
		tr := tar.NewReader(bytes.NewReader(plain))
		for _, p := range res.Record.Inventory.Paths {
			h, err := tr.Next()
			if err != nil || h.Name != p {
				t.Fatalf("inventory says %q, the member has %+v (%v)", p, h, err)
			}
		}
		if _, err := tr.Next(); err != io.EOF {
			t.Fatalf("the member has more than the inventory says (%v)", err)
		}
	})
}

// FuzzDecodeRecord mutates the text within the compression: past that, nothing but the decoder stands in the way.
func FuzzDecodeRecord(f *testing.F) {
	res, _ := convert(f, fixture.Build(f))
	text, err := json.Marshal(res.Record)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		var data bytes.Buffer
		if err := compose.Compress(&data, bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		r, err := DecodeRecord(data.Bytes())
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeRecord(again); err != nil {
			t.Fatal(err)
		}
		files, err := Database([]*Record{r}, r.Architecture)
		if err != nil {
			return
		}
		for _, file := range files {
			if err := file.Validate(); err != nil || !strings.HasPrefix(file.Path, database) {
				t.Fatalf("the database has a file %q (%v)", file.Path, err)
			}
		}
	})
}

func BenchmarkConvert(b *testing.B) {
	words := bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog, and again: "), 400)
	p := debtest.Package{Compression: "xz"}
	for i := range 1000 {
		content := append([]byte(strings.Repeat("x", i)), words...)
		p.Entries = append(p.Entries, debtest.Entry{Name: "usr/share/f" + strings.Repeat("i", i%200) + string(rune('a'+i/200)), Content: string(content[:20<<10])})
	}
	deb := p.Build(b)
	b.SetBytes(20 << 20)
	for b.Loop() {
		if _, err := Convert(bytes.NewReader(deb), int64(len(deb)), Options{SHA256: digest.FromBytes(deb), Emit: func(compose.Piece, []byte) error { return nil }}); err != nil {
			b.Fatal(err)
		}
	}
}
