package execute_test

import (
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"bakefarm/compose/deb/debtest"
	"bakefarm/farm"
	"bakefarm/plan"
	"bakefarm/worker/execute"
	"bakefarm/worker/sandbox"
)

// tools are this machine's programs that the system of these tests has: what dpkg and the driver need.
var tools = map[string][]string{
	"dash": {"sh"},
	"dpkg": {"dpkg", "dpkg-deb", "dpkg-divert", "dpkg-query", "dpkg-split", "dpkg-statoverride", "dpkg-trigger"},
	"tools": {"cat", "chmod", "chown", "cp", "date", "diff", "grep", "id", "ldconfig", "ln", "ls", "mkdir", "mv", "rm", "rmdir",
		"sed", "sleep", "stat", "tar", "touch", "tr", "xargs"},
}

// toolsOf makes packages of this machine's programs and the libraries that they need.
func toolsOf(t *testing.T) []debtest.Package {
	t.Helper()
	libraries := map[string]string{} // path in the image → on the machine
	lay := func(name, from string, mode int64) debtest.Entry {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		return debtest.Entry{Name: "./" + name, Content: string(data), Mode: mode}
	}
	var packages []debtest.Package
	for _, name := range []string{"dash", "dpkg", "tools"} {
		p := debtest.Package{Name: name, Architecture: "amd64", Entries: []debtest.Entry{{Name: "./usr/"}, {Name: "./usr/bin/"}}}
		for _, tool := range tools[name] {
			path, err := exec.LookPath(tool)
			if err != nil {
				path = "/sbin/" + tool
			}
			p.Entries = append(p.Entries, lay("usr/bin/"+tool, path, 0o755))
			out, err := exec.Command("ldd", path).Output()
			if err != nil {
				t.Fatalf("ldd %s: %v", path, err)
			}
			for word := range strings.FieldsSeq(string(out)) {
				if strings.HasPrefix(word, "/") {
					libraries["usr"+strings.TrimPrefix(word, "/usr")] = word
				}
			}
		}
		packages = append(packages, p)
	}
	libc := debtest.Package{Name: "libc6", Architecture: "amd64"}
	dirs := map[string]bool{}
	var names []string
	for name := range libraries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		parts := strings.Split(name, "/")
		for i := 1; i < len(parts); i++ {
			if dir := "./" + strings.Join(parts[:i], "/") + "/"; !dirs[dir] {
				dirs[dir] = true
				libc.Entries = append(libc.Entries, debtest.Entry{Name: dir})
			}
		}
		libc.Entries = append(libc.Entries, lay(name, libraries[name], 0o755))
	}
	base := debtest.Package{Name: "base-files", Entries: []debtest.Entry{
		{Name: "./etc/"}, {Name: "./root/"}, {Name: "./run/"}, {Name: "./var/"}, {Name: "./var/log/"}, {Name: "./tmp/", Mode: 0o1777},
		{Name: "./etc/passwd", Content: "root:x:0:0:root:/root:/bin/sh\n"}, {Name: "./etc/group", Content: "root:x:0:\n"},
	}}
	return append([]debtest.Package{base}, append(packages, libc)...)
}

// bakeScripts bakes packages over the tools, and runs their scripts.
func (b *bench) bakeScripts(packages ...debtest.Package) (system, changes plan.Layer, err error) {
	b.t.Helper()
	spec, members := b.specOf(packages...)
	spec.OS.Scripts = true
	b.must(farm.KindAssemble, spec, &system, members...)
	err = b.run(farm.KindConfigure, plan.ConfigureSpec{Arch: "amd64"}, &changes, system)
	return system, changes, err
}

// withSandbox gives the environment a sandbox for the time of the test.
func (b *bench) withSandbox() {
	b.t.Helper()
	r, err := sandbox.Open(b.t.Context(), sandbox.Config{Dir: b.t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			b.t.Error(err)
		}
	})
	b.env.Sandbox = r
}

var _ execute.Sandbox = (*sandbox.Runner)(nil)

