// Package possession knows what a repository has shown to have. A digest is no proof: it stands in manifests, Locks and logs.
// So a bake may only use chunks that were sent for its repository or proven to be there, however long the store has had them
// from somebody else, and the answer to "which are missing?" says nothing about others.
//
//	POST /v1/bakes ──▶ Holds: all? ──▶ Accept (the manifest's chunks are the repository's from now on)
//	                     │ no: 409, missing, challenge
//	                     ├─▶ POST /v1/chunks?name=…   ──▶ Sent
//	                     └─▶ POST /v1/proofs          ──▶ Prove: HMAC-SHA256(challenge, chunk), for what the store has already
//
// Records are few and small, because a re-bake's context is nearly the one before: the last manifests that were accepted, and
// what was sent or proven since. They expire after bus.PossessionTTL, as contexts do: then chunks are sent again.
//
//	name@accepted       the latest manifests
//	name@sent@ID        sums of chunks
//	name@challenge@HEX  a challenge that may be answered until the record is ChallengeTime old
package possession

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/recipe"

	"github.com/oklog/ulid/v2"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	// ChallengeTime is how long a challenge may be answered.
	ChallengeTime = time.Hour
	// MaxProofs is how many chunks may be proven at a time.
	MaxProofs = 10_000

	manifests   = 8       // that are remembered of a repository: branches take turns
	sumsPerSent = 16_384  // in one record: 512 KiB
	cachedSums  = 1 << 18 // of manifests, in memory: 8 MiB
	readers     = 4       // chunks that are read at the same time to verify proofs
)

// ErrChallenge says that a challenge was not made for this repository, or is too old.
var ErrChallenge = errors.New("no challenge of this repository's that may still be answered: post the bake again for another")

// Records is what this package needs of bus.Bus.Possessions.
type Records interface {
	Get(ctx context.Context, key string) (farm.Possession, uint64, error)
	Create(ctx context.Context, key string, v farm.Possession) (uint64, error)
	Update(ctx context.Context, key string, v farm.Possession, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string, revision uint64) error
	List(ctx context.Context, keyPrefix string) (map[string]farm.Possession, error)
}

var _ Records = (*bus.Bucket[farm.Possession])(nil)

// Book is the memory of all repositories. Its methods may be called concurrently, and by several processes.
type Book struct {
	records Records
	store   imagestore.Reader

	mu     sync.Mutex
	cached []sums // of manifests, used last first
}

// sums are the chunks of a manifest, sorted.
type sums struct {
	manifest digest.Digest
	chunks   []imagestore.Sum
}

// New makes a Book over the records. The store is asked for manifests, and for chunks to verify proofs.
func New(records Records, store imagestore.Reader) *Book {
	return &Book{records: records, store: store}
}

// Held is the answer of Holds.
type Held struct {
	Missing []digest.Digest             // of the chunks asked about, in their order
	sent    map[string][]imagestore.Sum // records that were needed for the answer
}

// Holds says which of a manifest's chunks the repository has not shown to have. Whether the store has the others is not
// asked.
func (b *Book) Holds(ctx context.Context, name string, manifest digest.Digest, chunks []digest.Digest) (Held, error) {
	var h Held
	accepted, _, err := b.records.Get(ctx, acceptedKey(name))
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return h, err
	}
	if slices.Contains(accepted.Manifests, manifest) {
		return h, nil
	}
	h.Missing = chunks
	for _, m := range accepted.Manifests {
		if len(h.Missing) == 0 {
			return h, nil
		}
		have, err := b.chunksOf(ctx, m)
		if err != nil {
			return h, err
		}
		h.Missing = without(h.Missing, have)
	}
	if len(h.Missing) == 0 {
		return h, nil
	}
	sent, err := b.records.List(ctx, sentKey(name))
	if err != nil {
		return h, err
	}
	for key, r := range sent {
		have := unpack(r.Chunks)
		if rest := without(h.Missing, have); len(rest) < len(h.Missing) {
			h.Missing = rest
			if h.sent == nil {
				h.sent = map[string][]imagestore.Sum{}
			}
			h.sent[key] = have
		}
	}
	return h, nil
}

