package strict

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxSets bounds the number of --set flags.
const maxSets = 1000

// step is one step of a --set path: a key of a mapping, or an index of a list when key is empty.
type step struct {
	key   string
	index int
}

// Set applies --set flags, "path=value", in order; call it before anything is read. What is wrong with one of them stands
// in Err; the error is of type Errors, for flags that are too many or too long.
//
// A path is keys separated by dots, with indexes in brackets: os.debian.packages[0]. A backslash takes the next character
// as it is: config.labels.org\.example\.team. The value is YAML, so that {} and [a, b] mean what they mean in the file;
// an empty value is the empty string and null takes the field away. Mappings on the way are made, and an index may be one
// past the end of a list.
func (d *Document) Set(flags ...string) error {
	total := 0
	for _, flag := range flags {
		total += len(flag)
	}
	if len(flags) > maxSets || d.bytes+total > d.language.Max {
		return Errors{{File: "--set", Message: fmt.Sprintf(
			"there are %d flags of %d bytes; at most %d, and %d bytes together with the %s; write the values into the %s",
			len(flags), total, maxSets, d.language.Max, d.language.Noun, d.language.Noun)}}
	}
	for _, flag := range flags {
		d.set(flag)
	}
	return nil
}

// set applies one flag.
func (d *Document) set(flag string) {
	fail := func(format string, args ...any) {
		d.errs = append(d.errs, &Error{File: flagName(flag), Message: fmt.Sprintf(format, args...)})
	}
	if _, column, what := foreignByte([]byte(flag)); what != "" {
		fail("%s (character %d); a flag is plain UTF-8 text", what, column)
		return
	}
	path, text, err := splitSet(flag)
	if err != nil {
		fail("%v; write --set path=value, such as %s", err, d.language.Example)
		return
	}
	value := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle}
	if strings.TrimSpace(text) != "" {
		parsed, bad := d.language.parse("", []byte(text))
		switch {
		case bad != nil:
			fail("the value %s; quote it when it is text", bad.Message)
			return
		case parsed != nil: // else it is a comment: the empty string
			value = parsed
		}
	}
	remove := value.Kind == yaml.ScalarNode && value.Tag == "!!null"
	d.mark(value, flag)
	d.checkTree(value, showPath(path), len(path))

	at := d.root
	for i, s := range path {
		last := i == len(path)-1
		slot, index, err := d.find(at, s, showPath(path[:i]))
		switch {
		case err != nil:
			fail("%v", err)
			return
		case last && remove:
			if slot != nil {
				width := 1
				if at.Kind == yaml.MappingNode {
					index, width = index-1, 2
				}
				at.Content = append(at.Content[:index:index], at.Content[index+width:]...)
			}
			return
		case last && slot != nil:
			at.Content[index] = value
			return
		case slot != nil && !(slot.Kind == yaml.ScalarNode && slot.Tag == "!!null"):
			at = slot
			continue
		case slot == nil && remove:
			return
		}
		next := value
		if !last {
			next = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
			if path[i+1].key == "" {
				next = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
			}
			d.sets[next] = flag
		}
		switch {
		case slot != nil:
			at.Content[index] = next
		case at.Kind == yaml.MappingNode:
			key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s.key}
			d.sets[key] = flag
			at.Content = append(at.Content, key, next)
		default:
			at.Content = append(at.Content, next)
		}
		at = next
	}
}

// find looks a step up in a node, whose path is for messages: the value and its index in the node's Content, nil when it
// is not there yet but may be added.
func (d *Document) find(at *yaml.Node, s step, path string) (*yaml.Node, int, error) {
	if path == "" {
		path = "the " + d.language.Noun
	}
	if s.key != "" {
		if at.Kind != yaml.MappingNode {
			return nil, 0, fmt.Errorf("%s is %s, which has no field %q", path, describe(at), Clip(s.key))
		}
		for i := 0; i < len(at.Content); i += 2 {
			if at.Content[i].Value == s.key && at.Content[i].Kind == yaml.ScalarNode {
				return at.Content[i+1], i + 1, nil
			}
		}
		return nil, 0, nil
	}
	if at.Kind != yaml.SequenceNode {
		return nil, 0, fmt.Errorf("%s is %s, which has no item [%d]", path, describe(at), s.index)
	}
	if s.index > len(at.Content) {
		return nil, 0, fmt.Errorf("%s has %d items, so [%d] is out of range; [%d] appends", path, len(at.Content), s.index, len(at.Content))
	}
	if s.index == len(at.Content) {
		return nil, 0, nil
	}
	return at.Content[s.index], s.index, nil
}

// splitSet splits "path=value".
func splitSet(flag string) (path []step, value string, err error) {
	var key strings.Builder
	inKey, ended := true, false // ended: an index stands behind us, so that "." , "[" or "=" must follow
	flush := func() error {
		if inKey && key.Len() == 0 {
			return fmt.Errorf("the path has an empty step")
		}
		if inKey {
			path = append(path, step{key: key.String()})
		}
		key.Reset()
		if len(path) > maxDepth {
			return fmt.Errorf("the path has more than %d steps", maxDepth)
		}
		return nil
	}
	for i := 0; i < len(flag); i++ {
		c := flag[i]
		if ended && c != '.' && c != '[' && c != '=' {
			return nil, "", fmt.Errorf("after ] comes %q", c)
		}
		switch c {
		case '=':
			if err := flush(); err != nil {
				return nil, "", err
			}
			return path, flag[i+1:], nil
		case '.':
			if err := flush(); err != nil {
				return nil, "", err
			}
			inKey, ended = true, false
		case '[':
			if err := flush(); err != nil {
				return nil, "", err
			}
			end := strings.IndexByte(flag[i:], ']')
			if end < 0 {
				return nil, "", fmt.Errorf("the path has a [ without ]")
			}
			digits := flag[i+1 : i+end]
			index, err := strconv.ParseUint(digits, 10, 16)
			if err != nil {
				return nil, "", fmt.Errorf("[%s] is no index", Clip(digits))
			}
			path = append(path, step{index: int(index)})
			inKey, ended = false, true
			i += end
		case '\\':
			if i++; i < len(flag) {
				key.WriteByte(flag[i])
			}
		default:
			key.WriteByte(c)
		}
	}
	return nil, "", fmt.Errorf("there is no =")
}

// mark notes that a value came from a flag and not from the file.
func (d *Document) mark(n *yaml.Node, flag string) {
	d.sets[n] = flag
	for _, child := range n.Content {
		d.mark(child, flag)
	}
}

func flagName(flag string) string { return "--set " + Clip(strings.ToValidUTF8(flag, "\ufffd")) }

func showPath(path []step) string {
	at := ""
	for _, s := range path {
		if s.key == "" {
			at += fmt.Sprintf("[%d]", s.index)
		} else {
			at = join(at, s.key)
		}
	}
	return at
}