// scripted are packages whose scripts write down how they were called, beside the traps: a package that diverts another's
// file and has one in its place, a trigger, a file removed, logs, times.
func scripted() []debtest.Package {
	record := `echo "$DPKG_MAINTSCRIPT_PACKAGE $DPKG_MAINTSCRIPT_NAME $DPKG_MAINTSCRIPT_ARCH $*" >>/calls` + "\n"
	return []debtest.Package{
		{Name: "aa-divert", Entries: []debtest.Entry{{Name: "./usr/"}, {Name: "./usr/bin/"}, {Name: "./usr/bin/tool", Content: "better", Mode: 0o755},
			{Name: "./usr/bin/tool-too", Type: '1', Link: "./usr/bin/tool"}, {Name: "./etc/"}, {Name: "./etc/better.conf", Content: "1\n"}}, Control: map[string]string{
			"conffiles": "/etc/better.conf\n",
			"preinst":   "#!/bin/sh\nset -e\n" + record + "dpkg-divert --package aa-divert --add --rename \\\n --divert /usr/bin/tool.plain /usr/bin/tool\n",
			"postinst":  "#!/bin/sh\nset -e\n" + record,
		}},
		{Name: "base-passwd", Entries: []debtest.Entry{{Name: "./usr/"}, {Name: "./usr/bin/"}, {Name: "./usr/bin/tool", Content: "plain", Mode: 0o755}}, Control: map[string]string{
			"preinst": "#!/bin/sh\nset -e\n" + record + `test "$0" = /var/lib/dpkg/tmp.ci/preinst; grep -q '^Package: base-passwd$' /var/lib/dpkg/tmp.ci/control` + "\n",
			"postinst": "#!/bin/sh\nset -e\n" + record + `
				dpkg-query --show --showformat='${Status}\n' base-passwd >>/calls
				date >/var/log/when; date >/etc/machine-id; echo "$SOURCE_DATE_EPOCH" >/etc/epoch; echo x >/run/x
				rm /usr/share/gone; chmod 0600 /usr/share/stays`,
		}},
		{Name: "noscript", Entries: []debtest.Entry{{Name: "./usr/"}, {Name: "./usr/share/"}, {Name: "./usr/share/gone", Content: "g"}, {Name: "./usr/share/stays", Content: "s"}}},
		{Name: "watcher", Control: map[string]string{
			"triggers": "interest-noawait poke\n",
			"postinst": "#!/bin/sh\nset -e\n" + record,
		}},
		{Name: "zz-poker", Fields: map[string]string{"Depends": "watcher"}, Control: map[string]string{
			"triggers": "activate-noawait poke\n",
			"postinst": "#!/bin/sh\nset -e\n" + record,
		}},
	}
}

func TestScriptsRun(t *testing.T) {
	all := append(toolsOf(t), scripted()...)
	slices.SortFunc(all, func(a, b debtest.Package) int { return strings.Compare(a.Name, b.Name) })
	b := newBench(t, newStore(t))
	b.withSandbox()
	system, l, err := b.bakeScripts(all...)
	if err != nil {
		t.Fatal(err)
	}
	if system.Scripts != 4 || len(system.Unpack) != 1 || system.Date != debtest.Date {
		t.Errorf("the system: %d packages with scripts, %d to unpack, date %d", system.Scripts, len(system.Unpack), system.Date)
	}
	got := b.layer(l)
	calls := "base-passwd preinst all install\n" +
		"aa-divert preinst all install\n" +
		"aa-divert postinst all configure \nbase-passwd postinst all configure \ninstall ok half-configured\n" +
		"watcher postinst all configure \nzz-poker postinst all configure \nwatcher postinst all triggered poke\n"
	for path, want := range map[string]string{
		"calls": calls, "var/log/when": "", "etc/machine-id": "", "etc/epoch": "1714564800\n", "usr/share/stays": "s",
		"usr/bin/tool": "better", "usr/bin/tool.plain": "plain", "etc/better.conf": "1\n", "usr/share/.wh.gone": "",
		"var/lib/dpkg/diversions": "/usr/bin/tool\n/usr/bin/tool.plain\naa-divert\n",
	} {
		if e := got[path]; e.Header == nil || e.content != want {
			t.Errorf("%s is %q, want %q", path, e.content, want)
		} else if path != "usr/share/.wh.gone" && e.ModTime.Unix() != debtest.Date {
			t.Errorf("%s is of %v", path, e.ModTime)
		}
	}
	status := got["var/lib/dpkg/status"].content
	if n := strings.Count(status, "Status: install ok installed\n"); n != len(all) || strings.Count(status, "Status:") != n {
		t.Errorf("%d of %d packages are installed:\n%s", n, len(all), status)
	}
	for _, path := range []string{"run/x", "var/log/dpkg.log", "var/lib/dpkg/status-old", "var/lib/dpkg/lock", "usr/sbin/policy-rc.d", "var/lib/dpkg/tmp.ci"} {
		if _, is := got[path]; is {
			t.Errorf("the layer has %s", path)
		}
	}
	if lines := strings.Join(b.lines, "\n"); !strings.Contains(lines, "Setting up zz-poker (1.0-1) ...") {
		t.Errorf("said:\n%s", lines)
	}

	t.Logf("layer %s", l.Digest)

	// Another worker makes the same, and so does one that an ordinary user runs.
	if os.Getuid() == 0 {
		out := asOrdinaryUser(t, "-test.run=^TestScriptsRun$", "-test.v")
		if !strings.Contains(out, "layer "+l.Digest.String()) {
			t.Errorf("as an ordinary user, not %s:\n%s", l.Digest, out)
		}
	}
	other := newBench(t, b.store)
	other.withSandbox()
	if _, again, err := other.bakeScripts(all...); err != nil || !reflect.DeepEqual(again, l) {
		t.Errorf("another worker made %+v, %v, not %+v", again, err, l)
	}
}

