package catalog

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"bakefarm/imagestore"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// packageSets knows the numbers of the sets of packages that images have, and how many images have each.
type packageSets struct {
	mu      sync.RWMutex
	numbers map[imagestore.Sum]uint32
	refs    map[uint32]int // only the projection of versions reads and writes it

	packages map[recipe.LockedPackage]int64 // numbers of packages that were met; only the projection of versions uses it
}

// maxRemembered bounds packageSets.packages.
const maxRemembered = 1 << 17

func newPackageSets() packageSets {
	return packageSets{numbers: map[imagestore.Sum]uint32{}, refs: map[uint32]int{}, packages: map[recipe.LockedPackage]int64{}}
}

func (p *packageSets) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.numbers)
	clear(p.refs)
	clear(p.packages)
}

func (p *packageSets) has(set digest.Digest) bool {
	sum, err := imagestore.ParseDigest(set)
	if err != nil {
		return false
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	_, ok := p.numbers[sum]
	return ok
}

func (p *packageSets) refer(sets []uint32) {
	for _, n := range sets {
		p.refs[n]++
	}
}

func (p *packageSets) load(ctx context.Context, db *sql.DB) error {
	return eachRow(ctx, db, func(rows *sql.Rows) error {
		var number uint32
		var raw []byte
		if err := rows.Scan(&number, &raw); err != nil {
			return err
		}
		var sum imagestore.Sum
		if copy(sum[:], raw) != len(sum) {
			return fmt.Errorf("set of packages %d: its digest has %d bytes", number, len(raw))
		}
		p.numbers[sum] = number
		return nil
	}, "SELECT num, digest FROM package_sets")
}

// setWriter writes the sets of a batch of versions. What the batch changes in packageSets it keeps to itself until the
// batch is committed.
type setWriter struct {
	tx    *sql.Tx
	known *packageSets

	added map[imagestore.Sum]uint32
	lists map[uint32][]int64 // the packages of the added sets
	delta map[uint32]int     // of references
	gone  map[uint32]imagestore.Sum
	met   map[recipe.LockedPackage]int64

	insertPackage *sql.Stmt // closed with the transaction
}

func newSetWriter(tx *sql.Tx, known *packageSets) *setWriter {
	return &setWriter{
		tx: tx, known: known, added: map[imagestore.Sum]uint32{}, lists: map[uint32][]int64{}, delta: map[uint32]int{},
		gone: map[uint32]imagestore.Sum{}, met: map[recipe.LockedPackage]int64{},
	}
}

// number finds a set's number.
func (w *setWriter) number(set digest.Digest) (uint32, bool) {
	sum, err := imagestore.ParseDigest(set)
	if err != nil {
		return 0, false
	}
	if n, ok := w.added[sum]; ok {
		return n, true
	}
	w.known.mu.RLock()
	defer w.known.mu.RUnlock()
	n, ok := w.known.numbers[sum]
	return n, ok
}

func (w *setWriter) use(sets []uint32) {
	for _, n := range sets {
		w.delta[n]++
	}
}

func (w *setWriter) drop(sets []uint32) {
	for _, n := range sets {
		w.delta[n]--
	}
}

// add writes a set, and returns its number.
func (w *setWriter) add(ctx context.Context, set digest.Digest, list []recipe.LockedPackage) (uint32, error) {
	sum, err := imagestore.ParseDigest(set)
	if err != nil {
		return 0, err
	}
	numbers := make([]int64, 0, len(list))
	for _, p := range list {
		n, err := w.packageNumber(ctx, recipe.LockedPackage{Name: p.Name, Version: p.Version, Arch: p.Arch})
		if err != nil {
			return 0, err
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	result, err := w.tx.ExecContext(ctx, "INSERT INTO package_sets (digest, packages) VALUES (?, ?)", sum[:], packDeltas(numbers))
	if err != nil {
		return 0, err
	}
	id, err := result.LastInsertId()
	if err != nil {
		return 0, err
	}
	if id > maxSet {
		return 0, errors.New("more sets of packages than numbers: delete the catalog's file, and it is made anew")
	}
	number := uint32(id)
	w.added[sum], w.lists[number] = number, numbers
	w.delta[number] += 0 // so that it goes again if no image comes to have it
	return number, nil
}

// maxSet is the largest number of a set.
const maxSet = 1<<32 - 1

func (w *setWriter) packageNumber(ctx context.Context, p recipe.LockedPackage) (int64, error) {
	if n, ok := w.known.packages[p]; ok {
		return n, nil
	}
	if n, ok := w.met[p]; ok {
		return n, nil
	}
	// The update that changes nothing makes the statement return the row that was there.
	var n int64
	if w.insertPackage == nil {
		var err error
		if w.insertPackage, err = w.tx.PrepareContext(ctx, `INSERT INTO packages (name, arch, version) VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET name = name RETURNING num`); err != nil {
			return 0, err
		}
	}
	err := w.insertPackage.QueryRowContext(ctx, p.Name, p.Arch, p.Version).Scan(&n)
	w.met[p] = n
	return n, err
}

// chunkBits is how many sets a row of postings has bits for.
const chunkBits = 4096

// flip is a bit of a posting that changes.
type flip struct {
	pkg int64
	set uint32
	on  bool
}

// flush removes sets that no image has any more, and writes the postings.
func (w *setWriter) flush(ctx context.Context) error {
	var flips []flip
	for set, list := range w.lists {
		for _, p := range list {
			flips = append(flips, flip{p, set, true})
		}
	}
	for set, delta := range w.delta {
		if w.known.refs[set]+delta > 0 {
			continue
		}
		var raw, packed []byte
		if err := w.tx.QueryRowContext(ctx, "DELETE FROM package_sets WHERE num = ? RETURNING digest, packages", set).Scan(&raw, &packed); err != nil {
			return err
		}
		w.gone[set] = imagestore.Sum(raw)
		list, err := unpackDeltas(packed)
		if err != nil {
			return err
		}
		for _, p := range list {
			flips = append(flips, flip{p, set, false}) // after the one that turned it on, if that is of this batch
		}
	}
	slices.SortStableFunc(flips, func(a, b flip) int {
		return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.set/chunkBits, b.set/chunkBits))
	})
	return w.writePostings(ctx, flips)
}

// writePostings makes the changes, which are sorted by package and chunk.
func (w *setWriter) writePostings(ctx context.Context, flips []flip) error {
	if len(flips) == 0 {
		return nil
	}
	read, err := w.tx.PrepareContext(ctx, "SELECT bits FROM postings WHERE package = ? AND chunk = ?")
	if err != nil {
		return err
	}
	write, err := w.tx.PrepareContext(ctx, "INSERT OR REPLACE INTO postings (package, chunk, bits) VALUES (?, ?, ?)")
	if err != nil {
		return err
	}
	for len(flips) > 0 {
		pkg, chunk := flips[0].pkg, flips[0].set/chunkBits
		n := 1
		for n < len(flips) && flips[n].pkg == pkg && flips[n].set/chunkBits == chunk {
			n++
		}
		var bits []byte
		if err := read.QueryRowContext(ctx, pkg, chunk).Scan(&bits); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		for _, f := range flips[:n] {
			at, mask := int(f.set%chunkBits/8), byte(1)<<(f.set%8)
			if grow := at + 1 - len(bits); grow > 0 {
				bits = append(bits, make([]byte, grow)...)
			}
			if f.on {
				bits[at] |= mask
			} else {
				bits[at] &^= mask
			}
		}
		for len(bits) > 0 && bits[len(bits)-1] == 0 {
			bits = bits[:len(bits)-1]
		}
		if len(bits) > 0 {
			_, err = write.ExecContext(ctx, pkg, chunk, bits)
		} else {
			_, err = w.tx.ExecContext(ctx, "DELETE FROM postings WHERE package = ? AND chunk = ?", pkg, chunk)
		}
		if err != nil {
			return err
		}
		flips = flips[n:]
	}
	return nil
}

// committed makes what was written known.
func (w *setWriter) committed() {
	k := w.known
	k.mu.Lock()
	defer k.mu.Unlock()
	for sum, n := range w.added {
		k.numbers[sum] = n
	}
	for n, delta := range w.delta {
		if k.refs[n] += delta; k.refs[n] <= 0 {
			delete(k.refs, n)
		}
	}
	for n, sum := range w.gone {
		delete(k.refs, n)
		if k.numbers[sum] == n {
			delete(k.numbers, sum)
		}
	}
	if len(k.packages)+len(w.met) > maxRemembered {
		clear(k.packages)
	}
	for p, n := range w.met {
		k.packages[p] = n
	}
}

// packDeltas writes ascending numbers as the differences between them, in varints.
func packDeltas(ascending []int64) []byte {
	packed := make([]byte, 0, 2*len(ascending))
	var last int64
	for _, n := range ascending {
		packed = binary.AppendUvarint(packed, uint64(n-last))
		last = n
	}
	return packed
}

func unpackDeltas(packed []byte) ([]int64, error) {
	var numbers []int64
	var last int64
	for len(packed) > 0 {
		d, n := binary.Uvarint(packed)
		if n <= 0 {
			return nil, errors.New("a list of numbers is broken")
		}
		last, packed = last+int64(d), packed[n:]
		numbers = append(numbers, last)
	}
	return numbers, nil
}
