package recipe

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

// Bounds of a recipe's text.
const (
	MaxRecipe = 1 << 20 // bytes, --set values included
	maxDepth  = 20      // mappings and lists within each other; the language needs six
)

// parseYAML makes the node tree of a single YAML document. The only errors are those of YAML itself; a text without
// any value gives nil.
func parseYAML(file string, data []byte) (root *yaml.Node, err *Error) {
	if len(data) > MaxRecipe {
		return nil, &Error{File: file, Line: 1, Column: 1,
			Message: fmt.Sprintf("is %d bytes long; a recipe has at most %d: keep data in the context directory", len(data), MaxRecipe)}
	}
	if line, column, what := foreignByte(data); what != "" {
		return nil, &Error{File: file, Line: line, Column: column, Message: what + "; a recipe is plain UTF-8 text"}
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
			Message: "a second YAML document begins here; write one recipe a file"}
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

// checkTree refuses what YAML has and recipes have not: anchors, aliases, merge keys, tags, keys that are no text, keys
// that stand twice, and depth without end. Nodes that are refused here are marked, so that they are not refused twice.
func (r *reader) checkTree(n *yaml.Node, path string, depth int) {
	if n.Anchor != "" {
		r.refuse(n, path, "anchors (&%s) are not part of recipes; write the value out where it is needed", clip(n.Anchor))
	}
	switch {
	case n.Kind == yaml.AliasNode:
		r.refuse(n, path, "aliases (*%s) are not part of recipes; write the value out", clip(n.Value))
		r.refused[n] = true
		return
	case n.Style&yaml.TaggedStyle != 0:
		r.refuse(n, path, "tags (%s) are not part of recipes; leave it out, and quote the value when it is text", clip(n.Tag))
		r.refused[n] = true
		return
	case depth > maxDepth:
		r.refuse(n, path, "is nested more than %d levels deep; no recipe is", maxDepth)
		r.refused[n] = true
		return
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, item := range n.Content {
			r.checkTree(item, fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
	case yaml.MappingNode:
		seen := make(map[string]*yaml.Node, len(n.Content)/2)
		for i := 0; i < len(n.Content); i += 2 {
			key, val := n.Content[i], n.Content[i+1]
			if key.Kind == yaml.ScalarNode && key.Tag == "!!merge" {
				r.refuse(key, path, "merge keys (<<) are not part of recipes; write the fields out")
				r.refused[key] = true
				continue
			}
			if key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0 {
				r.refuse(key, path, "a key must be plain text")
				r.refused[key] = true
				continue
			}
			at := join(path, key.Value)
			if first, twice := seen[key.Value]; twice {
				r.refuse(key, at, "stands here a second time (first in line %d); keep one of them", first.Line)
				r.refused[key] = true
			} else {
				seen[key.Value] = key
			}
			r.checkTree(val, at, depth+1)
		}
	}
}

// join returns the path of a field of the mapping at path, in the notation that --set reads.
func join(path, key string) string {
	key = pathEscapes.Replace(clip(key))
	if path == "" {
		return key
	}
	return path + "." + key
}

var pathEscapes = strings.NewReplacer(`\`, `\\`, `.`, `\.`, `[`, `\[`, `=`, `\=`)

// clip shortens foreign text for a message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