// asOrdinaryUser runs this test's program as a user with subordinate IDs, who is made for the time of the test.
func asOrdinaryUser(t *testing.T, args ...string) string {
	t.Helper()
	const name = "bakefarm-scripts"
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	if _, err := user.Lookup(name); err == nil { // of a test that was killed
		run("userdel", name)
	}
	run("useradd", "--no-create-home", "--key", "SUB_UID_COUNT=65536", "--key", "SUB_GID_COUNT=65536", name)
	t.Cleanup(func() { run("userdel", name) })
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	// Neither go test's directory nor t.TempDir are open to others.
	dir, err := os.MkdirTemp("", "bakefarm-scripts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { run("rm", "-rf", dir) })
	program := filepath.Join(dir, "execute.test")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run("cp", self, program)
	run("chown", "-R", u.Uid+":"+u.Gid, dir)
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "TMPDIR=" + dir, "HOME=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as %s: %v", name, err)
	}
	return string(out)
}

// TestScriptsRunOverAConfiguredSystem: the scripts of packages that are added to a system run over it as that was left,
// and the system's own do not run again, but for what they want to be told.
func TestScriptsRunOverAConfiguredSystem(t *testing.T) {
	record := `echo "$DPKG_MAINTSCRIPT_PACKAGE $DPKG_MAINTSCRIPT_NAME $*" >>/calls` + "\n"
	base := append(toolsOf(t), debtest.Package{
		Name: "keeper", Entries: []debtest.Entry{{Name: "./srv/"}, {Name: "./srv/kept dir/"}, {Name: "./usr/"}, {Name: "./usr/bin/"}, {Name: "./usr/bin/tool", Content: "base", Mode: 0o755}},
		Control: map[string]string{
			"triggers": "interest-noawait /usr/share/noted\ninterest-noawait poke\n",
			"postinst": "#!/bin/sh\nset -e\n" + record + `if test "$1" = configure; then chmod 2775 "/srv/kept dir"; chown 7:8 "/srv/kept dir"; rm /usr/bin/tool; date >/var/log/x; fi`,
		},
	})
	added := []debtest.Package{
		{Name: "added", Entries: []debtest.Entry{{Name: "./etc/"}, {Name: "./etc/added.conf", Content: "a\n"}, {Name: "./srv/"}, {Name: "./srv/kept dir/"}, {Name: "./srv/kept dir/file", Content: "f"},
			{Name: "./usr/"}, {Name: "./usr/share/"}, {Name: "./usr/share/noted/"}, {Name: "./usr/share/noted/it", Content: "n"}}, Control: map[string]string{
			"conffiles": "/etc/added.conf\n",
			"preinst":   "#!/bin/sh\nset -e\ntest ! -e /usr/bin/tool; test ! -e /etc/added.conf\n" + record,
			"postinst":  "#!/bin/sh\nset -e\ntest -e /etc/added.conf\n" + record,
		}},
		{Name: "noted-not", Entries: []debtest.Entry{{Name: "./usr/"}, {Name: "./usr/share/"}, {Name: "./usr/share/noted-not", Content: "n"}}},
	}
	byName := func(a, b debtest.Package) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(base, byName)
	b := newBench(t, newStore(t))
	b.withSandbox()
	below, changes, err := b.bakeScripts(base...)
	if err != nil {
		t.Fatal(err)
	}
	spec, members := b.specOf(append(base, added...)...)
	spec.Role, spec.OS.Scripts, spec.OS.Below = plan.RolePackages, true, len(base)
	var upper, last plan.Layer
	b.must(farm.KindAssemble, spec, &upper, members...)
	b.must(farm.KindConfigure, plan.ConfigureSpec{Arch: "amd64", Below: 2}, &last, below, changes, upper)
	got := b.layer(last)
	if want := "keeper postinst configure \nadded preinst install\nadded postinst configure \nkeeper postinst triggered /usr/share/noted\n"; got["calls"].content != want {
		t.Errorf("calls:\n%swant:\n%s", got["calls"].content, want)
	}
	if e := got["srv/kept dir"]; e.Header == nil || e.Mode != 0o2775 || e.Uid != 7 || e.Gid != 8 {
		t.Errorf("the directory is %+v", e.Header)
	}
	if status := got["var/lib/dpkg/status"]; status.Header != nil {
		t.Errorf("the status is another one:\n%s", status.content)
	}
	for path := range got {
		if strings.HasPrefix(path, "usr/") {
			t.Errorf("the layer has %s", path)
		}
	}
	b.must(farm.KindAssemble, spec, &upper, members...)
	var again plan.Layer
	b.must(farm.KindConfigure, plan.ConfigureSpec{Arch: "amd64", Below: 2}, &again, below, changes, upper)
	if !reflect.DeepEqual(again, last) {
		t.Errorf("made again: %+v, not %+v", again, last)
	}
	if err := b.run(farm.KindConfigure, plan.ConfigureSpec{Arch: "amd64", Below: 3}, nil, below, changes, upper); err == nil {
		t.Error("all layers are configured, and yet there is something to do")
	}
}

