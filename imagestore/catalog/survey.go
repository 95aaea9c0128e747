package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"bakefarm/imagestore"
)

// Held is an entry of a pack, for garbage collection.
type Held struct {
	Sum            imagestore.Sum
	Composite      bool
	Pack           string
	Offset, Length int64
}

// Survey calls fn for every entry of every pack that has a record, live or condemned, in the order of their digests, as the
// file has them at one moment. It reads everything once; what fn does must not take the catalog long.
func (c *Catalog) Survey(ctx context.Context, fn func(Held) error) error {
	rows, err := c.db.read.QueryContext(ctx, "SELECT e.digest, e.composite, p.id, e.offset, e.length FROM entries e CROSS JOIN packs p ON p.num = e.pack ORDER BY e.digest, e.composite, e.pack")
	if err != nil {
		return fmt.Errorf("survey: %w", c.noticed(err))
	}
	defer rows.Close()
	var sum, id sql.RawBytes
	last := ""
	for rows.Next() {
		var h Held
		if err := rows.Scan(&sum, &h.Composite, &id, &h.Offset, &h.Length); err != nil {
			return fmt.Errorf("survey: %w", c.noticed(err))
		}
		if string(id) != last { // most often that of the entry before
			last = string(id)
		}
		copy(h.Sum[:], sum)
		h.Pack = last
		if err := fn(h); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("survey: %w", c.noticed(err))
	}
	return nil
}

// Refs finds what a blob or document is known to refer to; ok is false when it was never noted.
func (c *Catalog) Refs(ctx context.Context, of imagestore.Sum) (refs []imagestore.Sum, ok bool, err error) {
	var raw []byte
	err = c.db.read.QueryRowContext(ctx, "SELECT refs FROM refs WHERE digest = ?", of[:]).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("refs of %s: %w", of.Digest(), c.noticed(err))
	}
	refs = make([]imagestore.Sum, len(raw)/len(of))
	for i := range refs {
		copy(refs[i][:], raw[i*len(of):])
	}
	return refs, true, nil
}

// NoteRefs remembers what blobs or documents refer to. Content never changes, so it is noted once.
func (c *Catalog) NoteRefs(ctx context.Context, refs map[imagestore.Sum][]imagestore.Sum) error {
	tx, err := c.db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for of, sums := range refs {
		raw := make([]byte, 0, len(sums)*len(of))
		for _, s := range sums {
			raw = append(raw, s[:]...)
		}
		if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO refs (digest, refs) VALUES (?, ?)", of[:], raw); err != nil {
			return fmt.Errorf("note refs of %s: %w", of.Digest(), err)
		}
	}
	return tx.Commit()
}

// ForgetRefs drops what is known of everything that keep refuses.
func (c *Catalog) ForgetRefs(ctx context.Context, keep func(imagestore.Sum) bool) error {
	rows, err := c.db.read.QueryContext(ctx, "SELECT digest FROM refs")
	if err != nil {
		return err
	}
	defer rows.Close()
	var drop []imagestore.Sum
	var raw sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&raw); err != nil {
			return err
		}
		var s imagestore.Sum
		copy(s[:], raw)
		if !keep(s) {
			drop = append(drop, s)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || len(drop) == 0 {
		return err
	}
	tx, err := c.db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, s := range drop {
		if _, err := tx.ExecContext(ctx, "DELETE FROM refs WHERE digest = ?", s[:]); err != nil {
			return err
		}
	}
	return tx.Commit()
}
