package catalog

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"bakefarm/imagestore"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// packageSets knows the numbers of the sets of packages that images have, how many images have each, and which have each package.
type packageSets struct {
	mu       sync.RWMutex
	numbers  map[imagestore.Sum]uint32
	postings []posting      // by number of the package
	refs     map[uint32]int // only the projection of versions reads and writes it
	gone     int            // sets that were removed and that postings still have; only the projection knows

	packages map[Package]int64 // numbers of packages that were met; only the projection of versions uses it
}

// posting is a list of ascending numbers of sets, as the differences between them in varints: most are of one byte. A set that was
// removed stays in it until it is made anew: its number is never used again, so no image is found by it.
type posting struct {
	packed []byte
	last   uint32
}

func (p *posting) add(set uint32) {
	p.packed = binary.AppendUvarint(p.packed, uint64(set-p.last))
	p.last = set
}

// each calls fn for every set.
func (p posting) each(fn func(set uint32)) {
	set := uint64(0)
	for packed := p.packed; len(packed) > 0; {
		d, n := binary.Uvarint(packed)
		set, packed = set+d, packed[n:]
		fn(uint32(set))
	}
}

// maxRemembered bounds packageSets.packages: more versions of packages than Debian has published of a suite.
const maxRemembered = 1 << 18

func newPackageSets() packageSets {
	return packageSets{numbers: map[imagestore.Sum]uint32{}, refs: map[uint32]int{}, packages: map[Package]int64{}}
}

func (p *packageSets) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.numbers)
	clear(p.refs)
	clear(p.packages)
	p.postings, p.gone = nil, 0
}

// with finds the sets that have a package. What is returned does not change.
func (p *packageSets) with(pkg int64) posting {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if pkg >= int64(len(p.postings)) {
		return posting{}
	}
	return p.postings[pkg]
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

// load reads the sets out of the file. Nobody else writes meanwhile.
func (p *packageSets) load(ctx context.Context, db *sql.DB) error {
	numbers, postings := map[imagestore.Sum]uint32{}, []posting(nil)
	err := eachRow(ctx, db, func(rows *sql.Rows) error {
		var number uint32
		var raw, packed sql.RawBytes
		if err := rows.Scan(&number, &raw, &packed); err != nil {
			return err
		}
		var sum imagestore.Sum
		if copy(sum[:], raw) != len(sum) {
			return fmt.Errorf("set of packages %d: its digest has %d bytes", number, len(raw))
		}
		numbers[sum] = number
		list, err := unpackDeltas(packed)
		postings = post(postings, number, list)
		return err
	}, "SELECT num, digest, packages FROM package_sets ORDER BY num")
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.numbers, p.postings, p.gone = numbers, postings, 0
	return nil
}

// post notes that a set, whose number is above all before, has packages.
func post(postings []posting, set uint32, packages []int64) []posting {
	for _, pkg := range packages {
		if grow := pkg + 1 - int64(len(postings)); grow > 0 {
			postings = append(postings, make([]posting, grow)...)
		}
		postings[pkg].add(set)
	}
	return postings
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
	met   map[Package]int64

	insertPackage *sql.Stmt // closed with the transaction
}

func newSetWriter(tx *sql.Tx, known *packageSets) *setWriter {
	return &setWriter{
		tx: tx, known: known, added: map[imagestore.Sum]uint32{}, lists: map[uint32][]int64{}, delta: map[uint32]int{},
		gone: map[uint32]imagestore.Sum{}, met: map[Package]int64{},
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
		n, err := w.packageNumber(ctx, Package{Name: p.Name, Version: p.Version, Arch: p.Arch})
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

func (w *setWriter) packageNumber(ctx context.Context, p Package) (int64, error) {
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

// flush removes sets that no image has any more.
func (w *setWriter) flush(ctx context.Context) error {
	for set, delta := range w.delta {
		if w.known.refs[set]+delta > 0 {
			continue
		}
		var raw []byte
		if err := w.tx.QueryRowContext(ctx, "DELETE FROM package_sets WHERE num = ? RETURNING digest", set).Scan(&raw); err != nil {
			return err
		}
		w.gone[set] = imagestore.Sum(raw)
	}
	return nil
}

// committed makes what was written known. It reports whether there is so much that has gone that the sets are better loaded anew.
func (w *setWriter) committed() (stale bool) {
	k := w.known
	k.mu.Lock()
	defer k.mu.Unlock()
	for sum, n := range w.added {
		k.numbers[sum] = n
	}
	for _, n := range slices.Sorted(maps.Keys(w.lists)) {
		k.postings = post(k.postings, n, w.lists[n])
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
	k.gone += len(w.gone)
	if len(k.packages)+len(w.met) > maxRemembered {
		clear(k.packages)
	}
	for p, n := range w.met {
		k.packages[p] = n
	}
	return k.gone > max(len(k.numbers), minStale)
}

// minStale is how many sets that have gone are borne in any case.
const minStale = 1000

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