func TestScriptsFail(t *testing.T) {
	if testing.Short() {
		t.Skip("runs dpkg five times")
	}
	all := toolsOf(t)
	b := newBench(t, newStore(t))
	b.withSandbox()
	for name, test := range map[string]struct {
		broken debtest.Package
		want   []string
	}{
		"postinst": {debtest.Package{Name: "broken", Control: map[string]string{"postinst": "#!/bin/sh\necho working\necho no luck >&2\nexit 3\n"}},
			[]string{"postinst of broken 1.0-1 returned error exit status 3; its last lines:", "\n  working\n  no luck\n"}},
		"preinst": {debtest.Package{Name: "broken", Control: map[string]string{"preinst": "#!/bin/sh\necho no space\nexit 1\n"}},
			[]string{"preinst of broken 1.0-1 returned error exit status 1; its last lines:\n  no space\n"}},
		"while unpacking": {debtest.Package{Name: "broken", Entries: []debtest.Entry{{Name: "./usr/"}, {Name: "./usr/bin/"}, {Name: "./usr/bin/sh", Content: "other"}},
			Control: map[string]string{"preinst": "#!/bin/sh\n: dpkg-divert --add\n"}},
			[]string{"package broken 1.0-1: ", "trying to overwrite '/usr/bin/sh', which is also in package dash 1.0-1"}},
		"unmet": {debtest.Package{Name: "broken", Fields: map[string]string{"Depends": "nothing-like-it"}, Control: map[string]string{"postinst": "#!/bin/sh\n"}},
			[]string{"package broken", "broken depends on nothing-like-it"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := b.bakeScripts(append(slices.Clone(all), test.broken)...)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q\nlacks %q", err, want)
				}
			}
			if execute.MayPass(err) {
				t.Error("another attempt is made")
			}
		})
	}

	// Nobody would run the scripts.
	spec, members := b.specOf(all[0], scripted()[3])
	spec.OS.Scripts = true
	if err := b.run(farm.KindAssemble, spec, nil, members...); err == nil || !strings.Contains(err.Error(), "package watcher 1.0-1 has maintainer scripts, which can't run without dpkg") {
		t.Errorf("without dpkg: %v", err)
	}
	// Nobody needs to.
	b.env.Sandbox = nil
	if _, l, err := b.bakeScripts(all[0]); err != nil || len(b.layer(l)) != 0 {
		t.Errorf("without scripts: %+v, %v", l, err)
	}
	if _, _, err := b.bakeScripts(append(all, scripted()[3])...); err == nil || !strings.Contains(err.Error(), "no sandbox") {
		t.Errorf("without a sandbox: %v", err)
	}
}
