package catalog

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

// ImageRow is an image and where it came from. (Image.Blobs is left out: RepoHasBlob answers for it.)
type ImageRow struct {
	farm.Image
	Version   string        `json:"version"`
	Sequence  uint64        `json:"sequence"` // for display: the number of the version among those of its name
	Bake      string        `json:"bake"`
	Key       digest.Digest `json:"key"`
	Lock      digest.Digest `json:"lock"`
	CreatedAt time.Time     `json:"createdAt"`
	Pins      []farm.Pin    `json:"pins,omitempty"`
	Trash     *farm.Trash   `json:"trash,omitempty"`
}

// Filter says which images are asked for. Empty fields do not restrict.
type Filter struct {
	Name    string // of the image; * (any text, slashes too), ? and [a-z] are wildcards
	Kind    string // "oci" or "disk"
	Version string
	Trashed bool // those in the trash; else those that are not

	Limit  int    // rows of a page: 1 to MaxPage; 0: MaxPage
	Cursor string // where the page begins: what the page before returned
}

// MaxPage is how many rows a page has at most.
const MaxPage = 1000

// ErrBadCursor says that the cursor was not made by Images.
var ErrBadCursor = errors.New("bad cursor: give the one of the page before, or none")

// position is a row's place in the order of Images: what an opaque cursor holds.
type position struct {
	Created int64
	Repo    string
	Version string
	Digest  imagestore.Sum
}

