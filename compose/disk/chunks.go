package disk

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"hash/crc32"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	grain     = 64 << 10 // what chunks are made of
	maxGrains = 16       // of a chunk: 1 MiB
	// LayerSize is the size of a layer in bytes, until there would be more than MaxLayers.
	LayerSize = 64 << 20
	// MaxLayers keeps the manifest of the largest disk below what registries take.
	MaxLayers = 16 << 10

	hashesAtOnce = 2 // layers that are read back to be hashed: each has a piece of up to 1 MiB in memory
)

// LayerSizeOf returns the size of the layers of a disk: LayerSize, doubled as often as it takes.
func LayerSizeOf(size int64) int64 {
	n := int64(LayerSize)
	for (size+n-1)/n > MaxLayers {
		n *= 2
	}
	return n
}

// Layer is a run of the disk as a blob: all have the disk's layer size but the last.
type Layer struct {
	Digest digest.Digest
	Size   int64
	Parts  []Part

	start int64 // on the disk
}

// Part is a run of a layer: a piece, or a hole of zeros when it has no digest.
type Part struct {
	Digest digest.Digest
	Size   int64 // in bytes
}

// Chunks cuts what is written to a disk into pieces and layers. Grains that are all zeros are holes. A chunk ends where a
// grain's own bytes say so, after 1 MiB, or at a layer's end: the same run of grains makes the same pieces wherever it
// stands on the disk.
//
// Writes may come in any order, but for this: a grain is written in one go, ascending.
type Chunks struct {
	size, layer int64

	at     int64   // where the open chunk begins
	open   []byte  // its bytes, from at on; nil: none is open
	chunks []chunk // the names of the last ones may be on their way (named)

	naming   *naming
	hashing  *hashing
	stop     context.CancelFunc // of what is foreseen
	foreseen sync.WaitGroup
	hashed   map[int64]hashed // by layer: those whose chunks have come in order
	current  int64            // layer that is being hashed; -1: none
	end      int64            // of what has been hashed of it
	count    int              // chunks in it
	bytes    int64            // in them
	paused   *paused
}

// paused is a layer that is hashed as far as it has been written, while others are.
type paused struct {
	Layer int64  `json:"layer"`
	End   int64  `json:"end"`
	Count int    `json:"count"`
	State []byte `json:"state"` // of the hash
}

type chunk struct {
	offset int64
	Part
}

type hashed struct {
	digest  digest.Digest
	chunks  int
	pending <-chan digest.Digest // not nil: the digest is on its way (settle)
}

// NewChunks collects the chunks of a disk of size bytes. put stores a piece and names it; it keeps no reference to data. It is
// called by another goroutine, one piece at a time in the order of the writes, until Flush, Prefix, Layers or Close has
// returned.
func NewChunks(size int64, put func(data []byte) (digest.Digest, error)) *Chunks {
	return &Chunks{size: size, layer: LayerSizeOf(size), naming: newNaming(put), hashed: make(map[int64]hashed), current: -1, hashing: newHashing()}
}

// Close ends what goes on beside the writing. It must be called, also after an error.
func (c *Chunks) Close() {
	if c.stop != nil {
		c.stop()
	}
	c.foreseen.Wait()
	c.naming.close()
	c.hashing.close()
}

// WriteAt takes bytes of the disk.
func (c *Chunks) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > c.size-off {
		return 0, fmt.Errorf("disk: %d bytes at %d of a disk of %d", len(p), off, c.size)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if c.open != nil && (at < c.at+int64(len(c.open)) || at >= c.at+roundUp(int64(len(c.open)), grain)+grain) {
			if err := c.flush(); err != nil {
				return done, err
			}
		}
		if c.open == nil {
			c.at = at / grain * grain
			c.open = newBuffer()
		}
		// A gap within the grain, or up to the next one's beginning, is zeros.
		for gap := at - c.at - int64(len(c.open)); gap > 0; gap = at - c.at - int64(len(c.open)) {
			n := min(gap, grain-int64(len(c.open))%grain)
			c.open = append(c.open, zeroGrain[:n]...)
			if err := c.grown(); err != nil {
				return done, err
			}
			if c.open == nil {
				c.at, c.open = at/grain*grain, newBuffer()
			}
		}
		n := min(len(p)-done, grain-len(c.open)%grain)
		c.open = append(c.open, p[done:done+n]...)
		done += n
		if err := c.grown(); err != nil {
			return done, err
		}
	}
	return done, nil
}

