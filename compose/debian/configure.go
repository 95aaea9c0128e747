package debian

import (
	"archive/tar"
	"maps"
	"path"
	"slices"
	"strings"

	"bakefarm/compose"
	"bakefarm/compose/deb"
)

// Package is a package of a set. Facts may be nil: there is nothing to know.
type Package struct {
	*deb.Record
	*Facts
}

// Configured is what Configure makes.
type Configured struct {
	Files []compose.File // for the head, sorted by path; none is in a package
	// Dirs are directories that packages bring and that have become links: the head must not have them.
	Dirs []string
}

// Configure makes the files for a set of packages of an architecture. The order of the packages does not matter.
func Configure(packages []Package, arch string) Configured {
	return newSystem(packages, arch).configure()
}

func (s *system) configure() Configured {
	s.baseFiles()
	s.accounts()
	s.shells()
	s.network()
	s.pam()
	s.readline()
	s.timezone()
	s.certificates()
	s.alternatives()
	s.libraries() // last: links among libraries may be alternatives
	made := Configured{Dirs: s.gone}
	for _, p := range slices.Sorted(maps.Keys(s.made)) {
		made.Files = append(made.Files, s.made[p])
	}
	return made
}

// Base is a system that packages are added to: it is configured, and what it has stays as it is.
type Base struct {
	Files []string // everything but directories
	Dirs  []string
	Facts *Facts
	Libc  string // the version of its libc-bin; empty without
}

// ConfigureOver makes the files for packages that are added to a base. The loader's index is made anew for all libraries
// when the packages bring any.
func ConfigureOver(base Base, packages []Package, arch string) Configured {
	s := newSystem(packages, arch)
	const index = "etc/ld.so.cache"
	libraries := false
	for _, p := range s.packages {
		libraries = libraries || p.Facts != nil && len(p.libraries) > 0
	}
	for _, f := range base.Files {
		if f != index || !libraries {
			s.files[f] = true
		}
	}
	for _, d := range base.Dirs {
		s.dirs[d] = true
	}
	if base.Facts != nil {
		for p, t := range base.Facts.texts {
			_, ours := s.texts[p]
			if shared := strings.HasPrefix(p, "etc/ld.so.conf") || strings.HasPrefix(p, "usr/share/ca-certificates/"); shared && !ours {
				s.texts[p] = t
			}
		}
		s.packages = append(s.packages, Package{Record: &deb.Record{}, Facts: base.Facts})
	}
	if _, ours := s.byName["libc-bin"]; !ours && base.Libc != "" && libraries {
		s.byName["libc-bin"] = Package{Record: &deb.Record{Package: "libc-bin", Version: base.Libc}}
	}
	return s.configure()
}

// system is a set of packages on its way to a configured system. All paths are those in the layer: relative, merged.
type system struct {
	arch     string
	packages []Package
	byName   map[string]Package
	files    map[string]bool // of the packages: no directories
	dirs     map[string]bool // of the packages, with their parents
	texts    map[string]text
	made     map[string]compose.File
	gone     []string
}

func newSystem(packages []Package, arch string) *system {
	s := &system{
		arch:   arch,
		byName: map[string]Package{}, files: map[string]bool{}, dirs: map[string]bool{},
		texts: map[string]text{}, made: map[string]compose.File{},
	}
	s.packages = slices.SortedFunc(slices.Values(packages), func(a, b Package) int { return strings.Compare(a.Package, b.Package) })
	for _, p := range s.packages {
		s.byName[p.Package] = p
		for _, f := range p.Inventory.Paths {
			s.files[f] = true
			s.parents(f)
		}
		for _, d := range p.Inventory.Dirs {
			s.dirs[d.Path] = true
			s.parents(d.Path)
		}
		if p.Facts != nil {
			maps.Copy(s.texts, p.texts)
		}
	}
	return s
}

func (s *system) parents(p string) {
	for d := path.Dir(p); d != "." && !s.dirs[d]; d = path.Dir(d) {
		s.dirs[d] = true
	}
}

// date is the date of a package in Unix seconds, and whether the package is in the set.
func (s *system) date(name string) (int64, bool) {
	p, ok := s.byName[name]
	if !ok {
		return 0, false
	}
	return p.Date, true
}

// has reports whether there is anything at a path.
func (s *system) has(p string) bool {
	_, made := s.made[p]
	return made || s.files[p] || s.dirs[p]
}

// put adds a file, unless there is something, or no directory to hold it. What a package says may make no valid path:
// that is left out.
func (s *system) put(f compose.File) {
	if f.Validate() != nil || s.has(f.Path) {
		return
	}
	for d := path.Dir(f.Path); d != "."; d = path.Dir(d) {
		if made, ok := s.made[d]; s.files[d] || ok && made.Type != tar.TypeDir {
			return
		}
	}
	s.made[f.Path] = f
}

// write adds a file of text, with the owner root.
func (s *system) write(p string, mode int64, date int64, data []byte) {
	f := compose.Text(p, mode, data)
	f.ModTime = date
	s.put(f)
}

// link adds a symbolic link.
func (s *system) link(p, target string, date int64) {
	f := compose.Symlink(p, target)
	f.ModTime = date
	s.put(f)
}

// dir adds a directory, with the owner root.
func (s *system) dir(p string, mode int64, gid int, date int64) {
	d := compose.Dir(p)
	d.Mode, d.GID, d.ModTime = mode, gid, date
	s.put(compose.File{Entry: d})
}

// copy adds a copy of a package's file, with its date, as "cp -p" makes it.
func (s *system) copy(from, to string) {
	if t, ok := s.texts[from]; ok {
		s.write(to, 0o644, t.date, t.data)
	}
}

// replace makes a link of a directory that a package brings, if it is empty.
func (s *system) replace(dir, target string, date int64) {
	below := func(p string) bool { return strings.HasPrefix(p, dir+"/") }
	for _, all := range []map[string]bool{s.files, s.dirs} {
		for p := range all {
			if below(p) {
				return
			}
		}
	}
	if s.dirs[dir] {
		delete(s.dirs, dir)
		s.gone = append(s.gone, dir)
	}
	s.link(dir, target, date)
}
