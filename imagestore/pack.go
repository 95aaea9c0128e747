package imagestore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// The pack format, version 1. Numbers are big-endian.
//
//	pack    = { bytes of a piece or of a descriptor } index footer
//	index   = { record }                        in the order of their offsets, without overlap
//	record  = kind      1 byte                  0 piece, 1 composite
//	          digest    32 bytes                sha256 of the piece, or of the blob that the descriptor describes
//	          offset    8 bytes                 from the start of the pack
//	          length    4 bytes                 at most MaxPiece
//	          piece     32 bytes                only for a composite: sha256 of the descriptor's bytes
//	footer  = magic     8 bytes                 "bakepack"
//	          version   4 bytes                 1
//	          count     4 bytes                 number of records, at most MaxEntries
//	          offset    8 bytes                 of the index
//	          length    8 bytes                 of the index
//	          sha256    32 bytes                of the index
//
// A descriptor is a Blob as JSON (EncodeBlob). There is one encoding only of given entries, so an index is named by its
// sha256 (farm.Pack.Index). Index and footer together are the pack's trailer: one read from farm.Pack.IndexAt to the end
// gets both; whoever has lost the record finds the index by the footer alone.
const (
	packMagic   = "bakepack"
	packVersion = 1

	// FooterSize is the size of a pack's footer, in bytes.
	FooterSize = 64
	// MaxEntries is how many entries a pack's index may have: bounds a trailer to 10 MiB.
	MaxEntries = 1 << 17
	// MaxPack is how many bytes of pieces and descriptors a writer may put into one pack, in bytes.
	MaxPack = 64 << 20

	// MaxTrailer is the size limit of a pack's index and footer, in bytes.
	MaxTrailer = MaxEntries*compositeRecord + FooterSize

	pieceRecord     = 1 + 32 + 8 + 4
	compositeRecord = pieceRecord + 32
)

// ErrNoPack says that the bytes are not the end of a pack that this release can read.
var ErrNoPack = errors.New("not a pack")

// Footer is the fixed-size end of a pack.
type Footer struct {
	Count       int
	IndexAt     int64
	IndexLength int64
	Index       digest.Digest
}