func (p position) cursor() string {
	b, _ := json.Marshal([]any{p.Created, p.Repo, p.Version, p.Digest[:]})
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(s string) (p position, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(s) > 1024 {
		return p, ErrBadCursor
	}
	var sum []byte
	fields := []any{&p.Created, &p.Repo, &p.Version, &sum}
	if json.Unmarshal(b, &fields) != nil || len(fields) != 4 || len(sum) != len(p.Digest) {
		return p, ErrBadCursor
	}
	p.Digest = imagestore.Sum(sum)
	return p, nil
}

// Images lists images, newest first, and the cursor of the next page; it is empty after the last.
func (c *Catalog) Images(ctx context.Context, f Filter) ([]ImageRow, string, error) {
	if f.Limit < 0 || f.Limit > MaxPage {
		return nil, "", fmt.Errorf("limit %d: want 1 to %d", f.Limit, MaxPage)
	}
	if f.Limit == 0 {
		f.Limit = MaxPage
	}
	var where []string
	var args []any
	add := func(condition string, values ...any) {
		where, args = append(where, condition), append(args, values...)
	}
	add("trashed = ?", f.Trashed)
	switch {
	case strings.ContainsAny(f.Name, "*?["):
		add("repo GLOB ?", f.Name)
	case f.Name != "":
		add("repo = ?", f.Name)
	}
	if f.Kind != "" {
		add("kind = ?", f.Kind)
	}
	if f.Version != "" {
		add("version = ?", f.Version)
	}
	if f.Cursor != "" {
		p, err := parseCursor(f.Cursor)
		if err != nil {
			return nil, "", err
		}
		add("(created, repo, version, digest) < (?, ?, ?, ?)", p.Created, p.Repo, p.Version, p.Digest[:])
	}
	query := "SELECT created, repo, version, digest, row FROM images"
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	query += " ORDER BY created DESC, repo DESC, version DESC, digest DESC LIMIT ?"
	rows, err := c.db.read.QueryContext(ctx, query, append(args, f.Limit+1)...)
	if err != nil {
		return nil, "", fmt.Errorf("list images: %w", err)
	}
	defer rows.Close()
	var found []ImageRow
	var last position
	for rows.Next() {
		if len(found) == f.Limit {
			return found, last.cursor(), nil
		}
		var sum, text []byte
		if err := rows.Scan(&last.Created, &last.Repo, &last.Version, &sum, &text); err != nil {
			return nil, "", fmt.Errorf("list images: %w", err)
		}
		copy(last.Digest[:], sum)
		var row ImageRow
		if err := json.Unmarshal(text, &row); err != nil {
			return nil, "", fmt.Errorf("list images: %w", err)
		}
		found = append(found, row)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list images: %w", err)
	}
	return found, "", nil
}

// Image finds the image of a reference: name@digest, name:version, or a name alone for its newest version. Of several
// images of a version it is the index, else the first by kind and platform. What is in the trash is found by digest only.
// imagestore.ErrNotFound when there is none.
func (c *Catalog) Image(ctx context.Context, ref string) (ImageRow, error) {
	if name, d, ok := strings.Cut(ref, "@"); ok {
		return c.Manifest(ctx, name, digest.Digest(d))
	}
	name, version, ok := strings.Cut(ref, ":")
	if ok {
		return c.one(ctx, ref, "trashed = 0 AND repo = ? AND version = ?", name, version)
	}
	return c.one(ctx, ref, "trashed = 0 AND repo = ?", name)
}

// Resolve finds the manifest that a registry's client asks for within a repository: by digest, which must belong to it,
// or by version. imagestore.ErrNotFound when there is none.
func (c *Catalog) Resolve(ctx context.Context, repo, reference string) (ImageRow, error) {
	if strings.Contains(reference, ":") {
		return c.Manifest(ctx, repo, digest.Digest(reference))
	}
	return c.one(ctx, repo+":"+reference, "trashed = 0 AND repo = ? AND version = ?", repo, reference)
}

// Manifest finds the image of that digest in a repository; imagestore.ErrNotFound when the repository has none.
func (c *Catalog) Manifest(ctx context.Context, repo string, d digest.Digest) (ImageRow, error) {
	sum, err := imagestore.ParseDigest(d)
	if err != nil {
		return ImageRow{}, err
	}
	return c.one(ctx, repo+"@"+string(d), "repo = ? AND digest = ?", repo, sum[:])
}

// one finds the newest, and within a version the most general, of the images that meet the condition.
func (c *Catalog) one(ctx context.Context, ref, condition string, args ...any) (ImageRow, error) {
	var text []byte
	err := c.db.read.QueryRowContext(ctx, "SELECT row FROM images WHERE "+condition+
		" ORDER BY trashed, created DESC, version DESC, row ->> 'platform' != '', kind != 'oci', row ->> 'platform' LIMIT 1", args...).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return ImageRow{}, fmt.Errorf("image %s: %w", ref, imagestore.ErrNotFound)
	}
	if err != nil {
		return ImageRow{}, fmt.Errorf("image %s: %w", ref, err)
	}
	var row ImageRow
	if err := json.Unmarshal(text, &row); err != nil {
		return ImageRow{}, fmt.Errorf("image %s: %w", ref, err)
	}
	return row, nil
}

// RepoHasBlob reports whether an image of the repository has, or is, the blob: only then may a reader of the repository
// read it.
func (c *Catalog) RepoHasBlob(ctx context.Context, repo string, d digest.Digest) (bool, error) {
	sum, err := imagestore.ParseDigest(d)
	if err != nil {
		return false, err
	}
	var has bool
	if err := c.db.read.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM repo_blobs WHERE repo = ? AND digest = ?)", repo, sum[:]).Scan(&has); err != nil {
		return false, fmt.Errorf("blob %s in %s: %w", d, repo, err)
	}
	return has, nil
}

// Tags lists the versions of a repository, sorted by their text.
func (c *Catalog) Tags(ctx context.Context, repo string) ([]string, error) {
	return c.texts(ctx, "SELECT DISTINCT version FROM images WHERE trashed = 0 AND repo = ? ORDER BY version", repo)
}

// Repos lists the repositories that have an image, sorted.
func (c *Catalog) Repos(ctx context.Context) ([]string, error) {
	return c.texts(ctx, "SELECT DISTINCT repo FROM images WHERE trashed = 0 ORDER BY repo")
}

func (c *Catalog) texts(ctx context.Context, query string, args ...any) ([]string, error) {
	rows, err := c.db.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		found = append(found, s)
	}
	return found, rows.Err()
}
