package recipe

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// reader walks the node tree of one recipe and collects everything that is wrong with it.
type reader struct {
	file    string
	sets    map[*yaml.Node]string // nodes that a --set flag brought, by the flag
	refused map[*yaml.Node]bool   // values and keys with an error already: nothing more is said about them
	errs    Errors
}

func (r *reader) refuse(n *yaml.Node, path, format string, args ...any) {
	e := &Error{File: r.file, Line: n.Line, Column: n.Column, Field: path, Message: fmt.Sprintf(format, args...)}
	if flag, set := r.sets[n]; set {
		e.File, e.Line, e.Column = flagName(flag), 0, 0
	}
	r.errs = append(r.errs, e)
}

// value is a node and the path that leads to it. Its methods return ok=false when they have refused it, or when it was
// refused before.
type value struct {
	*reader
	node *yaml.Node
	path string
}

func (v value) refuse(format string, args ...any) {
	v.reader.refuse(v.node, v.path, format, args...)
}

// later refuses a part of the language that this release can't do.
func (v value) later(instead string) {
	v.refuse("is not in this release of bakefarm yet; %s", instead)
}

// fields are the entries of a mapping, in order.
type fields struct {
	value
	entries []entry
}

type entry struct {
	key   string
	value value
	at    *yaml.Node // the key
}

// mapping reads a mapping with any keys; example says what to write.
func (v value) mapping(example string) (fields, bool) {
	if v.reader.refused[v.node] {
		return fields{}, false
	}
	if v.node.Kind != yaml.MappingNode {
		v.refuse("is %s where a mapping is wanted; write %s", describe(v.node), example)
		return fields{}, false
	}
	f := fields{value: v}
	for i := 0; i < len(v.node.Content); i += 2 {
		key, val := v.node.Content[i], v.node.Content[i+1]
		if !v.reader.refused[key] {
			f.entries = append(f.entries, entry{key.Value, value{v.reader, val, join(v.path, key.Value)}, key})
		}
	}
	return f, true
}

// fields reads a mapping with known keys and refuses the others.
func (v value) fields(example string, known ...string) (fields, bool) {
	f, ok := v.mapping(example)
	for _, e := range f.entries {
		if slices.Contains(known, e.key) {
			continue
		}
		advice := "the fields here are " + strings.Join(known, ", ")
		if near := nearest(e.key, known); near != "" {
			advice = fmt.Sprintf("did you mean %s?", near)
		}
		v.reader.refuse(e.at, e.value.path, "unknown field; %s", advice)
	}
	return f, ok
}

// get returns the value of a key.
func (f fields) get(key string) (value, bool) {
	for _, e := range f.entries {
		if e.key == key {
			return e.value, true
		}
	}
	return value{}, false
}

// need returns the value of a key that must be there.
func (f fields) need(key, example string) (value, bool) {
	v, ok := f.get(key)
	if !ok {
		f.reader.refuse(f.node, join(f.path, key), "is missing; write %s", example)
	}
	return v, ok
}

// items reads a list.
func (v value) items(example string) ([]value, bool) {
	if v.reader.refused[v.node] {
		return nil, false
	}
	if v.node.Kind != yaml.SequenceNode {
		v.refuse("is %s where a list is wanted; write %s", describe(v.node), example)
		return nil, false
	}
	items := make([]value, len(v.node.Content))
	for i, n := range v.node.Content {
		items[i] = value{v.reader, n, fmt.Sprintf("%s[%d]", v.path, i)}
	}
	return items, true
}

// text reads a string. Numbers, booleans and dates are refused, because what YAML makes of them is rarely what stands
// there (1.10 is the number 1.1).
func (v value) text(example string) (string, bool) {
	return v.scalar(example, "!!str")
}

// literally reads any scalar but null as its own text.
func (v value) literally(example string) (string, bool) {
	return v.scalar(example, "!!str", "!!int", "!!float", "!!bool", "!!timestamp", "!!merge")
}

// scalar reads a scalar whose YAML type is one of tags, as it is written.
func (v value) scalar(example string, tags ...string) (string, bool) {
	switch {
	case v.reader.refused[v.node]:
		return "", false
	case v.node.Kind == yaml.ScalarNode && slices.Contains(tags, v.node.Tag):
		if strings.ContainsRune(v.node.Value, 0) { // "\0" in double quotes
			v.refuse("has a zero byte, which no program can be given; leave it out")
			return "", false
		}
		return v.node.Value, true
	case v.node.Kind != yaml.ScalarNode, v.node.Tag == "!!null":
		v.refuse("is %s; write %s", describe(v.node), example)
	default:
		v.refuse("is %s where text is wanted; write it in quotes: %q", describe(v.node), v.node.Value)
	}
	return "", false
}

// texts reads a list of strings.
func (v value) texts(example string) ([]string, []value, bool) {
	items, ok := v.items(example)
	if !ok {
		return nil, nil, false
	}
	all := make([]string, 0, len(items))
	good := make([]value, 0, len(items))
	for _, item := range items {
		if s, ok := item.text("one string, as in " + example); ok {
			all, good = append(all, s), append(good, item)
		}
	}
	return all, good, len(good) == len(items)
}

// describe says what a node is, for people.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.Tag {
	case "!!null":
		return "empty"
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	case "!!bool":
		return "the truth value " + n.Value
	case "!!timestamp":
		return "the date " + clip(n.Value)
	}
	return fmt.Sprintf("the text %q", clip(n.Value))
}
