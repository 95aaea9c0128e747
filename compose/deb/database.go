package deb

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"bakefarm/compose"
)

const (
	database = "var/lib/dpkg"
	infoDir  = database + "/info"
)

// Database makes dpkg's database, /var/lib/dpkg, of a set of packages for an architecture, as an installation of them
// would have left it. The order of the records does not matter.
//
// The packages' status is "install ok installed", although no maintainer script has run. Everything that reads the
// database (vulnerability scanners, apt, dpkg --verify) skips or mends packages in any other state, but what this set
// has is all that it will ever get: nothing will configure it. That is what distroless images say of themselves too.
func Database(records []*Record, arch string) ([]compose.File, error) {
	records = slices.SortedFunc(slices.Values(records), func(a, b *Record) int {
		return cmp.Or(strings.Compare(a.Package, b.Package), strings.Compare(a.Architecture, b.Architecture))
	})
	var status bytes.Buffer
	var date int64 = compose.ModTime
	var files []compose.File
	triggers := newTriggers()
	for i, r := range records {
		if r.Architecture != arch && r.Architecture != "all" {
			return nil, fmt.Errorf("%s is for %s, but the set is for %s", r.Package, r.Architecture, arch)
		}
		if i > 0 && r.Package == records[i-1].Package {
			return nil, fmt.Errorf("%s is in the set twice: %s and %s", r.Package, records[i-1].Version, r.Version)
		}
		if err := writeStatus(&status, r); err != nil {
			return nil, fmt.Errorf("%s: %w", r.Package, err)
		}
		info, err := infoFiles(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Package, err)
		}
		if err := triggers.add(r); err != nil {
			return nil, fmt.Errorf("%s: %w", r.Package, err)
		}
		files = append(files, info...)
		date = max(date, r.Date)
	}
	for _, dir := range []string{"", "/alternatives", "/info", "/parts", "/triggers", "/updates"} {
		files = append(files, compose.File{Entry: compose.Dir(database + dir)})
	}
	whole := triggers.files() // of the set, not of a package
	whole["status"] = status.Bytes()
	for _, name := range slices.Sorted(maps.Keys(whole)) {
		f := compose.Text(database+"/"+name, 0o644, whole[name])
		f.ModTime = date
		files = append(files, f)
	}
	return append(files, initial...), nil
}

// initial are the files of the database that are the same for all sets, their dates included: a layer over a system whose
// scripts have written to them must not bring them again.
var initial = []compose.File{
	compose.Text(database+"/available", 0o644, nil),
	compose.Text(database+"/diversions", 0o644, nil),
	compose.Text(infoDir+"/format", 0o644, []byte("1\n")), // 1: files of Multi-Arch: same packages have the architecture in their names
	compose.Text(database+"/statoverride", 0o644, nil),
	compose.Text(database+"/triggers/Unincorp", 0o644, nil),
}

// MergedUsr makes the links of merged-/usr, and the directories that they point to, as debootstrap makes them for the
// suite and architecture, and those that the packages' own paths go through beside.
func MergedUsr(suite, arch string, records []*Record) []compose.File {
	links := aliasesOf(suite, arch)
	for _, r := range records {
		links = append(links, r.Aliases...)
	}
	slices.Sort(links)
	var files []compose.File
	for _, link := range slices.Compact(links) {
		files = append(files, compose.Symlink(link, "usr/"+link), compose.File{Entry: compose.Dir("usr/" + link)})
	}
	return files
}

// Links are the links of merged-/usr that the packages' own paths go through, sorted.
func Links(records []*Record) []string {
	var links []string
	for _, r := range records {
		links = append(links, r.Aliases...)
	}
	slices.Sort(links)
	return slices.Compact(links)
}

// Excluding makes the file that has dpkg leave out of later packages what this set is without: patterns, those with "!" in
// front take back in (dpkg(1), --path-exclude). There is none without dpkg.
func Excluding(patterns []string, records []*Record) []compose.File {
	i := slices.IndexFunc(records, func(r *Record) bool { return r.Package == "dpkg" })
	if i < 0 || len(patterns) == 0 {
		return nil
	}
	text := bytes.NewBufferString("# What the recipe of this image excludes. By bakefarm.\n")
	for _, p := range patterns {
		if glob, include := strings.CutPrefix(p, "!"); include {
			fmt.Fprintf(text, "path-include=%s\n", glob)
		} else {
			fmt.Fprintf(text, "path-exclude=%s\n", p)
		}
	}
	f := compose.Text("etc/dpkg/dpkg.cfg.d/bakefarm", 0o644, text.Bytes())
	f.ModTime = records[i].Date
	return []compose.File{f}
}

