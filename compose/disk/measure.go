package disk

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"bakefarm/compose/disk/ext4"
)

// Ample reports whether layers whose tars have so many bytes surely fit over what has come until now, so that they need no
// Measure: on a filesystem content takes somewhat more room than in a tar, and never twice as much unless it is small
// files alone.
func (b *Builder) Ample(tarSize int64) bool { return 2*tarSize+mebi <= b.root.Free() }

// Measure finds out whether layers have room on a disk before any of it is written: it takes them as a Builder does, and
// keeps nothing of them.
type Measure struct {
	options Options
	root    *ext4.Writer
}

// NewMeasure begins to measure: an empty disk, or the one that a Prefix's state is of, when state is not nil.
func NewMeasure(o Options, state []byte) (*Measure, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	b := Builder{Options: o}
	m := Measure{options: o}
	var err error
	if state == nil {
		m.root, err = ext4.New(nowhere{}, b.filesystem())
		return &m, err
	}
	s, err := decodeState(o, state)
	if err != nil {
		return nil, err
	}
	m.root, err = ext4.Resume(nowhere{}, b.filesystem(), s.Root)
	return &m, err
}

// nowhere forgets what is written.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// Layer measures a layer's tar, from the bottom up.
func (m *Measure) Layer(layer io.Reader) error { return m.root.Layer(layer) }

// Room says by how much the disk is too small for the layers: an *ext4.NoRoom in the error.
func (m *Measure) Room() error {
	if m.options.ReadOnly {
		return advise(m.options.writeEROFS(nowhere{}, m.root))
	}
	return advise(m.root.Room())
}

// cutState takes a state apart: the filesystem's own comes last, and is no JSON but for its quotes.
func cutState(raw []byte) (rest, root []byte, err error) {
	const field, end = `,"root":"`, `"}`
	i := bytes.LastIndex(raw, []byte(field))
	encoded, ends := bytes.CutSuffix(raw[max(0, i):], []byte(end))
	if i < 0 || !ends {
		return nil, nil, errors.New("disk: state: it has no filesystem")
	}
	encoded = encoded[len(field):]
	root = make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	n, err := base64.StdEncoding.Decode(root, encoded)
	if err != nil {
		return nil, nil, fmt.Errorf("disk: state: filesystem: %w", err)
	}
	return append(raw[:i:i], '}'), root[:n], nil
}

// decodeState reads a Prefix's state, whole or without the filesystem, and checks whose it is.
func decodeState(o Options, raw []byte) (state, error) {
	var s state
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("disk: state: %w", err)
	}
	if s.Options != o {
		return s, errors.New("disk: state: of another disk")
	}
	return s, nil
}
