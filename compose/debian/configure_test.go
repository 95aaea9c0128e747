package debian

import (
	"archive/tar"
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"bakefarm/compose"
	"bakefarm/compose/deb"
	"bakefarm/compose/deb/debtest"
	"bakefarm/compose/ldcache/ldcachetest"
)

// root is a certificate whose subject has blanks and accents; by "openssl x509 -subject_hash" its hash is af07ab27.
const root = `-----BEGIN CERTIFICATE-----
MIIB+zCCAaGgAwIBAgIUJj3y+4VmbRTJ1XHTflwEHtts4HowCgYIKoZIzj0EAwIw
UjELMAkGA1UEBhMCQ0gxLjAsBgNVBAoMJSAgRsWRdGFuw7pzw610dsOhbnkgICBC
w6Rja2VyZWkgR21iSCAxEzARBgNVBAMMClJvb3QgIENBIDEwIBcNMjYxMTIzMDEx
NjQ4WhgPMjEyNjEwMzAwMTE2NDhaMFIxCzAJBgNVBAYTAkNIMS4wLAYDVQQKDCUg
IEbFkXRhbsO6c8OtdHbDoW55ICAgQsOkY2tlcmVpIEdtYkggMRMwEQYDVQQDDApS
b290ICBDQSAxMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEa5vzaFCKPNq3i1d8
+6TEiO2v4DcNjYfXiXr+vGqFecft/ukAGF4GZFNn+UTXOUEppRBC3qqDc8tmksmS
16m5JKNTMFEwHQYDVR0OBBYEFH8TUiAnU1H6AcUYwXRTyQ3OUOkaMB8GA1UdIwQY
MBaAFH8TUiAnU1H6AcUYwXRTyQ3OUOkaMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZI
zj0EAwIDSAAwRQIgDZRvkYLtK2snqe8G64QZMWzgV+gl9YuaY8niihItboUCIQCZ
B1vI54PKLjCC04f9lsQoAB4768yMwBm8xs0E4R8MPw==
-----END CERTIFICATE-----
`

// set converts packages, and reads their facts.
func set(t *testing.T, packages ...debtest.Package) []Package {
	t.Helper()
	var all []Package
	for _, p := range packages {
		file := p.Build(t)
		var member bytes.Buffer
		converted, err := deb.Convert(bytes.NewReader(file), int64(len(file)), deb.Options{
			SHA256: debtest.Digest(file), Emit: func(compose.Piece, []byte) error { return nil }, Plain: &member,
		})
		if err != nil {
			t.Fatal(err)
		}
		made := Package{Record: converted.Record}
		if Wanted(converted.Record) {
			if made.Facts, err = Gather(&member); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, made)
	}
	return all
}

func file(name, content string) debtest.Entry {
	return debtest.Entry{Name: "./" + name, Content: content}
}
func dir(name string) debtest.Entry { return debtest.Entry{Name: "./" + name + "/"} }
func symlink(name, target string) debtest.Entry {
	return debtest.Entry{Name: "./" + name, Link: target}
}

