package apt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a Packages file, in bytes of text.
const (
	MaxPackages  = 1 << 30 // Debian's main has 50 MB
	MaxParagraph = 4 << 20 // one package; Debian's longest has 50 kB
)

// Index is what one Packages file offers, in its order. It is safe for concurrent use.
type Index struct {
	Packages []*Package // not to be changed once Solve has seen them
	// Unlisted: the packages are known otherwise than through an archive's index, and need no Filename.
	Unlisted bool
	// Installed: the packages are those of the system that VariantBase is over. There is nothing to fetch of them.
	Installed bool

	lookup lookup
}

// Package is one paragraph of a Packages file. The relation fields are as written and parsed only for packages that Solve
// meets: an archive has 60,000 packages and an image a few hundred. Strings share memory with those of their neighbours.
type Package struct {
	Name      string
	Version   string
	Arch      string // Debian architecture, or "all"
	Priority  string
	MultiArch string // "", same, foreign or allowed
	Filename  string // relative to the archive's base
	SHA256    string // of the .deb, hex
	Size      int64  // of the .deb, in bytes; -1 when absent or malformed
	Essential bool
	Important bool // Important or Protected: yes

	PreDepends, Depends, Conflicts, Breaks, Provides, Replaces, Recommends, Suggests, Enhances string
}

// field is a field of a Packages paragraph that is read; all others are skipped.
type field uint8

const (
	fieldNone field = iota
	fieldPackage
	fieldVersion
	fieldArchitecture
	fieldPriority
	fieldMultiArch
	fieldFilename
	fieldSHA256
	fieldSize
	fieldEssential
	fieldImportant
	fieldPreDepends
	fieldDepends
	fieldConflicts
	fieldBreaks
	fieldProvides
	fieldReplaces
	fieldRecommends
	fieldSuggests
	fieldEnhances
)

// fieldsByLength finds a field by the length of its name first: most lines of a Packages file are of no interest.
var fieldsByLength = func() (table [16][]fieldName) {
	for _, f := range []fieldName{
		{"Package", fieldPackage}, {"Version", fieldVersion}, {"Architecture", fieldArchitecture},
		{"Priority", fieldPriority}, {"Multi-Arch", fieldMultiArch}, {"Filename", fieldFilename}, {"SHA256", fieldSHA256},
		{"Size", fieldSize}, {"Essential", fieldEssential}, {"Important", fieldImportant}, {"Protected", fieldImportant},
		{"Pre-Depends", fieldPreDepends}, {"Depends", fieldDepends}, {"Conflicts", fieldConflicts}, {"Breaks", fieldBreaks},
		{"Provides", fieldProvides}, {"Replaces", fieldReplaces}, {"Recommends", fieldRecommends}, {"Suggests", fieldSuggests},
		{"Enhances", fieldEnhances},
	} {
		table[len(f.name)] = append(table[len(f.name)], f)
	}
	return table
}()

type fieldName struct {
	name string
	id   field
}

// lookupField finds a field by name, in any case as deb822(5) says.
func lookupField(name string) field {
	if len(name) >= len(fieldsByLength) {
		return fieldNone
	}
	for _, f := range fieldsByLength[len(name)] {
		if f.name == name || strings.EqualFold(f.name, name) {
			return f.id
		}
	}
	return fieldNone
}

// blockSize is how much text is parsed at a time, in bytes, unless a paragraph is longer. Blocks end between paragraphs.
const blockSize = 1 << 20

// ParsePackages reads the text of a Packages file (deb822(5)) as a stream. Paragraphs need Package, Version and
// Architecture; what else an installation needs is checked when Solve chooses a package. Errors count paragraphs from 1.
func ParsePackages(r io.Reader) (*Index, error) { return parseBlocks(r, blockSize, MaxParagraph) }

// parseBlocks parses blocks of some size, larger ones where a paragraph is, up to the longest. One block is parsed, and its
// packages are made findable, while the next is read, which often means decompressed and takes longer.
func parseBlocks(r io.Reader, size, longest int) (*Index, error) {
	p := &parser{index: &Index{}}
	buf := make([]byte, size)
	kept, total := 0, int64(0) // bytes at the start of buf that are not parsed yet; bytes read
	parsing := make(chan error, 1)
	parsing <- nil
	for {
		n, err := io.ReadFull(r, buf[kept:])
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if failed := <-parsing; failed != nil { // of an earlier place than what was just read
			return nil, failed
		}
		if err != nil && !last {
			return nil, fmt.Errorf("Packages: %w", err)
		}
		if total += int64(n); total > MaxPackages {
			return nil, fmt.Errorf("Packages: more than %d bytes", MaxPackages)
		}
		end := kept + n
		if last {
			if err := p.block(string(buf[:end])); err != nil {
				return nil, err
			}
			p.index.lookup.once.Do(func() {}) // it is made
			return p.index, nil
		}
		switch cut := bytes.LastIndex(buf[:end], []byte("\n\n")) + 1; {
		case cut > 0:
			text := string(buf[:cut])
			go func() { parsing <- p.block(text) }()
			kept = copy(buf, buf[cut:end])
		case len(buf) < longest:
			buf = append(buf, make([]byte, min(len(buf), longest-len(buf)))...)
			kept = end
			parsing <- nil
		default:
			return nil, fmt.Errorf("Packages: paragraph %d is longer than %d bytes", p.count+1, longest)
		}
	}
}

