package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxDepth is how deep mappings and lists may stand within each other; recipes need six.
const maxDepth = 20

// Language is what messages say about the kind of document that is read.
type Language struct {
	Noun    string // "recipe"
	Plural  string // "recipes"
	Max     int    // bytes of a text, values of flags included
	Advice  string // for a text that is longer: "keep data in the context directory"
	Begin   string // for an empty text, what to write: "a recipe that begins with …"
	Example string // of a flag: "config.env.PORT=9090"; empty when there are no flags
}

// Document is one text while it is read: its tree, and everything that is wrong with it so far.
type Document struct {
	language Language
	file     string
	bytes    int
	root     *yaml.Node
	sets     map[*yaml.Node]string // nodes that a --set flag brought, by the flag
	refused  map[*yaml.Node]bool   // values and keys with an error already: nothing more is said about them
	errs     Errors
}

// Parse reads a text. file is its name for messages. The error is of type Errors, for a text that is no YAML document or
// is empty; what else is wrong stands in Err.
func Parse(l Language, file string, data []byte) (*Document, error) {
	d := &Document{language: l, file: file, bytes: len(data), sets: map[*yaml.Node]string{}, refused: map[*yaml.Node]bool{}}
	root, bad := l.parse(file, data)
	switch {
	case bad != nil:
		return nil, Errors{bad}
	case root == nil || root.Kind == yaml.ScalarNode && root.Tag == "!!null":
		return nil, Errors{{File: file, Line: 1, Column: 1, Message: "is empty; write " + l.Begin}}
	}
	d.root = root
	d.checkTree(root, "", 0)
	return d, nil
}

// Root is the document's value.
func (d *Document) Root() Value { return Value{d, d.root, ""} }

// Err is everything that is wrong so far, of type Errors, or nil.
func (d *Document) Err() error { return d.errs.Err() }

// refuse notes that a node is wrong.
func (d *Document) refuse(n *yaml.Node, path, format string, args ...any) {
	e := &Error{File: d.file, Line: n.Line, Column: n.Column, Field: path, Message: fmt.Sprintf(format, args...)}
	if flag, set := d.sets[n]; set {
		e.File, e.Line, e.Column = flagName(flag), 0, 0
	}
	d.errs = append(d.errs, e)
}

// parse makes the node tree of a single YAML document. The only errors are those of YAML itself; a text without any
// value gives nil.
func (l Language) parse(file string, data []byte) (root *yaml.Node, err *Error) {
	if len(data) > l.Max {
		return nil, &Error{File: file, Line: 1, Column: 1,
			Message: fmt.Sprintf("is %d bytes long; a %s has at most %d: %s", len(data), l.Noun, l.Max, l.Advice)}
	}
	if line, column, what := foreignByte(data); what != "" {
		return nil, &Error{File: file, Line: line, Column: column, Message: what + "; a " + l.Noun + " is plain UTF-8 text"}
	}
	// The scanner is a translation of libyaml that panics where it meets a state that it takes for impossible.
	defer func() {
		if p := recover(); p != nil {
			root, err = nil, &Error{File: file, Line: 1, Column: 1, Message: fmt.Sprintf("is not YAML that can be read: %v", p)}
		}
	}()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	switch failed := decoder.Decode(&first); {
	case errors.Is(failed, io.EOF):
		return nil, nil
	case failed != nil:
		return nil, syntaxError(file, failed)
	}
	switch failed := decoder.Decode(&second); {
	case errors.Is(failed, io.EOF):
	case failed != nil:
		return nil, syntaxError(file, failed)
	default:
		return nil, &Error{File: file, Line: second.Line, Column: second.Column,
			Message: "a second YAML document begins here; write one " + l.Noun + " a file"}
	}
	return first.Content[0], nil
}

// foreignByte finds what is neither UTF-8 nor printable; the YAML library would refuse it without saying where.
func foreignByte(data []byte) (line, column int, what string) {
	line, column = 1, 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return line, column, fmt.Sprintf("byte 0x%02x is not UTF-8", data[i])
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f:
			return line, column, fmt.Sprintf("control character 0x%02x is not allowed", r)
		case r == '\n':
			line, column = line+1, 0
		}
		column++
		i += size
	}
	return 0, 0, ""
}

var yamlLine = regexp.MustCompile(`^line ([0-9]+): `)

// syntaxError gives an error of the YAML library, "yaml: line 3: what", a position. The library knows no column.
func syntaxError(file string, err error) *Error {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = message[len(m[0]):]
	}
	return &Error{File: file, Line: line, Column: 1, Message: "is not YAML: " + message}
}

// checkTree refuses what YAML has and our languages have not: anchors, aliases, merge keys, tags, keys that are no text, keys
// that stand twice, and depth without end. Nodes that are refused here are marked, so that they are not refused twice.
func (d *Document) checkTree(n *yaml.Node, path string, depth int) {
	if n.Anchor != "" {
		d.refuse(n, path, "anchors (&%s) are not part of %s; write the value out where it is needed", Clip(n.Anchor), d.language.Plural)
	}
	switch {
	case n.Kind == yaml.AliasNode:
		d.refuse(n, path, "aliases (*%s) are not part of %s; write the value out", Clip(n.Value), d.language.Plural)
		d.refused[n] = true
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.refuse(n, path, "tags (%s) are not part of %s; leave it out, and quote the value when it is text", Clip(n.Tag), d.language.Plural)
		d.refused[n] = true
		return
	case depth > maxDepth:
		d.refuse(n, path, "is nested more than %d levels deep; no %s is", maxDepth, d.language.Noun)
		d.refused[n] = true
		return
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, item := range n.Content {
			d.checkTree(item, fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
	case yaml.MappingNode:
		seen := make(map[string]*yaml.Node, len(n.Content)/2)
		for i := 0; i < len(n.Content); i += 2 {
			key, val := n.Content[i], n.Content[i+1]
			if key.Kind == yaml.ScalarNode && key.Tag == "!!merge" {
				d.refuse(key, path, "merge keys (<<) are not part of %s; write the fields out", d.language.Plural)
				d.refused[key] = true
				continue
			}
			if key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0 {
				d.refuse(key, path, "a key must be plain text")
				d.refused[key] = true
				continue
			}
			at := join(path, key.Value)
			if first, twice := seen[key.Value]; twice {
				d.refuse(key, at, "stands here a second time (first in line %d); keep one of them", first.Line)
				d.refused[key] = true
			} else {
				seen[key.Value] = key
			}
			d.checkTree(val, at, depth+1)
		}
	}
}

// join returns the path of a field of the mapping at path, in the notation that --set reads.
func join(path, key string) string {
	key = pathEscapes.Replace(Clip(key))
	if path == "" {
		return key
	}
	return path + "." + key
}

var pathEscapes = strings.NewReplacer(`\`, `\\`, `.`, `\.`, `[`, `\[`, `=`, `\=`)