// without are the digests whose sums are not in the sorted list.
func without(chunks []digest.Digest, have []imagestore.Sum) []digest.Digest {
	if len(have) == 0 {
		return chunks
	}
	var rest []digest.Digest
	for _, c := range chunks {
		sum, err := imagestore.ParseDigest(c)
		if _, found := slices.BinarySearchFunc(have, sum, compare); err != nil || !found {
			rest = append(rest, c)
		}
	}
	return rest
}

func compare(a, b imagestore.Sum) int { return slices.Compare(a[:], b[:]) }

// Accept remembers a manifest of whose chunks Holds has said that none is missing. Its piece must be in the store.
func (b *Book) Accept(ctx context.Context, name string, manifest digest.Digest, chunks []digest.Digest, h Held) error {
	own := sums{manifest, make([]imagestore.Sum, 0, len(chunks))}
	for _, c := range chunks {
		sum, err := imagestore.ParseDigest(c)
		if err != nil {
			return err
		}
		own.chunks = append(own.chunks, sum)
	}
	slices.SortFunc(own.chunks, compare)
	b.remember(own)
	for {
		record, revision, err := b.records.Get(ctx, acceptedKey(name))
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return err
		}
		fresh := time.Since(record.At) < bus.PossessionTTL/4
		if fresh && len(record.Manifests) > 0 && record.Manifests[0] == manifest {
			break
		}
		latest := append([]digest.Digest{manifest}, slices.DeleteFunc(record.Manifests, func(m digest.Digest) bool { return m == manifest })...)
		record = farm.Possession{Manifests: latest[:min(manifests, len(latest))], At: time.Now().UTC()}
		_, err = b.records.Update(ctx, acceptedKey(name), record, revision)
		if err == nil {
			break
		}
		if !errors.Is(err, bus.ErrConflict) {
			return err
		}
	}
	for key, chunks := range h.sent { // a bake that comes at the same time may need one with others
		if slices.ContainsFunc(chunks, func(s imagestore.Sum) bool {
			_, found := slices.BinarySearchFunc(own.chunks, s, compare)
			return !found
		}) {
			continue
		}
		if err := b.records.Delete(ctx, key, 0); err != nil {
			return err
		}
	}
	return nil
}

// chunksOf reads the sums of a manifest. One that the store has no longer has none: its chunks go at the same time.
func (b *Book) chunksOf(ctx context.Context, manifest digest.Digest) ([]imagestore.Sum, error) {
	b.mu.Lock()
	at := slices.IndexFunc(b.cached, func(s sums) bool { return s.manifest == manifest })
	if at >= 0 {
		s := b.cached[at]
		b.cached = slices.Insert(slices.Delete(b.cached, at, at+1), 0, s)
		b.mu.Unlock()
		return s.chunks, nil
	}
	b.mu.Unlock()
	raw, err := imagestore.ReadAll(ctx, b.store, manifest, recipe.MaxManifest)
	if errors.Is(err, imagestore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("context manifest: %w", err)
	}
	c, err := recipe.DecodeContext(raw)
	if err != nil {
		return nil, fmt.Errorf("context manifest %s: %w", manifest, err)
	}
	s := sums{manifest: manifest}
	for _, f := range c.Files {
		for _, chunk := range f.Chunks {
			sum, err := imagestore.ParseDigest(chunk)
			if err != nil {
				return nil, fmt.Errorf("context manifest %s: %w", manifest, err)
			}
			s.chunks = append(s.chunks, sum)
		}
	}
	slices.SortFunc(s.chunks, compare)
	b.remember(s)
	return s.chunks, nil
}

func (b *Book) remember(s sums) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.ContainsFunc(b.cached, func(o sums) bool { return o.manifest == s.manifest }) {
		return
	}
	b.cached = slices.Insert(b.cached, 0, s)
	total := 0
	for i, s := range b.cached {
		if total += len(s.chunks); total > cachedSums && i > 0 {
			clear(b.cached[i:])
			b.cached = b.cached[:i]
			return
		}
	}
}

