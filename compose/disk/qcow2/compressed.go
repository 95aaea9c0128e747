package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

const (
	compressedBit   = 1 << 62
	compressedShift = 62 - (clusterBits - 8) // of the number of sectors in an L2 entry
)

// WriteCompressed writes the compressed image of a disk and returns its size in bytes. Clusters that don't shrink stand
// as they are. What it does not write to out must read as zeros.
func WriteCompressed(out io.WriterAt, size int64, extents []Extent, disk Disk) (int64, error) {
	checked, err := New(size, extents)
	if err != nil {
		return 0, err
	}
	c := compressor{out: out, at: ClusterSize, tables: make(map[int64][]uint64)}
	for _, e := range checked.extents {
		if err := c.extent(e, disk); err != nil {
			return 0, err
		}
	}
	return c.finish(size)
}

type compressor struct {
	out    io.WriterAt
	at     int64 // where the next bytes go
	tables map[int64][]uint64
	refs   []uint16 // by cluster of the image
}

// batch is how many clusters are compressed at a time.
const batch = 64

func (c *compressor) extent(e Extent, disk Disk) error {
	r, err := disk(e.Offset, e.Size)
	if err != nil {
		return err
	}
	defer r.Close()
	var plain, packed [batch][]byte
	for done := int64(0); done < e.Size; {
		n := 0
		for ; n < batch && done < e.Size; n++ {
			plain[n] = make([]byte, ClusterSize)
			part := plain[n][:min(ClusterSize, e.Size-done)]
			if _, err := io.ReadFull(r, part); err != nil {
				return fmt.Errorf("qcow2: the disk at %d: %w", e.Offset+done, err)
			}
			done += int64(len(part))
		}
		var g errgroup.Group
		g.SetLimit(runtime.GOMAXPROCS(0))
		for k := range n {
			g.Go(func() error {
				packed[k] = pack(plain[k])
				return nil
			})
		}
		g.Wait()
		first := (e.Offset+done+ClusterSize-1)/ClusterSize - int64(n)
		for k := range n {
			if err := c.put(first+int64(k), plain[k], packed[k]); err != nil {
				return err
			}
		}
	}
	return nil
}

// encoders are used by one goroutine each: what one makes of a cluster depends on nothing else.
var encoders = make(chan *zstd.Encoder, 64)

func pack(plain []byte) []byte {
	var z *zstd.Encoder
	select {
	case z = <-encoders:
	default:
		var err error
		if z, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(ClusterSize)); err != nil {
			panic("qcow2: constant options: " + err.Error())
		}
	}
	out := z.EncodeAll(plain, make([]byte, 0, ClusterSize))
	select {
	case encoders <- z:
	default:
	}
	return out
}

// put writes one cluster of the disk.
func (c *compressor) put(cluster int64, plain, packed []byte) error {
	table := cluster / l2Entries
	if c.tables[table] == nil {
		c.tables[table] = make([]uint64, l2Entries)
	}
	entry := &c.tables[table][cluster%l2Entries]
	if len(packed) >= ClusterSize-512 {
		c.at = ceil(c.at, ClusterSize) * ClusterSize
		*entry = uint64(c.at) | copied
		return c.write(plain)
	}
	// The entry says how many sectors follow the one that the data begins in.
	sectors := (c.at+int64(len(packed))-1)/512 - c.at/512
	*entry = compressedBit | uint64(sectors)<<compressedShift | uint64(c.at)
	return c.write(packed)
}

// write appends bytes and counts a reference to every cluster that they touch.
func (c *compressor) write(data []byte) error {
	if _, err := c.out.WriteAt(data, c.at); err != nil {
		return err
	}
	first, last := c.at/ClusterSize, (c.at+int64(len(data))-1)/ClusterSize
	c.refer(first, last-first+1)
	c.at += int64(len(data))
	return nil
}

func (c *compressor) refer(first, count int64) {
	for int64(len(c.refs)) < first+count {
		c.refs = append(c.refs, 0)
	}
	for k := first; k < first+count; k++ {
		c.refs[k]++
	}
}

// finish writes the tables after the data, and then the header.
func (c *compressor) finish(size int64) (int64, error) {
	be := binary.BigEndian
	c.at = ceil(c.at, ClusterSize) * ClusterSize
	l1 := make([]byte, ceil(ceil(size, l2Entries*ClusterSize)*8, ClusterSize)*ClusterSize)
	for _, t := range slices.Sorted(maps.Keys(c.tables)) {
		be.PutUint64(l1[t*8:], uint64(c.at)|copied)
		var raw []byte
		for _, entry := range c.tables[t] {
			raw = be.AppendUint64(raw, entry)
		}
		if err := c.write(raw); err != nil {
			return 0, err
		}
	}
	l1At := c.at / ClusterSize
	if err := c.write(l1); err != nil {
		return 0, err
	}
	c.refer(0, 1)
	// The refcounts count themselves.
	start := c.at / ClusterSize
	var blocks, table int64
	for {
		total := start + blocks + table
		b := ceil(total, refEntries)
		t := ceil(b*8, ClusterSize)
		if b == blocks && t == table {
			break
		}
		blocks, table = b, t
	}
	c.refer(start, blocks+table)
	raw := make([]byte, (blocks+table)*ClusterSize)
	for k := range blocks {
		be.PutUint64(raw[k*8:], uint64((start+table+k)*ClusterSize))
	}
	for k, n := range c.refs {
		be.PutUint16(raw[table*ClusterSize+int64(k)*2:], n)
	}
	if _, err := c.out.WriteAt(raw, c.at); err != nil {
		return 0, err
	}
	if _, err := c.out.WriteAt(header(size, start, table, l1At, true), 0); err != nil {
		return 0, err
	}
	return c.at + int64(len(raw)), nil
}
