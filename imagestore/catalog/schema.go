package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	_ "modernc.org/sqlite"
)

// schemaVersion is raised with every change of schema, or of what is projected into it. Files of another are made anew.
const schemaVersion = 6

// Digests are blobs of 32 bytes. entries has no index by pack: see sweep. Numbers of packs and of package sets are never
// used again.
const schema = `
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE packs (
	num     INTEGER PRIMARY KEY AUTOINCREMENT,
	id      TEXT NOT NULL UNIQUE,
	state   INTEGER NOT NULL,
	entries INTEGER NOT NULL
);
CREATE TABLE entries (
	digest    BLOB NOT NULL,
	composite INTEGER NOT NULL,
	pack      INTEGER NOT NULL,
	offset    INTEGER NOT NULL,
	length    INTEGER NOT NULL,
	piece     BLOB,
	PRIMARY KEY (digest, composite, pack)
) WITHOUT ROWID;
CREATE TABLE refs (digest BLOB PRIMARY KEY, refs BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE versions (
	num INTEGER PRIMARY KEY,
	key TEXT NOT NULL UNIQUE,
	row TEXT NOT NULL
);
CREATE TABLE repos (num INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE repo_blobs (
	repo    INTEGER NOT NULL,
	digest  BLOB NOT NULL,
	version INTEGER NOT NULL,
	PRIMARY KEY (repo, digest, version)
) WITHOUT ROWID;
CREATE INDEX repo_blobs_version ON repo_blobs (version);
CREATE TABLE packages (
	num     INTEGER PRIMARY KEY,
	name    TEXT NOT NULL,
	arch    TEXT NOT NULL,
	version TEXT NOT NULL,
	UNIQUE (name, arch, version)
);
CREATE TABLE package_sets (
	num      INTEGER PRIMARY KEY AUTOINCREMENT,
	digest   BLOB NOT NULL UNIQUE,
	packages BLOB NOT NULL
);
CREATE TABLE records (
	feed TEXT NOT NULL,
	key  TEXT NOT NULL,
	row  TEXT NOT NULL,
	PRIMARY KEY (feed, key)
) WITHOUT ROWID;
`

// database is the file: one connection that writes, and some that read beside it. In memory it is one connection for all,
// and a second that does nothing but keep the memory from being freed when the first is replaced.
type database struct {
	write, read *sql.DB
	keeper      *sql.Conn
}

var memories atomic.Int64

func openDatabase(path string) (*database, error) {
	if path == "" {
		// A name of its own, so that two catalogs of a process are two.
		db, err := sql.Open("sqlite", fmt.Sprintf("file:/catalog-%d?vfs=memdb&_pragma=busy_timeout(10000)&_txlock=immediate", memories.Add(1)))
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(2)
		keeper, err := db.Conn(context.Background())
		if err != nil {
			db.Close()
			return nil, err
		}
		d := &database{write: db, read: db, keeper: keeper}
		if err := d.create(); err != nil {
			d.Close()
			return nil, err
		}
		return d, nil
	}
	d, err := openFile(path)
	if err == nil {
		return d, nil
	}
	if !unusable(err) {
		return nil, fmt.Errorf("catalog %s: %w", path, err)
	}
	if err := removeFile(path); err != nil {
		return nil, err
	}
	if d, err = openFile(path); err != nil {
		return nil, fmt.Errorf("catalog %s: %w", path, err)
	}
	return d, nil
}

func openFile(path string) (*database, error) {
	// The path goes into a URI: ? and # end it there, % escapes.
	uri := "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path) +
		"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_pragma=cache_size(-16384)&_txlock=immediate"
	w, err := sql.Open("sqlite", uri)
	if err != nil {
		return nil, err
	}
	w.SetMaxOpenConns(1)
	r, err := sql.Open("sqlite", uri)
	if err != nil {
		w.Close()
		return nil, err
	}
	r.SetMaxOpenConns(4)
	r.SetMaxIdleConns(4)
	d := &database{write: w, read: r}
	if err := d.check(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// check makes the tables in an empty file, and finds out whether any other can be used.
func (d *database) check() error {
	var version, tables int
	if err := d.write.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if err := d.write.QueryRow("SELECT count(*) FROM sqlite_master").Scan(&tables); err != nil {
		return err
	}
	if version == 0 && tables == 0 {
		return d.create()
	}
	if version != schemaVersion {
		return fmt.Errorf("%w: schema %d, want %d", errUnusable, version, schemaVersion)
	}
	boot := bootID()
	var last string
	if err := d.write.QueryRow("SELECT value FROM meta WHERE key = 'boot'").Scan(&last); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if last != boot {
		var verdict string
		if err := d.write.QueryRow("PRAGMA quick_check(1)").Scan(&verdict); err != nil {
			return err
		}
		if verdict != "ok" {
			return fmt.Errorf("%w: %s", errUnusable, verdict)
		}
	}
	return setMeta(context.Background(), d.write, "boot", boot)
}

func (d *database) create() error {
	tx, err := d.write.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.Exec(schema + fmt.Sprintf("PRAGMA user_version = %d;", schemaVersion)); err != nil {
		return fmt.Errorf("create tables: %w", err)
	}
	if err := setMeta(context.Background(), tx, "boot", bootID()); err != nil {
		return err
	}
	return tx.Commit()
}

func (d *database) Close() error {
	var err error
	if d.keeper != nil {
		err = d.keeper.Close()
	} else {
		err = d.read.Close()
	}
	return errors.Join(err, d.write.Close())
}

// bootID names the machine's present boot, where the system tells.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func setMeta(ctx context.Context, x execer, key string, value any) error {
	_, err := x.ExecContext(ctx, "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, fmt.Sprint(value))
	return err
}

// getMeta reads a value into dst, which stays as it is when there is none.
func getMeta(ctx context.Context, db *sql.DB, key string, dst any) error {
	err := db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = ?", key).Scan(dst)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}