// Sent remembers chunks whose bytes came for the repository. They must be in the store.
func (b *Book) Sent(ctx context.Context, name string, chunks []imagestore.Sum) error {
	chunks = slices.Clone(chunks)
	slices.SortFunc(chunks, compare)
	for part := range slices.Chunk(slices.Compact(chunks), sumsPerSent) {
		packed := make([]byte, 0, len(part)*sha256.Size)
		for _, sum := range part {
			packed = append(packed, sum[:]...)
		}
		if _, err := b.records.Create(ctx, sentKey(name)+ulid.Make().String(), farm.Possession{Chunks: packed, At: time.Now().UTC()}); err != nil {
			return err
		}
	}
	return nil
}

func unpack(packed []byte) []imagestore.Sum {
	list := make([]imagestore.Sum, 0, len(packed)/sha256.Size)
	for ; len(packed) >= sha256.Size; packed = packed[sha256.Size:] {
		list = append(list, imagestore.Sum(packed))
	}
	return list
}

// Challenge makes a challenge that the repository may prove chunks by.
func (b *Book) Challenge(ctx context.Context, name string) ([]byte, error) {
	challenge := make([]byte, sha256.Size)
	rand.Read(challenge) // never fails
	_, err := b.records.Create(ctx, challengeKey(name, challenge), farm.Possession{At: time.Now().UTC()})
	return challenge, err
}

// Proof claims that who sends it has a chunk: MAC is HMAC-SHA256 of the chunk's bytes under the challenge.
type Proof struct {
	Chunk imagestore.Sum
	MAC   []byte
}

// Tag is the MAC of a chunk under a challenge.
func Tag(challenge, chunk []byte) []byte {
	mac := hmac.New(sha256.New, challenge)
	mac.Write(chunk)
	return mac.Sum(nil)
}

// Prove remembers and returns those chunks whose proofs hold. A chunk that the store does not have and a wrong proof look the
// same to who asks. ErrChallenge.
func (b *Book) Prove(ctx context.Context, name string, challenge []byte, proofs []Proof) ([]imagestore.Sum, error) {
	record, _, err := b.records.Get(ctx, challengeKey(name, challenge))
	if errors.Is(err, bus.ErrNotFound) || err == nil && time.Since(record.At) > ChallengeTime {
		return nil, ErrChallenge
	}
	if err != nil {
		return nil, err
	}
	ask := make([]digest.Digest, len(proofs))
	for i, p := range proofs {
		ask[i] = p.Chunk.Digest()
	}
	have, err := b.store.Have(ctx, ask)
	if err != nil {
		return nil, err
	}
	holds := make([]bool, len(proofs))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i, p := range proofs {
		if !have[i] {
			continue
		}
		group.Go(func() (err error) {
			holds[i], err = b.verify(groupCtx, challenge, p)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var proven []imagestore.Sum
	for i, p := range proofs {
		if holds[i] {
			proven = append(proven, p.Chunk)
		}
	}
	if len(proven) == 0 {
		return nil, nil
	}
	return proven, b.Sent(ctx, name, proven)
}

func (b *Book) verify(ctx context.Context, challenge []byte, p Proof) (bool, error) {
	blob, err := b.store.Stat(ctx, p.Chunk.Digest())
	if errors.Is(err, imagestore.ErrNotFound) || err == nil && blob.Size > recipe.ChunkSize {
		return false, nil // gone since, or no chunk of a context
	}
	if err != nil {
		return false, err
	}
	chunk, err := imagestore.ReadAll(ctx, b.store, p.Chunk.Digest(), recipe.ChunkSize)
	if errors.Is(err, imagestore.ErrNotFound) {
		return false, nil
	}
	return err == nil && hmac.Equal(p.MAC, Tag(challenge, chunk)), err
}

func acceptedKey(name string) string { return name + "@accepted" }
func sentKey(name string) string     { return name + "@sent@" }
func challengeKey(name string, challenge []byte) string {
	return name + "@challenge@" + hex.EncodeToString(challenge)
}
