package strict

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Value is a value of a document and the path that leads to it. Methods that read it return ok=false when they have
// refused it, or when it was refused before.
type Value struct {
	doc  *Document
	node *yaml.Node
	path string
}

// Refuse notes what is wrong with the value, and what to write instead.
func (v Value) Refuse(format string, args ...any) {
	v.doc.refuse(v.node, v.path, format, args...)
}

// Refused reports whether the value has an error already that makes reading it pointless.
func (v Value) Refused() bool { return v.doc.refused[v.node] }

// IsText reports whether the value is a string.
func (v Value) IsText() bool { return v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!str" }

// IsTrue reports whether the value is the truth value true.
func (v Value) IsTrue() bool {
	return v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!bool" && strings.EqualFold(v.node.Value, "true")
}

// IsFalse reports whether the value is the truth value false.
func (v Value) IsFalse() bool {
	return v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!bool" && !v.IsTrue()
}

// IsList reports whether the value is a list.
func (v Value) IsList() bool { return v.node.Kind == yaml.SequenceNode }

// IsMapping reports whether the value is a mapping.
func (v Value) IsMapping() bool { return v.node.Kind == yaml.MappingNode }

// IsEmptyList reports whether the value is a list without items.
func (v Value) IsEmptyList() bool {
	return v.node.Kind == yaml.SequenceNode && len(v.node.Content) == 0
}

// IsEmptyMapping reports whether the value is a mapping without fields.
func (v Value) IsEmptyMapping() bool {
	return v.node.Kind == yaml.MappingNode && len(v.node.Content) == 0
}

// Fields are the entries of a mapping, in order.
type Fields struct {
	of      Value
	Entries []Entry
}

// Entry is one entry of a mapping.
type Entry struct {
	Key   string
	Value Value
	in    Value
	at    *yaml.Node // the key
}

// RefuseKey notes what is wrong with the key.
func (e Entry) RefuseKey(format string, args ...any) {
	e.in.doc.refuse(e.at, e.in.path, format, args...)
}

// Mapping reads a mapping with any keys; example says what to write.
func (v Value) Mapping(example string) (Fields, bool) {
	if v.Refused() {
		return Fields{}, false
	}
	if v.node.Kind != yaml.MappingNode {
		v.Refuse("is %s where a mapping is wanted; write %s", v.Describe(), example)
		return Fields{}, false
	}
	f := Fields{of: v}
	for i := 0; i < len(v.node.Content); i += 2 {
		key, val := v.node.Content[i], v.node.Content[i+1]
		if !v.doc.refused[key] {
			f.Entries = append(f.Entries, Entry{key.Value, Value{v.doc, val, join(v.path, key.Value)}, v, key})
		}
	}
	return f, true
}

// Fields reads a mapping with known keys and refuses the others.
func (v Value) Fields(example string, known ...string) (Fields, bool) {
	f, ok := v.Mapping(example)
	for _, e := range f.Entries {
		if slices.Contains(known, e.Key) {
			continue
		}
		advice := "the fields here are " + strings.Join(known, ", ")
		if near := Nearest(e.Key, known); near != "" {
			advice = fmt.Sprintf("did you mean %s?", near)
		}
		v.doc.refuse(e.at, e.Value.path, "unknown field; %s", advice)
	}
	return f, ok
}

// Get returns the value of a key.
func (f Fields) Get(key string) (Value, bool) {
	for _, e := range f.Entries {
		if e.Key == key {
			return e.Value, true
		}
	}
	return Value{}, false
}

// Need returns the value of a key that must be there.
func (f Fields) Need(key, example string) (Value, bool) {
	v, ok := f.Get(key)
	if !ok {
		f.RefuseLack(key, "is missing; write %s", example)
	}
	return v, ok
}

// RefuseLack notes that a key is not there.
func (f Fields) RefuseLack(key, format string, args ...any) {
	f.of.doc.refuse(f.of.node, join(f.of.path, key), format, args...)
}

// Items reads a list.
func (v Value) Items(example string) ([]Value, bool) {
	if v.Refused() {
		return nil, false
	}
	if v.node.Kind != yaml.SequenceNode {
		v.Refuse("is %s where a list is wanted; write %s", v.Describe(), example)
		return nil, false
	}
	items := make([]Value, len(v.node.Content))
	for i, n := range v.node.Content {
		items[i] = Value{v.doc, n, fmt.Sprintf("%s[%d]", v.path, i)}
	}
	return items, true
}

// Text reads a string. Numbers, booleans and dates are refused, because what YAML makes of them is rarely what stands
// there (1.10 is the number 1.1).
func (v Value) Text(example string) (string, bool) {
	return v.scalar(example, "!!str")
}

// TextOrInteger reads a string or an integer as its own text.
func (v Value) TextOrInteger(example string) (string, bool) {
	return v.scalar(example, "!!str", "!!int")
}

// Number reads a whole number in plain decimal digits, from least to most.
func (v Value) Number(example string, least, most int64) (int64, bool) {
	if v.Refused() {
		return 0, false
	}
	if v.node.Kind != yaml.ScalarNode || v.node.Tag != "!!int" && v.node.Tag != "!!float" {
		v.Refuse("is %s where a whole number is wanted; write %s", v.Describe(), example)
		return 0, false
	}
	n, err := strconv.ParseInt(v.node.Value, 10, 64)
	if err != nil || n < least || n > most {
		v.Refuse("is %s; write a whole number from %d to %d, such as %s", v.Describe(), least, most, example)
		return 0, false
	}
	return n, true
}

// Literally reads any scalar but null as its own text.
func (v Value) Literally(example string) (string, bool) {
	return v.scalar(example, "!!str", "!!int", "!!float", "!!bool", "!!timestamp", "!!merge")
}

// scalar reads a scalar whose YAML type is one of tags, as it is written.
func (v Value) scalar(example string, tags ...string) (string, bool) {
	switch {
	case v.Refused():
		return "", false
	case v.node.Kind == yaml.ScalarNode && slices.Contains(tags, v.node.Tag):
		if strings.ContainsRune(v.node.Value, 0) { // "\0" in double quotes
			v.Refuse("has a zero byte, which no program can be given; leave it out")
			return "", false
		}
		return v.node.Value, true
	case v.node.Kind != yaml.ScalarNode, v.node.Tag == "!!null":
		v.Refuse("is %s; write %s", v.Describe(), example)
	default:
		v.Refuse("is %s where text is wanted; write it in quotes: %q", v.Describe(), v.node.Value)
	}
	return "", false
}

// Texts reads a list of strings, and returns the strings with their values.
func (v Value) Texts(example string) ([]string, []Value, bool) {
	items, ok := v.Items(example)
	if !ok {
		return nil, nil, false
	}
	all := make([]string, 0, len(items))
	good := make([]Value, 0, len(items))
	for _, item := range items {
		if s, ok := item.Text("one string, as in " + example); ok {
			all, good = append(all, s), append(good, item)
		}
	}
	return all, good, len(good) == len(items)
}

// Describe says what the value is, for people: "the number 7".
func (v Value) Describe() string { return describe(v.node) }

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
		return "the number " + Clip(n.Value)
	case "!!bool":
		return "the truth value " + n.Value
	case "!!timestamp":
		return "the date " + Clip(n.Value)
	}
	return fmt.Sprintf("the text %q", Clip(n.Value))
}

// Line is the line of the text that the value begins in, from 1.
func (v Value) Line() int { return v.node.Line }
