package scripts

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"bakefarm/compose/deb"
)

// Has reports whether a package has scripts that its installation runs.
func Has(r *deb.Record) bool {
	return slices.ContainsFunc(r.Files, func(f deb.ControlFile) bool { return f.Name == "preinst" || f.Name == "postinst" })
}

// Check refuses a set whose scripts nobody would run: what configures packages is a package itself, and the scripts' own
// language is. A set without scripts needs neither. there are the names of packages that the system has beside the set.
func Check(records []*deb.Record, there ...string) error {
	i := slices.IndexFunc(records, Has)
	if i < 0 {
		return nil
	}
	for _, needed := range []string{"dpkg", "dash"} {
		if !slices.Contains(there, needed) && !slices.ContainsFunc(records, func(r *deb.Record) bool { return r.Package == needed }) {
			return fmt.Errorf("package %s %s has maintainer scripts, which can't run without %s, and that is not among the packages: "+
				"write scripts: skip, or variant: minbase", records[i].Package, records[i].Version, needed)
		}
	}
	return nil
}

// Diverts reports whether a package moves other packages' files out of its own files' way before dpkg unpacks these: its
// preinst adds a diversion (dpkg-divert(1)). Such a package can't be laid beside the others, since both have the same
// path. What the system can't do without is laid all the same.
func Diverts(r *deb.Record) bool {
	i := slices.IndexFunc(r.Files, func(f deb.ControlFile) bool { return f.Name == "preinst" })
	if i < 0 || essential(r) {
		return false
	}
	text := continued.ReplaceAllString(string(r.Files[i].Data), " ")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		if diversion.MatchString(line) && !otherwise.MatchString(line) {
			return true
		}
	}
	return false
}

var (
	continued = regexp.MustCompile(`\\\n`)
	diversion = regexp.MustCompile(`\bdpkg-divert\b`)
	otherwise = regexp.MustCompile(`\bdpkg-divert\b.*--(remove|list|listpackage|truename|help|version)\b`)
)

func essential(r *deb.Record) bool {
	fields, err := deb.ParseParagraph(r.Control)
	if err != nil {
		return false // can't be: the record was validated
	}
	return slices.ContainsFunc(fields, func(f deb.Field) bool { return strings.EqualFold(f.Name, "Essential") && f.Value == "yes" })
}
