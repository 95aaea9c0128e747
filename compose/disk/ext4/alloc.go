package ext4

import (
	"cmp"
	"slices"
)

// run is a row of blocks.
type run struct {
	start, count int64
}

// allocator gives out blocks in one direction, around the metadata.
type allocator struct {
	geometry
	next    int64 // block
	used    []run // ascending, adjacent ones merged
	freed   []run
	missing int64 // blocks that were asked for when there were none left
}

// room returns the next place at or after from where count blocks that are not metadata stand in a row.
func (a *allocator) room(from, count, align int64) (int64, bool) {
	for {
		from = (from + align - 1) / align * align
		group := from / groupBlocks
		if group >= a.groups {
			return 0, false
		}
		start := group * groupBlocks
		if first := start + a.overhead(group); from < first {
			from = (first + grainBlocks - 1) / grainBlocks * grainBlocks
		}
		if a.metadata(from, count) {
			from = (from/groupBlocks + 1) * groupBlocks
			continue
		}
		return from, from+count <= a.blocks
	}
}

// metadata reports whether count blocks from a place that is none on run into metadata. A run that ends in the next
// group's plain data does not.
func (a *allocator) metadata(from, count int64) bool {
	group := from / groupBlocks
	last := (from + count - 1) / groupBlocks
	return last > group && (last >= a.groups || a.overhead(last) > 0)
}

// take gives out count blocks in a row, at a multiple of align; ok is false when there is no room. count is at most
// grainBlocks.
func (a *allocator) take(count, align int64) (block int64, ok bool) {
	block, ok = a.room(a.next, count, align)
	if a.missing > 0 || !ok {
		a.missing += count
		return 0, false
	}
	a.next = block + count
	if n := len(a.used); n > 0 && a.used[n-1].start+a.used[n-1].count == block {
		a.used[n-1].count += count
	} else {
		a.used = append(a.used, run{block, count})
	}
	return block, true
}

// align makes the next block stand on a grain.
func (a *allocator) align() { a.next = (a.next + grainBlocks - 1) / grainBlocks * grainBlocks }

func (a *allocator) free(r run) { a.freed = append(a.freed, r) }

// bitmaps calls fn for every group in order, with its block bitmap; nil when nothing but its own superblock's copy
// is in use and the kernel can make the bitmap itself.
func (a *allocator) bitmaps(fn func(group int64, bitmap []byte, free int64) error) error {
	slices.SortFunc(a.freed, func(x, y run) int { return cmp.Compare(x.start, y.start) })
	used, freed := a.used, a.freed
	var bitmap [BlockSize]byte
	for group := range a.groups {
		start, size := group*groupBlocks, a.groupSize(group)
		overhead := a.overhead(group)
		data, dropped := within(&used, start, start+size), within(&freed, start, start+size)
		if len(data) == 0 && group != leader(group) && group != a.groups-1 {
			if err := fn(group, nil, size-overhead); err != nil {
				return err
			}
			continue
		}
		clear(bitmap[:])
		mark(bitmap[:], 0, overhead, true)
		inUse := overhead
		for _, r := range data {
			mark(bitmap[:], r.start-start, r.count, true)
			inUse += r.count
		}
		for _, r := range dropped {
			mark(bitmap[:], r.start-start, r.count, false)
			inUse -= r.count
		}
		mark(bitmap[:], size, groupBlocks-size, true) // what lies beyond the end
		if err := fn(group, bitmap[:], size-inUse); err != nil {
			return err
		}
	}
	return nil
}

// within takes from the front of sorted runs what lies before end, clipped to start.
func within(runs *[]run, start, end int64) []run {
	var out []run
	for len(*runs) > 0 && (*runs)[0].start < end {
		r := (*runs)[0]
		from, to := max(r.start, start), min(r.start+r.count, end)
		out = append(out, run{from, to - from})
		if r.start+r.count > end {
			break // the rest is the next group's
		}
		*runs = (*runs)[1:]
	}
	return out
}

// mark sets or clears count bits from first on.
func mark(bitmap []byte, first, count int64, set bool) {
	for i := first; i < first+count; {
		if i%8 == 0 && first+count-i >= 8 {
			bitmap[i/8] = 0
			if set {
				bitmap[i/8] = 0xff
			}
			i += 8
			continue
		}
		if set {
			bitmap[i/8] |= 1 << (i % 8)
		} else {
			bitmap[i/8] &^= 1 << (i % 8)
		}
		i++
	}
}
