package disk

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"

	"bakefarm/compose/disk/ext4"
	"bakefarm/compose/disk/gpt"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Prefix is a disk with its OS and without its app: everything that another app leaves as it is. It is made once for an
// OS, and every disk of that goes on from its State (Resume).
type Prefix struct {
	Kernel *Kernel
	State  []byte
	// Layers are those that are written so far: runs of a layer from its start. Of the last one that has data, the rest is
	// yet to come. One that has no digest before Hash was not written in order.
	Layers []Layer
	// Loose are pieces of layers that were not written in order either: the app changes these layers, and nobody needs their
	// digests before.
	Loose []Part
}

// maxLoose is how many pieces are loose at the most: whoever keeps them has a name for each.
const maxLoose = 2048

// Hash gives every layer its digest. get reads a piece back: all must be stored.
func (p *Prefix) Hash(ctx context.Context, get func(ctx context.Context, p Part) ([]byte, error)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(hashesAtOnce)
	for i := range p.Layers {
		if l := &p.Layers[i]; l.Digest == "" {
			g.Go(func() error { return l.name(ctx, get) })
		}
	}
	return g.Wait()
}

// state is what Resume goes on from.
type state struct {
	Options Options       `json:"options"`
	Chunks  []stateChunk  `json:"chunks"`
	Hashed  []stateHashed `json:"hashed"`
	Paused  *paused       `json:"paused,omitempty"`
	Tail    bool          `json:"tail,omitempty"` // the backup table is written
	Root    []byte        `json:"root"`           // ext4.Writer's
}

type stateChunk struct {
	Offset int64         `json:"o"`
	Digest digest.Digest `json:"d"`
	Size   int64         `json:"s"`
}

type stateHashed struct {
	Layer  int64         `json:"layer"`
	Digest digest.Digest `json:"digest"`
	Chunks int           `json:"chunks"`
}

// Prefix ends the OS: what starts it is taken from the layers until here, and written. Errors are those of boot: a
// *BootError says what the OS has not.
func (b *Builder) Prefix() (*Prefix, error) {
	if err := b.chunks.pause(); err != nil {
		return nil, err
	}
	b.foresee()
	kernel, err := b.boot.kernel(b.Options)
	if err != nil {
		return nil, err
	}
	head, tail, err := b.table().Encode(b.Size)
	if err != nil {
		return nil, err
	}
	if err := b.writeBoot(head, kernel); err != nil {
		return nil, err
	}
	at := b.Size - gpt.TailSize
	// Where the app's data may come into the same layer the table waits for it: a layer is hashed from its start.
	if p := b.chunks.paused; p == nil || p.Layer != at/b.chunks.layer {
		if _, err := b.chunks.WriteAt(tail, at); err != nil {
			return nil, err
		}
		b.tail = nil
	} else {
		b.tail = tail
	}
	return b.prefix(kernel)
}

// table is the partition table.
func (b *Builder) table() gpt.Table {
	table := gpt.Table{GUID: b.identifier("disk")}
	if b.Boot == BootHybrid { // so that nobody else writes there
		table.Partitions = append(table.Partitions, gpt.Partition{
			Type: gpt.TypeBIOS, GUID: b.identifier("bios"), Name: "bios", Start: gpt.HeadSize, Size: espStart - gpt.HeadSize,
		})
	}
	if b.Boot != BootDirect {
		table.Partitions = append(table.Partitions, gpt.Partition{
			Type: gpt.TypeESP, GUID: b.identifier("esp"), Name: "esp", Start: espStart, Size: rootStart - espStart,
		})
	}
	table.Partitions = append(table.Partitions, gpt.Partition{
		Type: arches[b.Arch].rootType, GUID: b.identifier("root"), Name: "root", Start: rootStart, Size: b.Size - rootStart - rootEnd,
	})
	return table
}

// prefix collects what has been made.
func (b *Builder) prefix(kernel *Kernel) (*Prefix, error) {
	c := b.chunks
	if err := c.flush(); err != nil {
		return nil, err
	}
	c.endLayer()
	if err := c.settle(); err != nil {
		return nil, err
	}
	slices.SortFunc(c.chunks, func(a, b chunk) int { return cmp.Compare(a.offset, b.offset) })
	s := state{Options: b.Options, Paused: c.paused, Tail: b.tail == nil, Root: b.root.State()}
	p := &Prefix{Kernel: kernel}
	for _, k := range c.chunks {
		s.Chunks = append(s.Chunks, stateChunk{k.offset, k.Digest, k.Size})
		n := k.offset / c.layer
		if len(p.Layers) == 0 || p.Layers[len(p.Layers)-1].start != n*c.layer {
			p.Layers = append(p.Layers, Layer{start: n * c.layer})
		}
		l := &p.Layers[len(p.Layers)-1]
		if gap := k.offset - l.start - l.Size; gap > 0 {
			l.Parts, l.Size = append(l.Parts, Part{Size: gap}), l.Size+gap
		}
		l.Parts, l.Size = append(l.Parts, k.Part), l.Size+k.Size
	}
	for i := range p.Layers {
		l := &p.Layers[i]
		n := l.start / c.layer
		if c.paused != nil && c.paused.Layer == n {
			d, err := sumOf(c.paused.State)
			if err != nil {
				return nil, err
			}
			l.Digest = d
			continue
		}
		if h := c.hashed[n]; h.digest != "" {
			s.Hashed = append(s.Hashed, stateHashed{n, h.digest, h.chunks})
			l.Digest = h.digest
		}
		if whole := min(c.layer, c.size-l.start); l.Size < whole {
			l.Parts, l.Size = append(l.Parts, Part{Size: whole - l.Size}), whole
		}
	}
	p.Layers = slices.DeleteFunc(p.Layers, func(l Layer) bool {
		if l.Digest != "" || len(p.Loose)+len(l.Parts) > maxLoose {
			return false
		}
		for _, part := range l.Parts {
			if part.Digest != "" {
				p.Loose = append(p.Loose, part)
			}
		}
		return true
	})
	var err error
	p.State, err = json.Marshal(s)
	return p, err
}

// sumOf is the digest of what a hash's state has taken.
func sumOf(state []byte) (digest.Digest, error) {
	h := sha256.New()
	if err := h.(interface{ UnmarshalBinary([]byte) error }).UnmarshalBinary(state); err != nil {
		return "", fmt.Errorf("disk: hash: %w", err)
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// Resume goes on with the disk that a Prefix is the beginning of, to chunks made for the same options.
func Resume(o Options, chunks *Chunks, raw []byte) (*Builder, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	rest, root, err := cutState(raw)
	if err != nil {
		return nil, err
	}
	b := &Builder{Options: o, chunks: chunks}
	var s state
	var g errgroup.Group // the filesystem is about half of it
	g.Go(func() (err error) {
		s, err = decodeState(o, rest)
		return err
	})
	g.Go(func() (err error) {
		b.root, err = ext4.Resume(offset{chunks, rootStart}, b.filesystem(), root)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	b.app = b.root.Next()
	for _, k := range s.Chunks {
		chunks.chunks = append(chunks.chunks, chunk{k.Offset, Part{k.Digest, k.Size}})
	}
	for _, h := range s.Hashed {
		chunks.hashed[h.Layer] = hashed{digest: h.Digest, chunks: h.Chunks}
	}
	chunks.paused = s.Paused
	if !s.Tail {
		if _, b.tail, err = b.table().Encode(b.Size); err != nil {
			return nil, err
		}
	}
	return b, nil
}
