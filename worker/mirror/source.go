package mirror

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Source is one suite of one entry of apt's sources, for binary packages.
type Source struct {
	From            string   // file and line: for messages
	URIs            []string // bases, without credentials and trailing slash
	Suite           string
	Components      []string
	Architectures   []string // empty: any
	Without         []string // architectures that it is not read for
	SignedBy        []string // paths of keyrings and fingerprints; empty: apt's trusted keyrings
	Keys            []byte   // embedded key block
	CheckValidUntil *bool    // nil: apt.conf decides
	Trusted         bool     // Trusted: yes: signatures are not needed
	ByHash          string   // By-Hash: "" as the Release says, else yes, no or force

	// Extra: another suite than the one that was asked for, of which it is not known yet whether it belongs to another
	// system or is a repository beside it.
	Extra bool
}

// flat reports whether the source's suite is a directory with one index, not one of dists.
func (s Source) flat() bool { return strings.HasSuffix(s.Suite, "/") }

// Sources are the apt sources of a machine.
type Sources struct {
	All    []Source
	Files  []string // that were read, for messages
	logins []login  // credentials that stood in URIs
}

// maxConfigFile bounds a file of apt's configuration, in bytes.
const maxConfigFile = 4 << 20

// ReadSources reads the apt sources below root ("/" for the machine's own). Files that do not exist are no error; entries
// that cannot be understood are, by file and line.
func ReadSources(root string) (*Sources, error) {
	s := &Sources{}
	names := []string{filepath.Join(root, "etc/apt/sources.list")}
	parts, err := listParts(filepath.Join(root, "etc/apt/sources.list.d"), ".list", ".sources")
	if err != nil {
		return nil, err
	}
	for _, name := range append(names, parts...) {
		raw, err := readConfigFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.Files = append(s.Files, name)
		if strings.HasSuffix(name, ".sources") {
			err = s.readStanzas(name, raw)
		} else {
			err = s.readLines(name, raw)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// partName is what apt takes as the name of a file in its .d directories.
var partName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// listParts lists the files of a .d directory that apt would read, sorted by name.
func listParts(dir string, endings ...string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && partName.MatchString(e.Name()) && !strings.HasPrefix(e.Name(), ".") &&
			slices.Contains(endings, filepath.Ext(e.Name())) {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names, nil
}

func readConfigFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is no regular file", name)
	}
	if info.Size() > maxConfigFile {
		return nil, fmt.Errorf("%s: %d bytes: more than %d", name, info.Size(), maxConfigFile)
	}
	return os.ReadFile(name)
}

// readLines reads one-line entries (sources.list(5)): deb [option=value …] uri suite [component …].
func (s *Sources) readLines(file string, raw []byte) error {
	scan := bufio.NewScanner(bytes.NewReader(raw))
	scan.Buffer(nil, maxConfigFile)
	for n := 1; scan.Scan(); n++ {
		line, _, _ := strings.Cut(scan.Text(), "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		if kind != "deb" { // also deb-src, which has no packages to install
			if kind != "" && kind != "deb-src" {
				return fmt.Errorf("%s:%d: the type %.40q is not known: use deb or deb-src", file, n, kind)
			}
			continue
		}
		source := Source{From: fmt.Sprintf("%s:%d", file, n)}
		rest = strings.TrimSpace(rest)
		if options, ok := strings.CutPrefix(rest, "["); ok {
			if options, rest, ok = strings.Cut(options, "]"); !ok {
				return fmt.Errorf("%s:%d: the options have no closing ]", file, n)
			}
			source.setAll(options)
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			return fmt.Errorf("%s:%d: an entry is \"deb uri suite component…\"", file, n)
		}
		source.Components = fields[2:]
		if err := s.add(source, fields[:1], fields[1:2]); err != nil {
			return err
		}
	}
	return scan.Err()
}

// readStanzas reads deb822 entries (sources.list(5), DEB822-STYLE FORMAT).
func (s *Sources) readStanzas(file string, raw []byte) error {
	return eachStanza(file, raw, s.addStanza)
}

// eachStanza calls fn for each stanza of a deb822 file, with its file and line, and its fields by lower-case name.
func eachStanza(file string, raw []byte, fn func(from string, fields map[string]string) error) error {
	var fields map[string]string
	start, last := 0, ""
	flush := func() error {
		defer func() { fields, last = nil, "" }()
		if fields == nil {
			return nil
		}
		return fn(fmt.Sprintf("%s:%d", file, start), fields)
	}
	scan := bufio.NewScanner(bytes.NewReader(raw))
	scan.Buffer(nil, maxConfigFile)
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimRight(scan.Text(), " \t\r")
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "":
			if err := flush(); err != nil {
				return err
			}
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return fmt.Errorf("%s:%d: a line that continues nothing", file, n)
			}
			fields[last] += "\n" + strings.TrimSpace(line)
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				return fmt.Errorf("%s:%d: %.60q is no field", file, n, line)
			}
			if fields == nil {
				fields, start = map[string]string{}, n
			}
			last = strings.ToLower(name)
			fields[last] = strings.TrimSpace(value)
		}
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return flush()
}