var (
	zeroGrain  [grain]byte
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// grown looks at a grain that has become full: it may end the chunk.
func (c *Chunks) grown() error {
	n := len(c.open)
	if n == 0 || n%grain != 0 {
		return nil
	}
	last := c.open[n-grain:]
	if bytes.Equal(last, zeroGrain[:]) {
		c.open = c.open[:n-grain]
		return c.flush()
	}
	// The checksum decides, so that after a change the ends fall into step again; every fourth, on the average.
	if n == maxGrains*grain || crc32.Checksum(last, castagnoli)%4 == 0 || (c.at+int64(n))%c.layer == 0 {
		return c.flush()
	}
	return nil
}

// Flush stores what has not been stored yet: nothing may be written afterwards.
func (c *Chunks) Flush() error {
	if err := c.flush(); err != nil {
		return err
	}
	return c.named()
}

// named waits until everything that was flushed has been put.
func (c *Chunks) named() error {
	names, err := c.naming.wait()
	if err != nil {
		return err
	}
	last := c.chunks[len(c.chunks)-len(names):]
	for i, d := range names {
		last[i].Digest = d
	}
	return nil
}

// flush ends the open chunk, padding its last grain.
func (c *Chunks) flush() error {
	if c.open == nil {
		return nil
	}
	data := c.open
	c.open = nil
	if pad := roundUp(int64(len(data)), grain) - int64(len(data)); pad > 0 {
		pad = min(pad, c.size-c.at-int64(len(data)))
		data = append(data, zeroGrain[:pad]...)
		if bytes.Equal(data[max(0, len(data)-grain):], zeroGrain[:min(len(data), grain)]) && len(data)%grain == 0 {
			data = data[:len(data)-grain]
		}
	}
	p := &piece{data: data}
	if len(data) == 0 {
		p.users.Store(1)
		p.free()
		return nil
	}
	p.users.Store(2)
	c.chunks = append(c.chunks, chunk{c.at, Part{Size: int64(len(data))}})
	err := c.naming.put(p)
	c.hash(c.at, p)
	return err
}

// hash feeds a chunk to its layer's hash when it comes in order.
func (c *Chunks) hash(off int64, p *piece) {
	layer, end := off/c.layer, off+int64(len(p.data))
	if layer != c.current || off < c.end {
		c.endLayer()
		if end == c.size && off-layer*c.layer > few(c.layer) { // the backup table
			p.free()
			return
		}
		if was := c.paused; was != nil && was.Layer == layer && off >= was.End {
			c.resume()
			c.hash(off, p)
			return
		}
		if _, seen := c.hashed[layer]; seen { // out of order: read again in the end
			c.leave(off, p)
			return
		}
		c.current, c.end, c.count, c.bytes = layer, layer*c.layer, 0, 0
		c.hashing.begin()
	}
	// As in endLayer: what lies between zeros, on a disk whose layers are large, is mostly the same in many of them.
	if off-c.end > LayerSize/2 && c.bytes <= few(c.layer) {
		c.leave(off, p)
		return
	}
	c.hashing.zeros(off - c.end)
	c.bytes += int64(len(p.data))
	c.hashing.data(p)
	c.end = end
	c.count++
}

// leave leaves the layer that a piece is in to Layer.name.
func (c *Chunks) leave(off int64, p *piece) {
	c.hashed[off/c.layer] = hashed{}
	c.current = -1
	p.free()
}

// pause keeps the hash of the layer that is being written, to go on with when other layers have been.
func (c *Chunks) pause() error {
	if err := c.flush(); err != nil || c.current < 0 {
		return err
	}
	state, err := c.hashing.state()
	c.paused = &paused{c.current, c.end, c.count, state}
	c.current = -1
	return err
}

// resume goes on with the layer that was paused.
func (c *Chunks) resume() {
	p := c.paused
	c.paused = nil
	c.current, c.end, c.count, c.bytes = p.Layer, p.End, p.Count, c.layer
	c.hashing.restore(p.State)
}

func (c *Chunks) endLayer() {
	if c.current < 0 {
		return
	}
	// One with next to nothing in it is left to Layer.name, which knows many of them: a large disk has hundreds with a copy of
	// the superblock or a bitmap and zeros, most of them the same, and the same whatever the app.
	if rest := min((c.current+1)*c.layer, c.size) - c.end; c.bytes > few(c.layer) || rest < c.layer/2 {
		c.hashed[c.current] = hashed{chunks: c.count, pending: c.hashing.finish(rest)}
	}
	c.current = -1
}

// settle waits for the digests that are on their way.
func (c *Chunks) settle() error {
	if err := c.named(); err != nil {
		return err
	}
	for layer, h := range c.hashed {
		if h.pending != nil {
			c.hashed[layer] = hashed{digest: <-h.pending, chunks: h.chunks}
		}
	}
	if c.hashing.err != nil {
		return fmt.Errorf("disk: hash: %w", c.hashing.err)
	}
	return nil
}

// Layers returns the layers of the whole disk, in order. get reads a piece back: for layers that were not written in
// order.
func (c *Chunks) Layers(ctx context.Context, get func(ctx context.Context, p Part) ([]byte, error)) ([]Layer, error) {
	if err := c.flush(); err != nil {
		return nil, err
	}
	c.endLayer()
	if c.paused != nil {
		c.resume()
		c.endLayer()
	}
	if err := c.settle(); err != nil {
		return nil, err
	}
	slices.SortFunc(c.chunks, func(a, b chunk) int { return cmp.Compare(a.offset, b.offset) })
	layers := make([]Layer, (c.size+c.layer-1)/c.layer)
	rest := c.chunks
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(hashesAtOnce)
	for i := range layers {
		l := &layers[i]
		start := int64(i) * c.layer
		l.Size = min(c.layer, c.size-start)
		at, count := start, 0
		for ; len(rest) > 0 && rest[0].offset < start+l.Size; rest = rest[1:] {
			k := rest[0]
			if k.offset < at {
				g.Wait()
				return nil, fmt.Errorf("disk: byte %d was written twice", k.offset)
			}
			if k.offset > at {
				l.Parts = append(l.Parts, Part{Size: k.offset - at})
			}
			l.Parts = append(l.Parts, k.Part)
			at = k.offset + k.Size
			count++
		}
		if at < start+l.Size {
			l.Parts = append(l.Parts, Part{Size: start + l.Size - at})
		}
		h := c.hashed[int64(i)]
		switch {
		case count == 0:
			l.Digest = zeroDigest(l.Size)
		case h.chunks == count:
			l.Digest = h.digest
		default:
			g.Go(func() error { return l.name(ctx, get) })
		}
	}
	return layers, g.Wait()
}

// few is how many bytes in pieces a layer has at the most that is hashed once and then known: a copy of the superblock with
// its descriptors, which large disks have more of.
func few(layer int64) int64 { return max(mebi, layer/64) }

// maxKnown bounds the layers that are known: some hundred bytes each.
const maxKnown = 4096

var known struct {
	sync.Mutex
	layers map[string]digest.Digest // by layout
}

// layout is what a layer's digest follows from: its pieces and where they stand.
func (l *Layer) layout() (layout string, pieces int64) {
	var b strings.Builder
	for _, p := range l.Parts {
		fmt.Fprintf(&b, "%d %s\n", p.Size, p.Digest)
		if p.Digest != "" {
			pieces += p.Size
		}
	}
	return b.String(), pieces
}

// name gives a layer its digest, of its pieces as get reads them. That of one with few bytes in it is remembered.
func (l *Layer) name(ctx context.Context, get func(ctx context.Context, p Part) ([]byte, error)) error {
	layout, pieces := l.layout()
	if pieces > few(l.Size) {
		return l.hash(ctx, get)
	}
	known.Lock()
	d, ok := known.layers[layout]
	known.Unlock()
	if ok {
		l.Digest = d
		return nil
	}
	if err := l.hash(ctx, get); err != nil {
		return err
	}
	known.Lock()
	defer known.Unlock()
	if len(known.layers) >= maxKnown || known.layers == nil {
		known.layers = make(map[string]digest.Digest)
	}
	known.layers[layout] = l.Digest
	return nil
}

// hash reads the pieces of a layer, the next ones while one is hashed.
func (l *Layer) hash(ctx context.Context, get func(ctx context.Context, p Part) ([]byte, error)) error {
	const ahead = 2 // pieces
	read := make(chan []byte, ahead)
	g, reading := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(read)
		for _, p := range l.Parts {
			if p.Digest == "" {
				continue
			}
			data, err := get(reading, p)
			if err != nil {
				return fmt.Errorf("disk: piece %s: %w", p.Digest, err)
			}
			select {
			case read <- data:
			case <-reading.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	h := sha256.New()
	for _, p := range l.Parts {
		if p.Digest == "" {
			for n := p.Size; n > 0 && ctx.Err() == nil; n -= mebi {
				hashZeros(h, min(n, mebi))
			}
			continue
		}
		data, ok := <-read
		if !ok {
			break // the error is the reader's
		}
		h.Write(data)
	}
	if err := cmp.Or(g.Wait(), ctx.Err()); err != nil {
		return err
	}
	l.Digest = digest.NewDigest(digest.SHA256, h)
	return nil
}

var zeroDigests sync.Map // size → func() digest.Digest

// zeroDigest is the digest of size zeros; computed once for each size.
func zeroDigest(size int64) digest.Digest {
	once, _ := zeroDigests.LoadOrStore(size, sync.OnceValue(func() digest.Digest {
		h := sha256.New()
		hashZeros(h, size)
		return digest.NewDigest(digest.SHA256, h)
	}))
	return once.(func() digest.Digest)()
}

func hashZeros(h hash.Hash, n int64) {
	for ; n > 0; n -= grain {
		h.Write(zeroGrain[:min(n, grain)])
	}
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