// parser is a Packages file on its way.
type parser struct {
	index  *Index
	count  int       // packages, with those in recent
	recent []Package // of the block that is being parsed
}

// block parses a block of text, of which nothing else is kept.
func (x *parser) block(text string) error {
	x.recent = x.recent[:0]
	if err := x.parse(text); err != nil {
		return err
	}
	own(x.recent)
	packages := slices.Clone(x.recent)
	for i := range packages {
		x.index.lookup.add(&packages[i], len(x.index.Packages))
		x.index.Packages = append(x.index.Packages, &packages[i])
	}
	clear(x.recent)
	return nil
}

// own copies what is kept of a block of text, so that the rest of it, two thirds, can go: descriptions, hashes, names of
// maintainers. What few values stand for is shared by all.
func own(packages []Package) {
	size := 0
	for i := range packages {
		for _, s := range packages[i].texts() {
			size += len(*s)
		}
	}
	var b strings.Builder
	b.Grow(size)
	for i := range packages {
		p := &packages[i]
		for _, s := range p.texts() {
			at := b.Len()
			b.WriteString(*s)
			*s = b.String()[at:]
		}
		for _, s := range []*string{&p.Arch, &p.Priority, &p.MultiArch} {
			*s = intern(*s)
		}
	}
}

// texts are the strings of a package that are its own.
func (p *Package) texts() [13]*string {
	return [...]*string{
		&p.Name, &p.Version, &p.Filename, &p.SHA256, &p.PreDepends, &p.Depends, &p.Conflicts, &p.Breaks, &p.Provides, &p.Replaces,
		&p.Recommends, &p.Suggests, &p.Enhances,
	}
}

// usual are the values that nearly all packages have in some fields.
var usual = []string{
	"amd64", "arm64", "all", "optional", "extra", "important", "required", "standard", "same", "foreign", "allowed",
}

func intern(s string) string {
	if i := slices.Index(usual, s); i >= 0 {
		return usual[i]
	}
	return strings.Clone(s)
}

// parse appends the packages of whole paragraphs.
func (x *parser) parse(text string) error {
	var p Package
	start := true // between paragraphs
	p.Size = -1
	for text != "" {
		line, rest := text, ""
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			line, rest = text[:i], text[i+1:]
		}
		if line == "" || line == "\r" {
			text = rest
			if !start {
				if err := x.add(&p); err != nil {
					return err
				}
				p, start = Package{Size: -1}, true
			}
			continue
		}
		start = false
		colon := strings.IndexByte(line, ':')
		if colon <= 0 {
			return fmt.Errorf("Packages: paragraph %d: the line %.60q is no field", x.count+1, line)
		}
		id := lookupField(line[:colon])
		// A value goes on in the lines that begin with a space: it stays one slice of the text.
		end := len(line)
		for rest != "" && (rest[0] == ' ' || rest[0] == '\t') {
			i := strings.IndexByte(rest, '\n')
			if i < 0 {
				i = len(rest)
			}
			end = len(text) - len(rest) + i
			rest = text[min(end+1, len(text)):]
		}
		if id != fieldNone {
			p.set(id, strings.TrimSpace(text[colon+1:end]))
		}
		text = rest
	}
	if start {
		return nil
	}
	return x.add(&p)
}

func (x *parser) add(p *Package) error {
	switch {
	case p.Name == "":
		return fmt.Errorf("Packages: paragraph %d has no Package field", x.count+1)
	case p.Version == "":
		return fmt.Errorf("Packages: paragraph %d (%.60s) has no Version field", x.count+1, p.Name)
	case p.Arch == "":
		return fmt.Errorf("Packages: paragraph %d (%.60s) has no Architecture field", x.count+1, p.Name)
	}
	x.recent = append(x.recent, *p)
	x.count++
	return nil
}

func (p *Package) set(id field, value string) {
	switch id {
	case fieldPackage:
		p.Name = value
	case fieldVersion:
		p.Version = value
	case fieldArchitecture:
		p.Arch = value
	case fieldPriority:
		p.Priority = value
	case fieldMultiArch:
		p.MultiArch = value
	case fieldFilename:
		p.Filename = value
	case fieldSHA256:
		p.SHA256 = value
	case fieldSize:
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && n >= 0 {
			p.Size = n
		}
	case fieldEssential:
		p.Essential = value == "yes"
	case fieldImportant:
		p.Important = p.Important || value == "yes"
	case fieldPreDepends:
		p.PreDepends = value
	case fieldDepends:
		p.Depends = value
	case fieldConflicts:
		p.Conflicts = value
	case fieldBreaks:
		p.Breaks = value
	case fieldProvides:
		p.Provides = value
	case fieldReplaces:
		p.Replaces = value
	case fieldRecommends:
		p.Recommends = value
	case fieldSuggests:
		p.Suggests = value
	case fieldEnhances:
		p.Enhances = value
	}
}