func (s *Sources) addStanza(from string, fields map[string]string) error {
	if enabled, ok := fields["enabled"]; ok && !isTrue(enabled) {
		return nil
	}
	types := strings.Fields(fields["types"])
	if len(types) == 0 {
		return fmt.Errorf("%s: the entry has no Types", from)
	}
	if !slices.Contains(types, "deb") {
		return nil
	}
	source := Source{From: from, Components: strings.Fields(fields["components"])}
	for _, key := range []string{"architectures", "architectures-add", "architectures-remove", "check-valid-until", "trusted", "by-hash", "signed-by"} {
		if value, ok := fields[key]; ok {
			source.set(key, value)
		}
	}
	uris, suites := strings.Fields(fields["uris"]), strings.Fields(fields["suites"])
	if len(uris) == 0 || len(suites) == 0 {
		return fmt.Errorf("%s: the entry needs URIs and Suites", from)
	}
	return s.add(source, uris, suites)
}

// setAll takes the options of a one-line entry.
func (s *Source) setAll(options string) {
	for _, option := range strings.Fields(options) {
		key, value, _ := strings.Cut(option, "=")
		s.set(strings.ToLower(key), strings.ReplaceAll(value, ",", " "))
	}
}

// set takes an option by its name in either format; others are ignored, as by apt.
func (s *Source) set(key, value string) {
	switch key {
	case "arch", "architectures":
		s.Architectures = strings.Fields(value)
	case "arch+", "architectures-add":
		// Beyond the machine's own architectures, which are all that a source without Architectures is read for: no limit.
		if len(s.Architectures) > 0 {
			s.Architectures = append(s.Architectures, strings.Fields(value)...)
		}
	case "arch-", "architectures-remove":
		s.Without = append(s.Without, strings.Fields(value)...)
	case "by-hash":
		s.ByHash = strings.ToLower(strings.TrimSpace(value))
	case "check-valid-until":
		check := isTrue(value)
		s.CheckValidUntil = &check
	case "trusted":
		s.Trusted = isTrue(value)
	case "signed-by":
		if strings.Contains(value, "-----BEGIN PGP PUBLIC KEY BLOCK-----") {
			lines := strings.Split(strings.TrimSpace(value), "\n")
			for i, line := range lines {
				if line == "." { // an empty line, as deb822 writes it
					lines[i] = ""
				}
			}
			s.Keys = []byte(strings.Join(lines, "\n") + "\n")
			return
		}
		s.SignedBy = append(s.SignedBy, strings.Fields(strings.ReplaceAll(value, ",", " "))...)
	}
}

