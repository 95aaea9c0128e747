package catalog

import (
	"context"
	"database/sql"
	"encoding/json"

	"bakefarm/farm"
	"bakefarm/imagestore"
)

func (c *Catalog) followVersions(ctx context.Context) error {
	return c.keep(ctx, feed{
		name: "versions", seen: &c.versionsSeen, identity: c.versions.Identity, last: c.versions.Last,
		reset:  c.resetVersions,
		follow: c.projectVersions,
	})
}

func (c *Catalog) projectVersions(ctx context.Context, after uint64) error {
	return inOrder(ctx, func(ctx context.Context, put func(*change[farm.VersionChange]) error) error {
		return c.versions.Follow(ctx, after, func(v farm.VersionChange) error {
			return put(&change[farm.VersionChange]{seq: v.Seq, value: v, ready: already})
		})
	}, func(ctx context.Context, changes []*change[farm.VersionChange]) error {
		tx, err := c.db.write.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		for _, ch := range changes {
			if err := c.applyVersion(ctx, tx, ch.value); err != nil {
				return err
			}
		}
		seq := changes[len(changes)-1].seq
		if err := setMeta(ctx, tx, "versions.seq", seq); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		c.versionsSeen.at(seq)
		return nil
	}, func(farm.VersionChange) int { return 1 })
}

// applyVersion replaces the rows of a version.
func (c *Catalog) applyVersion(ctx context.Context, tx *sql.Tx, ch farm.VersionChange) error {
	for _, table := range []string{"images", "repo_blobs"} {
		if _, err := tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE vkey = ?", ch.Key); err != nil {
			return err
		}
	}
	v := ch.Version
	if v == nil {
		return nil
	}
	for _, img := range v.Images {
		sum, err := imagestore.ParseDigest(img.Digest)
		if err != nil {
			c.log.Error("a version's image is left out of the catalog", "version", ch.Key, "err", err)
			continue
		}
		blobs := img.Blobs
		img.Blobs = nil
		row, err := json.Marshal(ImageRow{
			Image: img, Version: v.Version, Sequence: v.Sequence, Bake: v.Bake, Key: v.Key, Lock: v.Lock, CreatedAt: v.CreatedAt,
			Pins: v.Pins, Trash: v.Trash,
		})
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO images (vkey, repo, digest, version, sequence, kind, created, trashed, row) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
			ch.Key, img.Name, sum[:], v.Version, int64(v.Sequence), img.Kind, v.CreatedAt.UnixNano(), v.Trash != nil, string(row)); err != nil {
			return err
		}
		sums := [][]byte{sum[:]}
		for _, d := range blobs {
			s, err := imagestore.ParseDigest(d)
			if err != nil {
				c.log.Error("a blob is left out of the catalog", "version", ch.Key, "image", img.Digest, "err", err)
				continue
			}
			sums = append(sums, s[:])
		}
		for _, s := range sums {
			if _, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO repo_blobs (repo, digest, vkey) VALUES (?, ?, ?)", img.Name, s, ch.Key); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Catalog) resetVersions(ctx context.Context) error {
	_, err := c.db.write.ExecContext(ctx, "DELETE FROM images; DELETE FROM repo_blobs;")
	return err
}