// EncodeTrailer encodes a pack's index and footer, to be written at offset at, right behind the last entry. It also
// returns the index's digest.
func EncodeTrailer(entries []Entry, at int64) ([]byte, digest.Digest, error) {
	if len(entries) > MaxEntries {
		return nil, "", fmt.Errorf("a pack of %d entries: at most %d", len(entries), MaxEntries)
	}
	b := make([]byte, 0, len(entries)*pieceRecord+FooterSize)
	var end int64
	for i, e := range entries {
		if err := checkEntry(e, end, at); err != nil {
			return nil, "", fmt.Errorf("pack entry %d: %w", i, err)
		}
		end = e.Offset + e.Length
		sum, err := ParseDigest(e.Digest)
		if err != nil {
			return nil, "", fmt.Errorf("pack entry %d: %w", i, err)
		}
		var kind byte
		if e.Piece != "" {
			kind = 1
		}
		b = append(b, kind)
		b = append(b, sum[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(e.Offset))
		b = binary.BigEndian.AppendUint32(b, uint32(e.Length))
		if e.Piece != "" {
			piece, err := ParseDigest(e.Piece)
			if err != nil {
				return nil, "", fmt.Errorf("pack entry %d: descriptor: %w", i, err)
			}
			b = append(b, piece[:]...)
		}
	}
	length := len(b)
	sum := SumOf(b)
	b = append(b, packMagic...)
	b = binary.BigEndian.AppendUint32(b, packVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(len(entries)))
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint64(b, uint64(length))
	return append(b, sum[:]...), sum.Digest(), nil
}

func checkEntry(e Entry, after, limit int64) error {
	switch {
	case e.Length < 0 || e.Length > MaxPiece:
		return fmt.Errorf("length %d: want 0 to %d", e.Length, MaxPiece)
	case e.Offset < after:
		return fmt.Errorf("offset %d: the entry before ends at %d", e.Offset, after)
	case e.Offset > limit-e.Length:
		return fmt.Errorf("ends at %d, but the index begins at %d", e.Offset+e.Length, limit)
	}
	return nil
}

// DecodeFooter decodes the last FooterSize bytes of a pack object that is size bytes long.
func DecodeFooter(b []byte, size int64) (Footer, error) {
	if len(b) != FooterSize || string(b[:8]) != packMagic {
		return Footer{}, fmt.Errorf("%w: no footer at the end of %d bytes", ErrNoPack, size)
	}
	if v := binary.BigEndian.Uint32(b[8:]); v != packVersion {
		return Footer{}, fmt.Errorf("%w: format version %d; this release reads %d", ErrNoPack, v, packVersion)
	}
	f := Footer{
		Count:       int(binary.BigEndian.Uint32(b[12:])),
		IndexAt:     int64(binary.BigEndian.Uint64(b[16:])),
		IndexLength: int64(binary.BigEndian.Uint64(b[24:])),
		Index:       Sum(b[32:64]).Digest(),
	}
	room := size - FooterSize - f.IndexAt
	if f.Count > MaxEntries || f.IndexAt < 0 || f.IndexLength < 0 || f.IndexLength != room ||
		f.IndexLength < int64(f.Count)*pieceRecord || f.IndexLength > int64(f.Count)*compositeRecord {
		return Footer{}, fmt.Errorf("%w: footer says %d entries in %d bytes at %d of %d", ErrNoPack, f.Count, f.IndexLength, f.IndexAt, size)
	}
	return f, nil
}

// DecodeTrailer decodes a pack's last bytes, from its index on; size is that of the whole object. It returns ErrNoPack
// for what is no trailer, and ErrCorrupt for an index that does not have the digest in the footer.
func DecodeTrailer(b []byte, size int64) ([]Entry, Footer, error) {
	if len(b) < FooterSize || len(b) > MaxTrailer || int64(len(b)) > size {
		return nil, Footer{}, fmt.Errorf("%w: a trailer of %d bytes", ErrNoPack, len(b))
	}
	f, err := DecodeFooter(b[len(b)-FooterSize:], size)
	if err != nil {
		return nil, Footer{}, err
	}
	b = b[:len(b)-FooterSize]
	if int64(len(b)) != f.IndexLength {
		return nil, Footer{}, fmt.Errorf("%w: %d bytes of index, want %d", ErrNoPack, len(b), f.IndexLength)
	}
	if got := SumOf(b).Digest(); got != f.Index {
		return nil, Footer{}, fmt.Errorf("pack index: %w: want %s, got %s", ErrCorrupt, f.Index, got)
	}
	entries := make([]Entry, 0, f.Count)
	var end int64
	for len(b) > 0 {
		if len(b) < pieceRecord || b[0] > 1 || b[0] == 1 && len(b) < compositeRecord {
			return nil, Footer{}, fmt.Errorf("%w: bad record %d", ErrNoPack, len(entries))
		}
		e := Entry{
			Digest: Sum(b[1:33]).Digest(),
			Offset: int64(binary.BigEndian.Uint64(b[33:])),
			Length: int64(binary.BigEndian.Uint32(b[41:])),
		}
		if b[0] == 1 {
			e.Piece = Sum(b[pieceRecord:compositeRecord]).Digest()
			b = b[compositeRecord:]
		} else {
			b = b[pieceRecord:]
		}
		if err := checkEntry(e, end, f.IndexAt); err != nil {
			return nil, Footer{}, fmt.Errorf("%w: record %d: %w", ErrNoPack, len(entries), err)
		}
		end = e.Offset + e.Length
		entries = append(entries, e)
	}
	if len(entries) != f.Count {
		return nil, Footer{}, fmt.Errorf("%w: %d records, but the footer says %d", ErrNoPack, len(entries), f.Count)
	}
	return entries, f, nil
}