func (s *Sources) add(source Source, uris, suites []string) error {
	for _, text := range uris {
		u, err := url.Parse(text)
		if err != nil || u.Scheme == "" {
			return fmt.Errorf("%s: %.100q is no URI such as http://mirror.example/debian", source.From, redact(text))
		}
		base, login := splitLogin(u)
		if login != nil {
			s.logins = append(s.logins, *login)
		}
		source.URIs = append(source.URIs, base)
	}
	for _, suite := range suites {
		switch flat := strings.HasSuffix(suite, "/"); {
		case !flat && len(source.Components) == 0:
			return fmt.Errorf("%s: suite %s needs components, such as main", source.From, suite)
		case flat && len(source.Components) > 0:
			return fmt.Errorf("%s: %s ends in a slash, so it is a directory with one index, and has no components", source.From, suite)
		case strings.Contains("/"+suite+"/", "/../"):
			return fmt.Errorf("%s: suite %.60q has .. in it", source.From, suite)
		}
		one := source
		one.Suite = suite
		s.All = append(s.All, one)
	}
	return nil
}

// For selects the sources of a suite for an architecture: the suite itself and all that is named after it, such as its
// updates, security updates and backports; and, marked as Extra, all the others: which of them are repositories beside
// the suite, and which are other releases, their Release files say. The error says what was looked at and what to set.
func (s *Sources) For(suite, arch string) ([]Source, error) {
	var chosen []Source
	found := false
	var others []string
	for _, source := range s.All {
		source.Suite = strings.ReplaceAll(source.Suite, "$(ARCH)", arch)
		switch {
		case len(source.Architectures) > 0 && !slices.Contains(source.Architectures, arch):
			others = append(others, fmt.Sprintf("%s for %s only", source.Suite, strings.Join(source.Architectures, ", ")))
			continue
		case slices.Contains(source.Without, arch):
			others = append(others, fmt.Sprintf("%s without %s", source.Suite, arch))
			continue
		}
		if head := suiteHead(source.Suite); head != suite || source.flat() {
			source.Extra = true
			others = append(others, source.Suite)
		}
		found = found || source.Suite == suite
		chosen = append(chosen, source)
	}
	if found {
		return chosen, nil
	}
	looked := "there are no apt sources on this machine"
	if len(s.Files) > 0 {
		looked = "looked at " + strings.Join(s.Files, ", ")
		if len(others) > 0 {
			slices.Sort(others)
			looked += ", which have " + strings.Join(slices.Compact(others), ", ")
		}
	}
	return nil, fmt.Errorf("no apt source for suite %s on %s: %s; add one, or set os.debian.mirror in the recipe or BAKEFARM_DEBIAN_MIRROR for the worker",
		suite, arch, looked)
}

// suiteHead is the release that a suite is named after: bookworm of bookworm-security and of bookworm/updates.
func suiteHead(suite string) string {
	if i := strings.IndexAny(suite, "-/"); i > 0 {
		return suite[:i]
	}
	return suite
}

// suitesOf lists what is looked for at a mirror that a recipe names.
func suitesOf(suite string) []string {
	return []string{suite, suite + "-updates", suite + "-security"}
}

// isTrue reads a boolean as apt does.
func isTrue(value string) bool {
	return slices.Contains([]string{"yes", "true", "1", "on", "with", "enable"}, strings.ToLower(strings.TrimSpace(value)))
}

// byPath splits a source whose URIs have several paths: /debian and /debian-security are archives of their own, two hosts
// with /debian are mirrors of one.
func (s Source) byPath() []Source {
	var split []Source
	for _, base := range s.URIs {
		i := slices.IndexFunc(split, func(one Source) bool { return pathOf(one.URIs[0]) == pathOf(base) })
		if i < 0 {
			one := s
			one.URIs = nil
			i, split = len(split), append(split, one)
		}
		split[i].URIs = append(split[i].URIs, base)
	}
	return split
}

// pathOf is the path of a base URI, without slashes at its end.
func pathOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	return strings.TrimRight(u.Path, "/")
}
