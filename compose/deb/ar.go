package deb

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
)

// arMember is the header of an ar member, as far as a .deb uses it.
type arMember struct {
	Name    string
	ModTime int64
	Size    int64
}

// arReader streams the members of an ar archive.
type arReader struct {
	r    io.Reader
	left int64 // bytes of the current member that are unread
	pad  bool  // a byte follows the current member, for alignment to 2
}

func newARReader(r io.Reader) (*arReader, error) {
	var magic [len(arMagic)]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return nil, fmt.Errorf("ar magic: %w", noEOF(err))
	}
	if string(magic[:]) != arMagic {
		return nil, errors.New("is no ar archive, and so no .deb")
	}
	return &arReader{r: r}, nil
}

// Next skips what is left of the current member and reads the header of the next one. io.EOF ends the archive.
func (a *arReader) Next() (arMember, error) {
	skip := a.left
	if a.pad {
		skip++
	}
	a.pad, a.left = false, 0
	if n, err := io.CopyN(io.Discard, a.r, skip); err != nil && (err != io.EOF || n < skip-1) {
		return arMember{}, noEOF(err)
	}
	var h [arHeaderSize]byte
	if _, err := io.ReadFull(a.r, h[:]); err == io.EOF {
		return arMember{}, io.EOF
	} else if err != nil {
		return arMember{}, fmt.Errorf("ar header: %w", err)
	}
	if h[58] != '`' || h[59] != '\n' {
		return arMember{}, errors.New("ar header: wrong end mark")
	}
	name := strings.TrimRight(string(h[:16]), " ")
	m := arMember{Name: strings.TrimSuffix(name, "/")} // System V archives have the slash
	if m.Name == "" || strings.ContainsAny(m.Name, "/\x00") {
		return arMember{}, fmt.Errorf("ar header: member name %q", name)
	}
	var err error
	if m.ModTime, err = arNumber(h[16:28]); err != nil {
		return arMember{}, fmt.Errorf("ar member %s: time: %w", m.Name, err)
	}
	if m.Size, err = arNumber(h[48:58]); err != nil {
		return arMember{}, fmt.Errorf("ar member %s: size: %w", m.Name, err)
	}
	a.left, a.pad = m.Size, m.Size%2 == 1
	return m, nil
}

// Read reads the current member.
func (a *arReader) Read(p []byte) (int, error) {
	if a.left == 0 {
		return 0, io.EOF
	}
	n, err := a.r.Read(p[:min(int64(len(p)), a.left)])
	a.left -= int64(n)
	if err == io.EOF && a.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// arNumber parses a decimal field padded with spaces; an empty one is 0.
func arNumber(field []byte) (int64, error) {
	s := strings.TrimRight(string(field), " ")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no number", s)
	}
	return int64(n), nil
}

// noEOF turns an end of file where more must follow into one that is an error to everybody.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
