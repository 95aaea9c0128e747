package debian

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"bakefarm/compose"
	"bakefarm/compose/deb"
)

// Groups of base-passwd, whose numbers are the same on every Debian system.
const (
	groupMail   = 8
	groupShadow = 42
)

// baseFiles does what base-files' postinst does, but for the records of logins, which are logs.
func (s *system) baseFiles() {
	date, ok := s.date("base-files")
	if !ok {
		return
	}
	const defaults = "usr/share/base-files/"
	s.copy(defaults+"dot.profile", "root/.profile")
	s.copy(defaults+"dot.bashrc", "root/.bashrc")
	s.copy(defaults+"profile", "etc/profile")
	s.copy(defaults+"motd", "etc/motd")
	if s.dirs["usr/share/info"] {
		s.copy(defaults+"info.dir", "usr/share/info/dir")
	}
	if s.files["etc/dpkg/origins/debian"] {
		s.link("etc/dpkg/origins/default", "debian", date)
	}
	for _, d := range []string{"mnt", "srv", "opt", "etc/opt", "var/opt", "media"} {
		s.dir(d, 0o755, 0, date)
	}
	s.dir("var/mail", 0o2775, groupMail, date)
	s.link("var/spool/mail", "../mail", date)
	s.dir("run/lock", 0o1777, 0, date)
	s.replace("var/run", "/run", date)
	s.replace("var/lock", "/run/lock", date)
	for _, d := range []string{"", "/share", "/share/man", "/bin", "/games", "/lib", "/include", "/sbin", "/src", "/etc"} {
		s.dir("usr/local"+d, 0o755, 0, date)
	}
	s.link("usr/local/man", "share/man", date)
}

// accounts does what base-passwd's postinst does, and passwd's: with it in the set, passwords are in shadow files.
func (s *system) accounts() {
	date, ok := s.date("base-passwd")
	if !ok {
		return
	}
	passwd, group := s.texts["usr/share/base-passwd/passwd.master"].data, s.texts["usr/share/base-passwd/group.master"].data
	if len(passwd) == 0 || len(group) == 0 {
		return
	}
	if shadowed, ok := s.date("passwd"); ok {
		// pwconv writes the day on which the passwords were set. Here that is when the accounts were, not when they are
		// baked; the ages are those of login.defs.
		var shadow, gshadow []byte
		passwd, shadow = hide(passwd, fmt.Sprintf("%d:0:99999:7:::", date/(24*60*60)))
		group, gshadow = hide(group, ":")
		s.secret("etc/shadow", shadow, shadowed)
		s.secret("etc/gshadow", gshadow, shadowed)
	}
	s.write("etc/passwd", 0o644, date, passwd)
	s.write("etc/group", 0o644, date, group)
	if _, ok := s.date("login"); ok {
		s.write("etc/subuid", 0o644, date, nil)
		s.write("etc/subgid", 0o644, date, nil)
	}
}

// hide moves the passwords of passwd or group lines (name:password:…) into lines of a shadow file, which end in rest.
func hide(lines []byte, rest string) (open, shadow []byte) {
	var o, h bytes.Buffer
	for line := range bytes.Lines(lines) {
		name, tail, ok := bytes.Cut(line, []byte(":"))
		password, others, more := bytes.Cut(tail, []byte(":"))
		if !ok || !more {
			continue
		}
		fmt.Fprintf(&o, "%s:x:%s", name, others)
		fmt.Fprintf(&h, "%s:%s:%s\n", name, password, rest)
	}
	return o.Bytes(), h.Bytes()
}

// secret adds a file that only root and the group shadow may read.
func (s *system) secret(p string, data []byte, date int64) {
	f := compose.Text(p, 0o640, data)
	f.GID, f.ModTime = groupShadow, date
	s.put(f)
}

// shells does what update-shells does for the packages that say of themselves that they are login shells.
func (s *system) shells() {
	const dir = "usr/share/debianutils/"
	template, ok := s.texts[dir+"shells"]
	if !ok {
		return
	}
	names := []string{dir + "shells"}
	for _, p := range slices.Sorted(maps.Keys(s.texts)) {
		if strings.HasPrefix(p, dir+"shells.d/") {
			names = append(names, p)
		}
	}
	listed := strings.Split(strings.TrimSuffix(string(template.data), "\n"), "\n")
	var state []string
	add := func(shell string) {
		if !slices.Contains(state, shell) {
			state = append(state, shell)
		}
		if !slices.Contains(listed, shell) {
			listed = append(listed, shell)
		}
	}
	for _, name := range names {
		for line := range strings.Lines(string(s.texts[name].data)) {
			shell, _, _ := strings.Cut(strings.TrimRight(line, "\n"), "#")
			if path.IsAbs(shell) {
				add(shell)
				add("/" + deb.MergedPath(shell))
			}
		}
	}
	s.write("etc/shells", 0o644, template.date, lines(listed))
	s.write("var/lib/shells.state", 0o644, template.date, lines(state))
}

func lines(s []string) []byte { return []byte(strings.Join(s, "\n") + "\n") }

// network does what libc-bin's postinst does for the name service.
func (s *system) network() { s.copy("usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf") }

// readline does what readline-common's postinst does.
func (s *system) readline() { s.copy("usr/share/readline/inputrc", "etc/inputrc") }

// timezone does what tzdata's postinst does where nobody has chosen a zone.
func (s *system) timezone() {
	const zone = "Etc/UTC"
	if date, ok := s.date("tzdata"); ok && s.files["usr/share/zoneinfo/"+zone] {
		s.link("etc/localtime", "/usr/share/zoneinfo/"+zone, date)
		s.write("etc/timezone", 0o644, date, []byte(zone+"\n"))
	}
}
