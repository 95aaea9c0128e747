package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/worker/mirror"

	"github.com/opencontainers/go-digest"
)

// The bus and the image store do not know each other: here the one is given the other's shape, sentinels included.

// ledger is the packs' bucket as the image store wants it: imagestore.Ledger but for the sentinels of Register.
type ledger struct{ imagestore.Ledger }

func (l ledger) Register(ctx context.Context, p farm.Pack) error {
	return storeError(l.Ledger.Register(ctx, p))
}

// tags is the tags' bucket as the image store's Tags.
type tags struct{ bucket *bus.Bucket[farm.Tag] }

var _ imagestore.Tags = tags{}

func (t tags) Tag(ctx context.Context, repo, tag string) (digest.Digest, uint64, error) {
	record, revision, err := t.bucket.Get(ctx, repo+"@"+tag)
	return digest.Digest(record.Digest), revision, storeError(err)
}

func (t tags) SetTag(ctx context.Context, repo, tag string, d digest.Digest, revision uint64) (uint64, error) {
	record := farm.Tag{Schema: farm.Schema, Digest: d.String(), At: time.Now().UTC()}
	var err error
	if revision == 0 {
		revision, err = t.bucket.Create(ctx, repo+"@"+tag, record)
	} else {
		revision, err = t.bucket.Update(ctx, repo+"@"+tag, record, revision)
	}
	return revision, storeError(err)
}

func (t tags) ListTags(ctx context.Context, repo string) ([]string, error) {
	records, err := t.bucket.List(ctx, repo+"@")
	if err != nil {
		return nil, storeError(err)
	}
	names := make([]string, 0, len(records))
	for key := range records {
		names = append(names, strings.TrimPrefix(key, repo+"@"))
	}
	slices.Sort(names)
	return names, nil
}

// storeError gives the bus's conditions the image store's names.
func storeError(err error) error {
	switch {
	case errors.Is(err, bus.ErrNotFound):
		return fmt.Errorf("%w: %w", imagestore.ErrNotFound, err)
	case errors.Is(err, bus.ErrConflict), errors.Is(err, bus.ErrExists):
		return fmt.Errorf("%w: %w", imagestore.ErrConflict, err)
	}
	return err
}

// machineMirror observes with this machine's settings where a recipe has none of its own.
type machineMirror struct {
	*mirror.Client
	mirror, keyring string // BAKEFARM_DEBIAN_MIRROR and _KEYRING
}

func (m machineMirror) Observe(ctx context.Context, suite, arch, address, keyring string) (*mirror.Observation, error) {
	if address == "" {
		address = m.mirror
	}
	if keyring == "" {
		keyring = m.keyring
	}
	return m.Client.Observe(ctx, suite, arch, address, keyring)
}
