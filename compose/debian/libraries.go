package debian

import (
	"path"
	"slices"
	"strings"

	"bakefarm/compose/deb"
	"bakefarm/compose/ldcache"
)

// libraries does what libc-bin's trigger does: it runs ldconfig.
func (s *system) libraries() {
	libc, ok := s.byName["libc-bin"]
	if !ok || !ldcache.Knows(s.arch) {
		return
	}
	found := map[string]library{}
	names := map[string][]string{} // of what has a library's name, by directory
	newest := libc.Date
	for _, p := range s.packages {
		newest = max(newest, p.Date)
		if p.Facts == nil {
			continue
		}
		for name, l := range p.libraries {
			found[name] = l
			names[path.Dir(name)] = append(names[path.Dir(name)], path.Base(name))
		}
	}
	for name, f := range s.made { // links of alternatives
		if ldcache.IsLibrary(path.Base(name)) && f.Link != "" {
			found[name] = library{target: f.Link}
			names[path.Dir(name)] = append(names[path.Dir(name)], path.Base(name))
		}
	}
	var dirs []ldcache.Dir
	seen := map[string]bool{}
	for _, name := range s.libraryDirs() {
		dir := deb.MergedPath(name)
		if seen[dir] || !s.has(dir) {
			continue
		}
		seen[dir] = true
		d := ldcache.Dir{Path: name}
		for _, base := range names[dir] {
			if l, ok := s.resolve(found, path.Join(dir, base)); ok {
				d.Files = append(d.Files, ldcache.File{Name: base, Link: found[path.Join(dir, base)].target != "", Library: l})
			}
		}
		dirs = append(dirs, d)
	}
	entries, links := ldcache.Scan(dirs, s.arch)
	for _, l := range links {
		s.link(deb.MergedPath(l.Dir+"/"+l.Name), l.Target, newest)
	}
	upstream, _, _ := strings.Cut(libc.Version, "-")
	generator := "ldconfig (Debian GLIBC " + libc.Version + ") stable release version " + upstream
	s.write("etc/ld.so.cache", 0o644, newest, ldcache.Encode(entries, generator))
}

// resolve follows links to a library.
func (s *system) resolve(found map[string]library, p string) (ldcache.Library, bool) {
	for range 40 { // as many as the kernel follows (MAXSYMLINKS)
		l, ok := found[p]
		switch made, isMade := s.made[p]; {
		case ok && l.target == "":
			return l.Library, true
		case !ok && isMade && made.Link != "":
			l.target = made.Link
		case !ok:
			return ldcache.Library{}, false
		}
		target := l.target
		if !path.IsAbs(target) {
			target = path.Join("/", path.Dir(p), target)
		}
		p = deb.MergedPath(path.Clean(target))
	}
	return ldcache.Library{}, false
}

// libraryDirs are the directories that ldconfig searches: those of /etc/ld.so.conf, then those that every loader knows.
func (s *system) libraryDirs() []string {
	var dirs []string
	var read func(name string, depth int)
	read = func(name string, depth int) {
		for line := range strings.Lines(string(s.texts[name].data)) {
			line, _, _ = strings.Cut(line, "#")
			words := strings.Fields(line)
			switch {
			case len(words) == 0 || strings.EqualFold(words[0], "hwcap"):
			case words[0] != "include":
				dir, _, _ := strings.Cut(strings.TrimSpace(line), "=") // behind that: a kind of library that is no more
				dir = strings.TrimRight(strings.TrimSpace(dir), "/")
				if path.IsAbs(dir) {
					dirs = append(dirs, path.Clean(dir))
				}
			case depth < 8:
				for _, pattern := range words[1:] {
					for _, included := range s.glob(pattern) {
						read(included, depth+1)
					}
				}
			}
		}
	}
	read("etc/ld.so.conf", 0)
	multiarch := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "i386": "i386", "ppc64el": "powerpc64le", "riscv64": "riscv64"}[s.arch]
	return append(dirs, "/lib/"+multiarch+"-linux-gnu", "/usr/lib/"+multiarch+"-linux-gnu", "/lib", "/usr/lib")
}

// glob lists the configuration files that a pattern names, sorted.
func (s *system) glob(pattern string) []string {
	var names []string
	for name := range s.texts {
		if ok, err := path.Match(strings.TrimPrefix(pattern, "/"), name); ok && err == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
