package ldcache

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

// Entry is one line of the index.
type Entry struct {
	Name  string // what programs ask for
	Path  string // absolute
	Flags uint32
}

const (
	magic          = "glibc-ld.so.cache1.1"
	headerSize     = 48
	entrySize      = 24
	littleEndian   = 2
	extensionMagic = 0xeaa42174
	tagGenerator   = 0
)

// Encode makes the file. Entries of the same name and kind keep their order, which is that of their directories.
// Generator is the text in which "ldconfig -p" says who made the index.
func Encode(entries []Entry, generator string) []byte {
	entries = slices.Clone(entries)
	// The loader searches in halves, from the largest name down.
	slices.SortStableFunc(entries, func(a, b Entry) int {
		return cmp.Or(Compare(b.Name, a.Name), cmp.Compare(b.Flags, a.Flags))
	})
	texts := make([]string, 0, 2*len(entries))
	for _, e := range entries {
		texts = append(texts, e.Name, e.Path)
	}
	table, at := stringTable(texts)
	start := headerSize + entrySize*len(entries)
	extension := (start + len(table) + 3) &^ 3

	var b bytes.Buffer
	u32 := func(n int) { _ = binary.Write(&b, binary.LittleEndian, uint32(n)) } // into memory
	b.WriteString(magic)
	u32(len(entries))
	u32(len(table))
	u32(littleEndian)
	u32(extension)
	b.Write(make([]byte, headerSize-b.Len()))
	for _, e := range entries {
		u32(int(e.Flags))
		u32(start + at[e.Name])
		u32(start + at[e.Path])
		u32(0) // the kernel it wants: no longer said
		u32(0) // hardware capabilities: none, 64 bits
		u32(0)
	}
	b.WriteString(table)
	b.Write(make([]byte, extension-b.Len()))
	u32(extensionMagic)
	u32(1) // section
	u32(tagGenerator)
	u32(0) // flags
	u32(extension + 24)
	u32(len(generator))
	b.WriteString(generator)
	return b.Bytes()
}

// stringTable writes the strings one after another, each ended by a NUL, those that another ends in within that one:
// sorted by their ends, from the largest down, so that a string comes right behind one that it is the end of.
func stringTable(texts []string) (table string, at map[string]int) {
	slices.SortFunc(texts, func(a, b string) int {
		for i := 1; i <= min(len(a), len(b)); i++ {
			if c := cmp.Compare(b[len(b)-i], a[len(a)-i]); c != 0 {
				return c
			}
		}
		return cmp.Compare(len(b), len(a))
	})
	var out strings.Builder
	at = make(map[string]int, len(texts))
	for i, s := range texts {
		switch {
		case i > 0 && strings.HasSuffix(texts[i-1], s):
			at[s] = at[texts[i-1]] + len(texts[i-1]) - len(s)
		default:
			at[s] = out.Len()
			out.WriteString(s)
			out.WriteByte(0)
		}
	}
	return out.String(), at
}