// statusFields are the fields that dpkg knows, in the order in which it writes them (lib/dpkg/parse.c). Others follow,
// in the order of the control file.
var statusFields = []string{
	"Package", "Essential", "Protected", "Status", "Priority", "Section", "Installed-Size", "Origin", "Maintainer", "Bugs",
	"Architecture", "Multi-Arch", "Source", "Version", "Config-Version", "Replaces", "Provides", "Depends", "Pre-Depends",
	"Recommends", "Suggests", "Breaks", "Conflicts", "Enhances", "Conffiles", "Description",
}

// notInStatus are fields of archives' indexes and of dpkg's own state: what a package says of them is dropped.
var notInStatus = []string{
	"Status", "Config-Version", "Conffiles", "Filename", "Size", "MSDOS-Filename", "MD5sum", "SHA1", "SHA256", "SHA512",
	"Revision", "Package-Revision", "Package_Revision", "Triggers-Pending", "Triggers-Awaited",
}

// writeStatus writes the package's paragraph.
func writeStatus(w *bytes.Buffer, r *Record) error {
	fields, err := ParseParagraph(r.Control)
	if err != nil {
		return err
	}
	values := map[string]string{}
	var others []Field
	for _, f := range fields {
		same := func(name string) bool { return strings.EqualFold(name, f.Name) }
		switch i := slices.IndexFunc(statusFields, same); {
		case slices.ContainsFunc(notInStatus, same):
		case f.Value == "no" && (same("Essential") || same("Protected") || same("Multi-Arch")): // dpkg writes no defaults
		case i >= 0:
			values[statusFields[i]] = f.Value
		default:
			others = append(others, f)
		}
	}
	values["Status"] = "install ok installed"
	for _, c := range r.Conffiles {
		values["Conffiles"] += "\n " + c.Path + " " + c.MD5
	}
	for _, name := range statusFields {
		writeField(w, name, values[name])
	}
	for _, f := range others {
		writeField(w, f.Name, f.Value)
	}
	w.WriteByte('\n')
	return nil
}

func writeField(w *bytes.Buffer, name, value string) {
	switch {
	case value == "":
	case value[0] == '\n': // begins on the next line
		fmt.Fprintf(w, "%s:%s\n", name, value)
	default:
		fmt.Fprintf(w, "%s: %s\n", name, value)
	}
}

// infoName is the stem of the names of a package's files in /var/lib/dpkg/info.
func infoName(r *Record) string {
	if r.MultiArch == "same" {
		return r.Package + ":" + r.Architecture
	}
	return r.Package
}

// infoFiles are the package's files in /var/lib/dpkg/info.
func infoFiles(r *Record) ([]compose.File, error) {
	list := compose.Text(infoDir+"/"+infoName(r)+".list", 0o644, []byte(strings.Join(r.List, "\n")+"\n"))
	list.ModTime = r.Date
	files := []compose.File{list}
	for _, c := range r.Files {
		if c.Name == "list" || !controlFileName.MatchString(c.Name) {
			return nil, fmt.Errorf("control file %.100q: dpkg has none of that name", c.Name)
		}
		mode := int64(0o644)
		if c.Exec {
			mode = 0o755
		}
		f := compose.Text(infoDir+"/"+infoName(r)+"."+c.Name, mode, c.Data)
		f.ModTime = r.Date
		files = append(files, f)
	}
	return files, nil
}

// triggers collects the packages' interests, as in deb-triggers(5), for /var/lib/dpkg/triggers.
type triggers struct {
	file  []string            // interests in paths: "/path package"
	named map[string][]string // packages interested in a named trigger
}

func newTriggers() *triggers { return &triggers{named: map[string][]string{}} }

func (t *triggers) add(r *Record) error {
	i := slices.IndexFunc(r.Files, func(f ControlFile) bool { return f.Name == "triggers" })
	if i < 0 {
		return nil
	}
	for line := range strings.Lines(string(r.Files[i].Data)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 2 {
			return fmt.Errorf("triggers: %.100q: want a directive and a trigger", line)
		}
		interested := infoName(r)
		switch words[0] {
		case "interest-noawait":
			interested += "/noawait"
		case "interest", "interest-await":
		case "activate", "activate-await", "activate-noawait":
			continue
		default:
			return fmt.Errorf("triggers: unknown directive %.100q", words[0])
		}
		switch name := words[1]; {
		case validAbsolute(name):
			t.file = append(t.file, name+" "+interested)
		case controlFileName.MatchString(name) && name != "File" && name != "Unincorp" && name != "Lock":
			t.named[name] = append(t.named[name], interested)
		default:
			return fmt.Errorf("triggers: bad trigger name %.100q", name)
		}
	}
	return nil
}

func (t *triggers) files() map[string][]byte {
	lines := func(s []string) []byte {
		if len(s) == 0 {
			return nil
		}
		return []byte(strings.Join(s, "\n") + "\n")
	}
	files := map[string][]byte{"triggers/File": lines(t.file)}
	for name, interested := range t.named {
		files["triggers/"+name] = lines(interested)
	}
	return files
}
