package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// ControlFile is a file of the control archive.
type ControlFile struct {
	Name string `json:"name"`
	Exec bool   `json:"exec,omitempty"` // a maintainer script
	Data []byte `json:"data,omitempty"`
}

// Field is a field of a deb822 paragraph. Its value keeps its continuation lines, each with its leading space.
type Field struct {
	Name  string
	Value string
}

const maxControlFiles = 256

var (
	packageName     = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,127}$`)
	architecture    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	packageVersion  = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+:~-]{0,255}$`)
	controlFileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)
	fieldName       = regexp.MustCompile(`^[!-,./0-9;-~][!-9;-~]*$`) // deb822(5): printable, no colon, not beginning with # or -
)

// readControl reads the control archive into memory, which its reader bounds: the control file itself, and the others
// sorted by name.
func readControl(r io.Reader) (control []byte, files []ControlFile, err error) {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			return nil, nil, err
		}
		name := strings.TrimPrefix(h.Name, "./")
		if h.Typeflag == tar.TypeDir && (name == "" || name == ".") {
			continue
		}
		if h.Typeflag != tar.TypeReg || !controlFileName.MatchString(name) {
			return nil, nil, fmt.Errorf("entry %.100q: want plain files in no directory", h.Name)
		}
		if len(files) == maxControlFiles {
			return nil, nil, fmt.Errorf("%w: more than %d control files", ErrLimit, maxControlFiles)
		}
		if slices.ContainsFunc(files, func(f ControlFile) bool { return f.Name == name }) {
			return nil, nil, fmt.Errorf("%s is there twice", name)
		}
		data, err := io.ReadAll(tr) // no more than the bounded archive has
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		files = append(files, ControlFile{Name: name, Exec: h.Mode&0o111 != 0, Data: data})
	}
	i := slices.IndexFunc(files, func(f ControlFile) bool { return f.Name == "control" })
	if i < 0 {
		return nil, nil, errors.New("has no file named control")
	}
	control = files[i].Data
	files = slices.Delete(files, i, i+1)
	slices.SortFunc(files, func(a, b ControlFile) int { return strings.Compare(a.Name, b.Name) })
	return control, files, nil
}

// ParseParagraph parses text that is one deb822 paragraph. Names are unique, whatever their case.
func ParseParagraph(text []byte) ([]Field, error) {
	var fields []Field
	seen := map[string]bool{}
	ended := false
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line := strings.TrimRight(string(line), "\n")
		switch {
		case strings.TrimSpace(line) == "":
			ended = len(fields) > 0
			continue
		case line[0] == '#':
			continue
		case ended:
			return nil, fmt.Errorf("line %d: a second paragraph", number)
		case line[0] == ' ' || line[0] == '\t':
			if len(fields) == 0 {
				return nil, fmt.Errorf("line %d: continues no field", number)
			}
			fields[len(fields)-1].Value += "\n" + line
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !fieldName.MatchString(name) {
			return nil, fmt.Errorf("line %d: %.100q is no field", number, line)
		}
		if lower := strings.ToLower(name); seen[lower] {
			return nil, fmt.Errorf("line %d: field %s is there twice", number, name)
		} else {
			seen[lower] = true
		}
		fields = append(fields, Field{Name: name, Value: strings.TrimLeft(value, " \t")})
	}
	if len(fields) == 0 {
		return nil, errors.New("is empty")
	}
	for i := range fields {
		fields[i].Value = strings.TrimRight(fields[i].Value, " \t\r\n")
	}
	return fields, nil
}

// get is the value of a field, or "".
func get(fields []Field, name string) string {
	for _, f := range fields {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// conffileNames are the paths in the control file conffiles, one a line, absolute. A path that dpkg is told to remove
// on upgrade is none that the package has.
func conffileNames(data []byte) ([]string, error) {
	var names []string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n\r \t")
		if line == "" || strings.HasPrefix(line, "remove-on-upgrade ") {
			continue
		}
		if line[0] != '/' {
			return nil, fmt.Errorf("conffiles: %.100q is no absolute path", line)
		}
		if slices.Contains(names, line) {
			return nil, fmt.Errorf("conffiles: %s is there twice", line)
		}
		names = append(names, line)
	}
	return names, nil
}