// minimal is what makes something in every minimal system, in small.
func minimal() []debtest.Package {
	library := func(soname string) string { return string(ldcachetest.Object(2, 62, soname, 0)) }
	return []debtest.Package{
		{Name: "base-files", Entries: []debtest.Entry{
			dir("etc/dpkg/origins"), file("etc/dpkg/origins/debian", "Vendor: Debian\n"), dir("usr/share/info"),
			dir("var/run"), dir("var/lock"), dir("run"), dir("root"), dir("var/spool"),
			file("usr/share/base-files/profile", "PATH=/bin\n"), file("usr/share/base-files/motd", "hello\n"),
			file("usr/share/base-files/dot.profile", "mesg n\n"), file("usr/share/base-files/dot.bashrc", "#\n"),
			file("usr/share/base-files/info.dir", "menu\n"),
		}},
		{Name: "base-passwd", Entries: []debtest.Entry{
			file("usr/share/base-passwd/passwd.master", "root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
			file("usr/share/base-passwd/group.master", "root:*:0:\nshadow:*:42:\n"),
		}},
		{Name: "passwd"}, {Name: "login"},
		{Name: "tzdata", Entries: []debtest.Entry{file("usr/share/zoneinfo/Etc/UTC", "TZif")}},
		{Name: "debianutils", Entries: []debtest.Entry{file("usr/share/debianutils/shells", "# /etc/shells: valid login shells\n/bin/sh\n"), file("usr/bin/which.debianutils", "")},
			Control: map[string]string{"postinst": "#!/bin/sh\nua() {\n\tupdate-alternatives --install /usr/bin/which which /usr/bin/which.debianutils 0 \\\n\t\t--slave /usr/share/man/man1/which.1.gz which.1.gz /usr/share/man/man1/which.debianutils.1.gz\n}\n"}},
		{Name: "dash", Entries: []debtest.Entry{file("bin/dash", ""), file("usr/share/debianutils/shells.d/dash", "/bin/dash\n")}},
		{Name: "libc-bin", Version: "2.36-9", Entries: []debtest.Entry{
			file("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n"), file("etc/ld.so.conf.d/libc.conf", "# local\n/usr/local/lib\n"),
			file("usr/share/libc-bin/nsswitch.conf", "passwd: files\n"),
		}},
		{Name: "libc6", Architecture: "amd64", Entries: []debtest.Entry{
			file("lib/x86_64-linux-gnu/libc.so.6", library("libc.so.6")), file("etc/ld.so.conf.d/amd64.conf", "/lib/x86_64-linux-gnu\n"),
		}},
		{Name: "libx1", Architecture: "amd64", Entries: []debtest.Entry{
			file("usr/lib/x86_64-linux-gnu/libx.so.1.2", library("libx.so.1")), file("usr/lib/x86_64-linux-gnu/libx.so", "/* GNU ld script */"),
		}},
		{Name: "mawk", Entries: []debtest.Entry{file("usr/bin/mawk", ""), file("usr/share/man/man1/mawk.1.gz", "")},
			Control: map[string]string{"postinst": "update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 --slave /usr/share/man/man1/awk.1.gz awk.1.gz /usr/share/man/man1/mawk.1.gz --slave /usr/bin/nawk nawk /usr/bin/mawk\n"}},
		{Name: "gawk", Entries: []debtest.Entry{file("usr/bin/gawk", "")},
			Control: map[string]string{"postinst": "update-alternatives --quiet --install '/usr/bin/awk' awk \"/usr/bin/gawk\" 10 || true\nupdate-alternatives --install /usr/bin/$x x /usr/bin/gawk 10\n"}},
		{Name: "ca-certificates", Entries: []debtest.Entry{
			file("usr/share/ca-certificates/mozilla/A (B), C.crt", root), file("usr/share/ca-certificates/mozilla/Twice.crt", root),
			file("usr/share/ca-certificates/mozilla/none.crt", "nothing"), dir("etc/ssl/certs"),
		}},
		{Name: "libpam-runtime", Entries: []debtest.Entry{
			file("usr/share/pam/common-auth", "a\n$auth_primary\nb\n$auth_additional\n"), file("usr/share/pam/common-account", "$account_primary\n$account_additional\n"),
			file("usr/share/pam/common-password", "$password_primary\n"), file("usr/share/pam/common-session", "$session_primary\n--\n$session_additional\n"),
			file("usr/share/pam-configs/unix", "Name: Unix\nAuth-Type: Primary\nAuth:\n\t[success=end default=ignore]\tpam_unix.so nullok try_first_pass\n"+
				"Auth-Initial:\n\t[success=end default=ignore]\tpam_unix.so nullok\nAccount-Type: Primary\nAccount-Initial:\n\t[success=end default=ignore]\tpam_unix.so\n"+
				"Session-Type: Additional\nSession-Initial:\n\trequired\tpam_unix.so\nPassword-Type: Primary\nPassword:\n\t[success=end]\tpam_unix.so yescrypt\n"),
		}},
	}
}

const want = `
etc/alternatives/awk -> /usr/bin/gawk
etc/alternatives/which -> /usr/bin/which.debianutils
etc/ca-certificates.conf 644 0
etc/dpkg/origins/default -> debian
etc/group 644 0 "root:x:0:\nshadow:x:42:\n"
etc/gshadow 640 42 "root:*::\nshadow:*::\n"
etc/ld.so.cache 644 0
etc/localtime -> /usr/share/zoneinfo/Etc/UTC
etc/motd 644 0 "hello\n"
etc/nsswitch.conf 644 0 "passwd: files\n"
etc/opt/ 755 0
etc/pam.d/common-account 644 0 "account\t[success=1 default=ignore]\tpam_unix.so \n"
etc/pam.d/common-auth 644 0 "a\nauth\t[success=1 default=ignore]\tpam_unix.so nullok\nb\n"
etc/pam.d/common-password 644 0 "password\t[success=1]\tpam_unix.so yescrypt\n"
etc/pam.d/common-session 644 0 "session\t[default=1]\t\t\tpam_permit.so\n--\nsession\trequired\tpam_unix.so \n"
etc/passwd 644 0 "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
etc/profile 644 0 "PATH=/bin\n"
etc/shadow 640 42 "root:*:19844:0:99999:7:::\nnobody:*:19844:0:99999:7:::\n"
etc/shells 644 0 "# /etc/shells: valid login shells\n/bin/sh\n/usr/bin/sh\n/bin/dash\n/usr/bin/dash\n"
etc/ssl/certs/A_=B=__C.pem -> /usr/share/ca-certificates/mozilla/A (B), C.crt
etc/ssl/certs/Twice.pem -> /usr/share/ca-certificates/mozilla/Twice.crt
etc/ssl/certs/af07ab27.0 -> A_=B=__C.pem
etc/ssl/certs/ca-certificates.crt 644 0
etc/ssl/certs/none.pem -> /usr/share/ca-certificates/mozilla/none.crt
etc/subgid 644 0 ""
etc/subuid 644 0 ""
etc/timezone 644 0 "Etc/UTC\n"
media/ 755 0
mnt/ 755 0
opt/ 755 0
root/.bashrc 644 0 "#\n"
root/.profile 644 0 "mesg n\n"
run/lock/ 1777 0
srv/ 755 0
usr/bin/awk -> /etc/alternatives/awk
usr/bin/which -> /etc/alternatives/which
usr/lib/x86_64-linux-gnu/libx.so.1 -> libx.so.1.2
usr/local/ 755 0
usr/local/bin/ 755 0
usr/local/etc/ 755 0
usr/local/games/ 755 0
usr/local/include/ 755 0
usr/local/lib/ 755 0
usr/local/man -> share/man
usr/local/sbin/ 755 0
usr/local/share/ 755 0
usr/local/share/ca-certificates/ 755 0
usr/local/share/man/ 755 0
usr/local/src/ 755 0
usr/share/info/dir 644 0 "menu\n"
var/lib/dpkg/alternatives/awk 644 0 "auto\n/usr/bin/awk\nawk.1.gz\n/usr/share/man/man1/awk.1.gz\nnawk\n/usr/bin/nawk\n\n/usr/bin/gawk\n10\n\n\n/usr/bin/mawk\n5\n/usr/share/man/man1/mawk.1.gz\n/usr/bin/mawk\n\n"
var/lib/dpkg/alternatives/which 644 0 "auto\n/usr/bin/which\nwhich.1.gz\n/usr/share/man/man1/which.1.gz\n\n/usr/bin/which.debianutils\n0\n/usr/share/man/man1/which.debianutils.1.gz\n\n"
var/lib/shells.state 644 0 "/bin/sh\n/usr/bin/sh\n/bin/dash\n/usr/bin/dash\n"
var/lock -> /run/lock
var/mail/ 2775 8
var/opt/ 755 0
var/run -> /run
var/spool/mail -> ../mail
`

// describe lists files, small ones with their text.
func describe(files []compose.File) string {
	var b strings.Builder
	for _, f := range files {
		switch {
		case f.Type == tar.TypeSymlink:
			fmt.Fprintf(&b, "%s -> %s\n", f.Path, f.Link)
		case f.Type == tar.TypeDir:
			fmt.Fprintf(&b, "%s/ %o %d\n", f.Path, f.Mode, f.GID)
		case len(f.Content) > 200:
			fmt.Fprintf(&b, "%s %o %d\n", f.Path, f.Mode, f.GID)
		default:
			fmt.Fprintf(&b, "%s %o %d %q\n", f.Path, f.Mode, f.GID, f.Content)
		}
	}
	return b.String()
}

func TestConfigure(t *testing.T) {
	packages := set(t, minimal()...)
	made := Configure(packages, "amd64")
	got, wanted := strings.Split(describe(made.Files), "\n"), strings.Split(strings.TrimPrefix(want, "\n"), "\n")
	for i := range max(len(got), len(wanted)) {
		if i >= len(got) || i >= len(wanted) || got[i] != wanted[i] {
			t.Fatalf("made\n%s\nfrom line %d on want\n%s", strings.Join(got[min(i, len(got)):], "\n"), i+1, strings.Join(wanted[min(i, len(wanted)):], "\n"))
		}
	}
	if !slices.Equal(made.Dirs, []string{"var/run", "var/lock"}) {
		t.Errorf("directories that became links: %v", made.Dirs)
	}
	for _, f := range made.Files {
		if f.ModTime != debtest.Date {
			t.Errorf("%s: date %d, want the packages' %d", f.Path, f.ModTime, debtest.Date)
		}
		switch f.Path {
		case "etc/ca-certificates.conf":
			if !strings.HasSuffix(string(f.Content), "#\nmozilla/A (B), C.crt\nmozilla/Twice.crt\nmozilla/none.crt\n") {
				t.Errorf("%s: %q", f.Path, f.Content)
			}
		case "etc/ssl/certs/ca-certificates.crt":
			if string(f.Content) != root+root+"nothing\n" {
				t.Errorf("%s: %q", f.Path, f.Content)
			}
		case "etc/ld.so.cache":
			for _, part := range []string{"\x00/lib/x86_64-linux-gnu/libc.so.6\x00", "/lib/x86_64-linux-gnu/libx.so.1\x00", "ldconfig (Debian GLIBC 2.36-9) stable release version 2.36"} {
				if !bytes.Contains(f.Content, []byte(part)) {
					t.Errorf("%s has no %q:\n%q", f.Path, part, f.Content)
				}
			}
		}
	}

	slices.Reverse(packages)
	if again := Configure(packages, "amd64"); describe(again.Files) != describe(made.Files) {
		t.Errorf("in another order:\n%s", describe(again.Files))
	}
}

// What packages bring stays, and nothing is made below it.
func TestPackagesWin(t *testing.T) {
	packages := append(minimal(), debtest.Package{Name: "local", Entries: []debtest.Entry{
		file("etc/passwd", "own"), file("usr/bin/awk", "own"), symlink("etc/localtime", "/own"), file("var/run/own/pid", "1"), file("usr/local", "no directory"),
	}})
	made := Configure(set(t, packages...), "amd64")
	for _, f := range made.Files {
		if slices.Contains([]string{"etc/passwd", "usr/bin/awk", "etc/localtime", "var/run", "etc/alternatives/awk"}, f.Path) || strings.HasPrefix(f.Path, "usr/local/") {
			t.Errorf("made %s", f.Path)
		}
	}
	if !slices.Equal(made.Dirs, []string{"var/lock"}) {
		t.Errorf("directories that became links: %v", made.Dirs)
	}
}

func TestNothingForNobody(t *testing.T) {
	if made := Configure(set(t, debtest.Package{Entries: []debtest.Entry{file("usr/bin/hello", "")}}), "amd64"); len(made.Files)+len(made.Dirs) > 0 {
		t.Errorf("made %s", describe(made.Files))
	}
}

func TestWithoutShadow(t *testing.T) {
	for _, f := range Configure(set(t, minimal()[1]), "amd64").Files {
		if f.Path == "etc/passwd" && !strings.HasPrefix(string(f.Content), "root:*:0:0:") || strings.Contains(f.Path, "shadow") {
			t.Errorf("%s %q", f.Path, f.Content)
		}
	}
}

func TestInstalls(t *testing.T) {
	for script, want := range map[string]string{
		"update-alternatives --install /a b /c 1":                                       "[[/a b /c 1]]",
		"  /usr/bin/update-alternatives --quiet --force --install /a b /c 1 # --slave":  "[[/a b /c 1]]",
		"update-alternatives --install \\\n /a b \\\n\t/c 1 >/dev/null":                 "[[/a b /c 1]]",
		"update-alternatives --install /a 'b c' \"/c\" 1;update-alternatives --install": "[[/a b c /c 1]]",
		"update-alternatives --remove b /c":                                             "[]",
		"echo update-alternatives --install /a b /c 1":                                  "[]",
		"# update-alternatives --install /a b /c 1":                                     "[]",
		"update-alternatives --install /a$x b /c 1":                                     "[]",
		"update-alternatives --install \"`a`\" b /c 1":                                  "[]",
		"update-alternatives --install '/a b /c 1":                                      "[]",
		"for i in *; do update-alternatives --install /a b /c 1":                        "[]",
	} {
		if got := fmt.Sprint(installs(script)); got != want {
			t.Errorf("%q: %s, want %s", script, got, want)
		}
	}
}

func TestHostileAlternatives(t *testing.T) {
	p := debtest.Package{Entries: []debtest.Entry{file("usr/bin/x", "")}, Control: map[string]string{"postinst": `
update-alternatives --install /usr/bin/a ../../passwd /usr/bin/x 1
update-alternatives --install relative b /usr/bin/x 1
update-alternatives --install /usr/bin/c c /usr/bin/none 1
update-alternatives --install /usr/bin/d d /usr/bin/x many
update-alternatives --install /usr/bin/e e /usr/bin/x 1 --slave /usr/bin/f
update-alternatives --install /usr/../../g g /usr/bin/x 1
`}}
	for _, f := range Configure(set(t, p), "amd64").Files {
		if !strings.HasSuffix(f.Path, "/g") { // harmless without its link
			t.Errorf("made %s", f.Path)
		}
	}
}
