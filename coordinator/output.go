package coordinator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"

	"github.com/opencontainers/go-digest"
)

// Bounds of what a worker may report.
const (
	maxOutput = 256 << 10 // bytes of JSON
	maxError  = 8 << 10   // bytes
	maxLines  = 500       // a message
	maxLine   = 4 << 10   // bytes
)

// An output is what a shard made, as far as the coordinator looks into it.
type output struct {
	pieces []digest.Digest // pieces and blobs that it names: it is worth nothing without them
	main   digest.Digest   // what stands for the whole when two outputs are compared in a sentence
	value  any             // *plan.ObserveOutput, *plan.SolveOutput, …
}

// readOutput decodes a kind's output and checks it: workers are not trusted with the cache.
func readOutput(kind farm.Kind, raw json.RawMessage) (output, error) {
	var out output
	var err error
	if len(raw) > maxOutput {
		return out, fmt.Errorf("output of %d bytes: at most %d are allowed", len(raw), maxOutput)
	}
	switch kind {
	case farm.KindObserve:
		var o plan.ObserveOutput
		if err = json.Unmarshal(raw, &o); err == nil && (len(o.Indexes) == 0) == (o.Image == nil) {
			err = errors.New("want indexes, or an image")
		}
		if err == nil && o.Image != nil {
			err = checkObservedImage(o.Image)
		}
		for _, i := range o.Indexes {
			out.pieces = append(out.pieces, i.Packages)
		}
		out.value, out.main = &o, digest.FromBytes(raw)
	case farm.KindSolve:
		var o plan.SolveOutput
		if err = json.Unmarshal(raw, &o); err == nil && o.Count < 0 {
			err = errors.New("negative count")
		}
		out.pieces = []digest.Digest{o.Packages}
		out.value, out.main = &o, o.Packages
	case farm.KindInspect:
		var o plan.Own
		if err = json.Unmarshal(raw, &o); err == nil && (o.Name == "" || o.Version == "" || o.Arch == "" || !o.Own) {
			err = errors.New("no package")
		}
		out.pieces = []digest.Digest{o.SHA256, o.Control}
		out.value, out.main = &o, o.SHA256
	case farm.KindImport:
		var o plan.Base
		if err = json.Unmarshal(raw, &o); err == nil {
			err = checkBase(&o)
		}
		out.pieces = []digest.Digest{o.Config, o.Record, o.Status, o.Packages}
		for _, l := range o.Layers {
			out.pieces = append(out.pieces, l.Digest)
		}
		out.value, out.main = &o, o.Record
	case farm.KindConvert, farm.KindTrim, farm.KindCut:
		var o plan.Member
		if err = json.Unmarshal(raw, &o); err == nil {
			err = checkMember(&o)
		}
		out.pieces = memberPieces(&o)
		out.value, out.main = &o, o.TarDigest
	case farm.KindAssemble, farm.KindConfigure:
		var o plan.Layer
		if err = json.Unmarshal(raw, &o); err == nil {
			err = errors.Join(o.DiffID.Validate(), positive("size", o.Size), positive("tarSize", o.TarSize))
		}
		out.pieces = []digest.Digest{o.Digest}
		if o.Packages != "" {
			out.pieces = append(out.pieces, o.Packages)
		}
		for i := range o.Unpack {
			if err == nil {
				err = checkMember(&o.Unpack[i])
			}
			out.pieces = append(out.pieces, memberPieces(&o.Unpack[i])...)
		}
		out.value, out.main = &o, o.Digest
	case farm.KindImage, farm.KindIndex, farm.KindDisk:
		var o plan.ImageOutput
		if err = json.Unmarshal(raw, &o); err == nil {
			err = positive("size", o.Size)
		}
		if err == nil && o.MediaType == "" {
			err = errors.New("no mediaType")
		}
		out.pieces = append([]digest.Digest{o.Manifest}, o.Blobs...)
		out.value, out.main = &o, o.Manifest
	case farm.KindRoot:
		var o plan.Root
		if err = json.Unmarshal(raw, &o); err == nil {
			err = positive("size of the state", o.State.Size)
		}
		out.pieces = append([]digest.Digest{o.State.Digest}, o.Blobs...)
		for _, p := range []*plan.Piece{o.Image, o.Initrd} {
			if p != nil {
				out.pieces = append(out.pieces, p.Digest)
			}
		}
		out.value, out.main = &o, o.State.Digest
	case farm.KindRun, farm.KindBoot:
		var o plan.TestOutput
		if err = json.Unmarshal(raw, &o); err == nil && len(o.Passed) == 0 {
			err = errors.New("no test has passed")
		}
		out.value, out.main = &o, digest.FromBytes(raw)
	default:
		err = kind.Validate()
	}
	if err != nil {
		return out, fmt.Errorf("output of %s: %w", kind, err)
	}
	for _, d := range out.pieces {
		if _, err := imagestore.ParseDigest(d); err != nil {
			return out, fmt.Errorf("output of %s: %w", kind, err)
		}
	}
	return out, nil
}

func checkMember(m *plan.Member) error {
	if m.TarSize < 0 || (m.TarSize > 0) != (len(m.Pieces) > 0) { // a package may hold directories only
		return fmt.Errorf("%d bytes in %d pieces", m.TarSize, len(m.Pieces))
	}
	if err := m.TarDigest.Validate(); err != nil {
		return err
	}
	for _, p := range m.Pieces {
		if p.Size <= 0 || p.Size > imagestore.MaxPiece {
			return fmt.Errorf("piece %s of %d bytes", p.Digest, p.Size)
		}
	}
	return nil
}

// maxObserved bounds the platforms of an image.
const maxObserved = 1000

func checkObservedImage(o *plan.ObservedImage) error {
	if _, err := imagestore.ParseDigest(o.Digest); err != nil {
		return err
	}
	if len(o.Platforms) > maxObserved {
		return fmt.Errorf("%d platforms: at most %d are allowed", len(o.Platforms), maxObserved)
	}
	for _, d := range o.Platforms {
		if _, err := imagestore.ParseDigest(d); err != nil {
			return err
		}
	}
	return nil
}

func checkBase(b *plan.Base) error {
	if len(b.Layers) > plan.MaxLayers || b.Count < 0 {
		return fmt.Errorf("%d layers and %d packages", len(b.Layers), b.Count)
	}
	for _, l := range b.Layers {
		if err := errors.Join(l.DiffID.Validate(), positive("size", l.Size), positive("tarSize", l.TarSize)); err != nil {
			return fmt.Errorf("layer %s: %w", l.Digest, err)
		}
	}
	return nil
}

// memberPieces are the pieces that a member names.
func memberPieces(m *plan.Member) []digest.Digest {
	var pieces []digest.Digest
	for _, p := range m.Pieces {
		pieces = append(pieces, p.Digest)
	}
	return append(pieces, m.Inventory)
}

func positive(field string, n int64) error {
	if n <= 0 {
		return fmt.Errorf("%s is %d", field, n)
	}
	return nil
}

// sameOutput compares two outputs of a kind by what they mean: both are encoded by us.
func sameOutput(a, b output) bool {
	one, errOne := json.Marshal(a.value)
	two, errTwo := json.Marshal(b.value)
	return errOne == nil && errTwo == nil && bytes.Equal(one, two)
}

// notReproducible begins the error of a shard whose re-bake made other bytes.
const notReproducible = "not reproducible: "

func differs(label string, was, is output) string {
	return fmt.Sprintf("%s%s was %s and is now %s", notReproducible, label, was.main, is.main)
}
