package debian

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"

	"bakefarm/compose/deb"
)

// An alternative is one link group of update-alternatives(1): a name such as "awk", the link that programs use, and the
// choices for it.
type alternative struct {
	name, link string
	slaves     map[string]string // link by name
	choices    []choice
	date       int64
}

type choice struct {
	path     string
	priority int
	slaves   map[string]string // path by name
}

// alternatives does what update-alternatives does for the packages whose postinst calls it in so many words: commands
// are read out of the script where all their words are plain text, with nothing for a shell to fill in. Conditions
// around them are not looked at: a postinst installs on configuration.
func (s *system) alternatives() {
	groups := map[string]*alternative{}
	for _, p := range s.packages {
		for _, c := range installs(postinst(p.Record)) {
			s.install(groups, c, p.Date)
		}
	}
	for _, g := range groups {
		s.group(g)
	}
}

func postinst(r *deb.Record) string {
	for _, f := range r.Files {
		if f.Name == "postinst" {
			return string(f.Data)
		}
	}
	return ""
}

// install takes one command's words, which begin behind "--install".
func (s *system) install(groups map[string]*alternative, words []string, date int64) {
	if len(words) < 4 || !validAlternative(words[1]) || !path.IsAbs(words[0]) || !path.IsAbs(words[2]) || !s.files[deb.MergedPath(words[2])] {
		return
	}
	priority, err := strconv.Atoi(words[3])
	if err != nil {
		return
	}
	g := groups[words[1]]
	if g == nil {
		g = &alternative{name: words[1], link: words[0], slaves: map[string]string{}}
		groups[g.name] = g
	}
	c := choice{path: words[2], priority: priority, slaves: map[string]string{}}
	for rest := words[4:]; len(rest) > 0; rest = rest[4:] {
		if len(rest) < 4 || rest[0] != "--slave" || !validAlternative(rest[2]) || !path.IsAbs(rest[1]) || !path.IsAbs(rest[3]) {
			return
		}
		g.slaves[rest[2]], c.slaves[rest[2]] = rest[1], rest[3]
	}
	g.date = max(g.date, date)
	if !slices.ContainsFunc(g.choices, func(other choice) bool { return other.path == c.path }) {
		g.choices = append(g.choices, c)
	}
}

// validAlternative says whether a name can be that of a file in /etc/alternatives.
func validAlternative(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00 \t\n")
}

// group makes the links of a group whose choice is the best one, and its record.
func (s *system) group(g *alternative) {
	if len(g.choices) == 0 {
		return
	}
	slices.SortFunc(g.choices, func(a, b choice) int { return strings.Compare(a.path, b.path) })
	best := slices.MinFunc(g.choices, func(a, b choice) int { return cmp.Compare(b.priority, a.priority) })
	point := func(name, link, target string) {
		if s.has(deb.MergedPath(link)) { // a package brings it: update-alternatives leaves it alone
			return
		}
		s.link("etc/alternatives/"+name, target, g.date)
		s.link(deb.MergedPath(link), "/etc/alternatives/"+name, g.date)
	}
	point(g.name, g.link, best.path)
	var names []string
	for name := range g.slaves {
		names = append(names, name)
	}
	slices.Sort(names)
	record := []string{"auto", g.link}
	for _, name := range names {
		record = append(record, name, g.slaves[name])
		if target := best.slaves[name]; s.files[deb.MergedPath(target)] {
			point(name, g.slaves[name], target)
		}
	}
	record = append(record, "")
	for _, c := range g.choices {
		record = append(record, c.path, strconv.Itoa(c.priority))
		for _, name := range names {
			record = append(record, c.slaves[name])
		}
	}
	s.write("var/lib/dpkg/alternatives/"+g.name, 0o644, g.date, lines(append(record, "")))
}

// installs finds the commands "update-alternatives --install" of a shell script, and returns the words behind that.
func installs(script string) [][]string {
	var commands [][]string
	script = strings.ReplaceAll(script, "\\\n", " ")
	for line := range strings.Lines(script) {
		words, ok := plainWords(strings.TrimSpace(line))
		if !ok || len(words) == 0 || path.Base(words[0]) != "update-alternatives" {
			continue
		}
		words = words[1:]
		for len(words) > 0 && (words[0] == "--quiet" || words[0] == "--force") {
			words = words[1:]
		}
		if len(words) > 0 && words[0] == "--install" {
			commands = append(commands, words[1:])
		}
	}
	return commands
}

// plainWords splits a shell command into words, up to what ends it. It is false where a shell would put something else
// in a word's place.
func plainWords(line string) (words []string, ok bool) {
	var word strings.Builder
	inWord := false
	end := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	var quote rune
	for _, c := range line {
		switch {
		case quote == 0 && strings.ContainsRune(" \t\r", c):
			end()
			continue
		case quote == 0 && (strings.ContainsRune(";|&<>", c) || c == '#' && !inWord):
			end()
			return words, true
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == quote && quote != 0:
			quote = 0
		case quote != '\'' && strings.ContainsRune("$`\\", c), quote == 0 && strings.ContainsRune("*?[]{}()~", c):
			return nil, false
		default:
			word.WriteRune(c)
		}
		inWord = true
	}
	end()
	return words, quote == 0
}
