package deb

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"bakefarm/compose"
)

// System is a system that packages are added to, as far as its database says.
type System struct {
	Packages []SystemPackage
	Triggers map[string]string // files of /var/lib/dpkg/triggers
	// Parted: each package has a file of its own in status.d, as distroless images have it, and nothing else.
	Parted bool
	Has    func(path string) bool // is there a file?
}

// SystemPackage is an installed package.
type SystemPackage struct {
	Name, Version, Arch string
	Status              string // its paragraph, with the line end
}

// Replaced reports whether a package takes the place of an installed one: dpkg knows one of each name and architecture.
func (p SystemPackage) Replaced(by *Record) bool {
	return p.Name == by.Package && (p.Arch == by.Architecture || p.Arch == "all" || by.Architecture == "all")
}

// DatabaseOver makes the files of dpkg's database that change when packages are added to a system: the status of all, and
// what dpkg keeps of each. Nothing changes without packages.
func DatabaseOver(s System, records []*Record, arch string) ([]compose.File, error) {
	if len(records) == 0 {
		return nil, nil
	}
	if s.Parted {
		return partedOver(records, arch)
	}
	files, err := Database(records, arch)
	if err != nil {
		return nil, err
	}
	status, err := statusOver(s, records)
	if err != nil {
		return nil, err
	}
	var kept []compose.File
	for _, f := range files {
		name := strings.TrimPrefix(f.Path, database+"/")
		switch trigger, isTrigger := strings.CutPrefix(name, "triggers/"); {
		case name == "status":
			f = withContent(f, status)
		case isTrigger && s.Triggers[trigger] != "":
			if len(f.Content) == 0 {
				continue // nothing is added
			}
			f = withContent(f, append(interests(s, trigger, records), f.Content...))
		case (slices.Contains([]string{"available", "diversions", "statoverride", "info/format"}, name) || isTrigger && len(f.Content) == 0) && s.Has(f.Path):
			continue
		}
		kept = append(kept, f)
	}
	return kept, nil
}

func withContent(f compose.File, content []byte) compose.File {
	f.Content, f.Size = content, int64(len(content))
	return f
}

// interests are the lines of a file of triggers, but for those of packages that are replaced.
func interests(s System, file string, records []*Record) []byte {
	var out bytes.Buffer
	for line := range strings.Lines(s.Triggers[file]) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		name := strings.TrimSuffix(words[len(words)-1], "/noawait")
		name, _, _ = strings.Cut(name, ":")
		if !slices.ContainsFunc(records, func(r *Record) bool { return r.Package == name }) {
			out.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
	}
	return out.Bytes()
}

// statusOver is the status file of the system with the packages, sorted by name as dpkg writes it.
func statusOver(s System, records []*Record) ([]byte, error) {
	type paragraph struct {
		name, arch string
		text       []byte
	}
	var all []paragraph
	for _, p := range s.Packages {
		if !slices.ContainsFunc(records, p.Replaced) {
			all = append(all, paragraph{p.Name, p.Arch, []byte(p.Status + "\n")})
		}
	}
	for _, r := range records {
		var text bytes.Buffer
		if err := writeStatus(&text, r); err != nil {
			return nil, fmt.Errorf("%s: %w", r.Package, err)
		}
		all = append(all, paragraph{r.Package, r.Architecture, text.Bytes()})
	}
	slices.SortStableFunc(all, func(a, b paragraph) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.arch, b.arch))
	})
	var out bytes.Buffer
	for _, p := range all {
		out.Write(p.text)
	}
	return out.Bytes(), nil
}

// partedOver makes a file for each package, and its checksums beside.
func partedOver(records []*Record, arch string) ([]compose.File, error) {
	var files []compose.File
	for _, r := range records {
		if r.Architecture != arch && r.Architecture != "all" {
			return nil, fmt.Errorf("%s is for %s, but the set is for %s", r.Package, r.Architecture, arch)
		}
		var text bytes.Buffer
		if err := writeStatus(&text, r); err != nil {
			return nil, fmt.Errorf("%s: %w", r.Package, err)
		}
		f := compose.Text(database+"/status.d/"+r.Package, 0o644, text.Bytes())
		f.ModTime = r.Date
		files = append(files, f)
		for _, c := range r.Files {
			if c.Name == "md5sums" {
				f := compose.Text(database+"/status.d/"+r.Package+".md5sums", 0o644, c.Data)
				f.ModTime = r.Date
				files = append(files, f)
			}
		}
	}
	return files, nil
}
