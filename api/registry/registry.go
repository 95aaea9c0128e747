// Package registry serves what the farm has baked over the OCI distribution API, to any client: the pull side of
// https://github.com/opencontainers/distribution-spec (version 1.1). What would push is refused.
//
//	/v2/                                        is this a registry?
//	/v2/_catalog                                repositories, that is image names
//	/v2/<name>/tags/list                        versions, channels and tags
//	/v2/<name>/manifests/<version | channel | tag | digest>
//	/v2/<name>/blobs/<digest>                   also in ranges
//	/v2/<name>/referrers/<digest>               what is attached to an image: signatures, attestations
//
// What the catalog knows can be pulled by version or digest even while the bus is away. Channels and tags can't: they are
// read from the bus each time, so that a promotion counts at once.
//
// A blob is given out only under a name that has an image with it. Bytes are verified by the store before they are sent;
// when that fails in the middle of an answer the connection is cut, so that the client sees that something is missing.
package registry

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"bakefarm/api/usage"
	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"

	"github.com/opencontainers/go-digest"
)

// Config says what the registry works with. All but Uses and Log must be set.
type Config struct {
	Store    imagestore.Reader
	Catalog  Catalog
	Channels Records[farm.Channel] // by name@channel
	Tags     Records[farm.Tag]     // by name@tag
	Uses     *usage.Recorder       // is told what is pulled; nil: nobody is
	Hot      *Hot                  // sends clients elsewhere for what many ask for; nil: nobody is sent
	Log      *slog.Logger
}

// Catalog knows which images there are: catalog.Catalog.
type Catalog interface {
	// Resolve finds an image of a repository by digest or version; imagestore.ErrNotFound.
	Resolve(ctx context.Context, repo, reference string) (catalog.ImageRow, error)
	// RepoHasBlob reports whether an image of the repository has, or is, the blob.
	RepoHasBlob(ctx context.Context, repo string, d digest.Digest) (bool, error)
	// Referrers lists the artifacts of a repository that are about a manifest.
	Referrers(ctx context.Context, repo string, subject digest.Digest) ([]farm.Attachment, error)
	// Tags lists the versions of a repository, sorted.
	Tags(ctx context.Context, repo string) ([]string, error)
	// Repos lists the repositories, sorted.
	Repos(ctx context.Context) ([]string, error)
	// CatchUpVersions waits until everything that was committed before is known.
	CatchUpVersions(ctx context.Context) error
}

// Records are a bucket of the bus, read.
type Records[T any] interface {
	// Get reads a record; bus.ErrNotFound.
	Get(ctx context.Context, key string) (T, uint64, error)
	// List reads all records whose key begins with prefix.
	List(ctx context.Context, prefix string) (map[string]T, error)
}

// Registry is an http.Handler for everything under /v2/.
type Registry struct{ Config }

// New makes a registry.
func New(c Config) *Registry {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Registry{c}
}

// OnBus is the configuration of a registry that reads channels and tags from the bus.
func OnBus(b *bus.Bus, store imagestore.Reader, c *catalog.Catalog, log *slog.Logger) Config {
	return Config{Store: store, Catalog: c, Channels: b.Channels, Tags: b.Tags, Log: log}
}

// target is what a path below /v2/ means.
type target struct {
	kind string // "base", "catalog", "tags", "manifests", "blobs", "referrers", "uploads"
	repo string
	ref  string // tag or digest
}

// parse splits a path. The name may have slashes, so it is read from the end. ok is false for a path that means nothing.
func parse(path string) (t target, ok bool) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case !ok:
		return t, path == "/v2"
	case rest == "":
		return target{kind: "base"}, true
	case rest == "_catalog":
		return target{kind: "catalog"}, true
	}
	if repo, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return target{kind: "tags", repo: repo}, true
	}
	if repo, _, ok := strings.Cut(rest, "/blobs/uploads"); ok {
		return target{kind: "uploads", repo: repo}, true
	}
	for _, kind := range []string{"manifests", "blobs", "referrers"} {
		if i := strings.LastIndex(rest, "/"+kind+"/"); i >= 0 {
			t = target{kind: kind, repo: rest[:i], ref: rest[i+len(kind)+2:]}
			return t, t.ref != "" && !strings.Contains(t.ref, "/")
		}
	}
	return t, false
}

// ServeHTTP implements http.Handler.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	if err := g.serve(w, r); err != nil {
		g.fail(w, r, err)
	}
}

func (g *Registry) serve(w http.ResponseWriter, r *http.Request) error {
	t, ok := parse(r.URL.Path)
	if !ok {
		return refuse(http.StatusNotFound, codeUnsupported, "%s is no path of the distribution API", r.URL.Path)
	}
	if t.repo != "" {
		if err := farm.ValidateName(t.repo); err != nil {
			return refuse(http.StatusBadRequest, codeNameInvalid, "%s", err)
		}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead || t.kind == "uploads" {
		w.Header().Set("Allow", "GET, HEAD")
		return refuse(http.StatusMethodNotAllowed, codeUnsupported, "this registry is read-only: images come from bakes")
	}
	switch t.kind {
	case "catalog":
		return g.repositories(w, r)
	case "tags":
		return g.tags(w, r, t.repo)
	case "manifests":
		return g.manifest(w, r, t.repo, t.ref)
	case "blobs":
		return g.blob(w, r, t.repo, t.ref)
	case "referrers":
		return g.referrers(w, r, t.repo, t.ref)
	}
	return writeJSON(w, "application/json", struct{}{})
}

// fresh asks the catalog, and when it has no answer once more after it has caught up: an image may be pulled as soon as
// its bake is done.
func fresh[T any](ctx context.Context, g *Registry, ask func() (T, error), missing func(T, error) bool) (T, error) {
	v, err := ask()
	if !missing(v, err) {
		return v, err
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	if err := g.Catalog.CatchUpVersions(ctx); err != nil {
		return v, unavailable(err)
	}
	return ask()
}

// known lists the versions of a name, those committed a moment ago, too. It refuses a name that has no images.
func (g *Registry) known(ctx context.Context, repo string) ([]string, error) {
	versions, err := fresh(ctx, g, func() ([]string, error) { return g.Catalog.Tags(ctx, repo) },
		func(_ []string, err error) bool { return err == nil })
	if err == nil && len(versions) == 0 {
		err = refuse(http.StatusNotFound, codeNameUnknown, "there is no image with the name %s", repo)
	}
	return versions, err
}

// resolve finds what a reference means: a digest, a version, a channel, or a tag, in this order.
func (g *Registry) resolve(ctx context.Context, repo, ref string) (catalog.ImageRow, error) {
	row, err := g.image(ctx, repo, ref)
	if err == nil || !errors.Is(err, imagestore.ErrNotFound) || strings.Contains(ref, ":") {
		return row, err
	}
	channel, _, err := g.Channels.Get(ctx, repo+"@"+ref)
	if err == nil {
		row, err := g.image(ctx, repo, channel.Version)
		if err == nil {
			g.Uses.Note(row.Name, row.Version, usage.Resolved)
		}
		return row, err
	}
	if !errors.Is(err, bus.ErrNotFound) {
		return row, unavailable(err)
	}
	tag, _, err := g.Tags.Get(ctx, repo+"@"+ref)
	if errors.Is(err, bus.ErrNotFound) {
		return row, imagestore.ErrNotFound
	}
	if err != nil {
		return row, unavailable(err)
	}
	row, err = g.image(ctx, repo, tag.Digest)
	if err == nil && row.Trash != nil { // only who has its digest may still pull it
		return row, imagestore.ErrNotFound
	}
	return row, err
}

func (g *Registry) image(ctx context.Context, repo, ref string) (catalog.ImageRow, error) {
	return fresh(ctx, g, func() (catalog.ImageRow, error) { return g.Catalog.Resolve(ctx, repo, ref) },
		func(_ catalog.ImageRow, err error) bool { return errors.Is(err, imagestore.ErrNotFound) })
}

// has reports whether the repository may give out the blob.
func (g *Registry) has(ctx context.Context, repo string, d digest.Digest) (bool, error) {
	return fresh(ctx, g, func() (bool, error) { return g.Catalog.RepoHasBlob(ctx, repo, d) },
		func(has bool, err error) bool { return err == nil && !has })
}

// tags lists versions, channels and tags.
func (g *Registry) tags(w http.ResponseWriter, r *http.Request, repo string) error {
	names, err := g.known(r.Context(), repo)
	if err != nil {
		return err
	}
	channels, err := g.Channels.List(r.Context(), repo+"@")
	if err != nil {
		return unavailable(err)
	}
	for _, c := range channels {
		names = append(names, c.Channel)
	}
	tags, err := g.Tags.List(r.Context(), repo+"@")
	if err != nil {
		return unavailable(err)
	}
	for key, tag := range tags {
		row, err := g.Catalog.Resolve(r.Context(), repo, tag.Digest)
		if err == nil && row.Trash != nil {
			continue
		}
		names = append(names, strings.TrimPrefix(key, repo+"@"))
	}
	slices.Sort(names)
	page, err := paginate(w, r, slices.Compact(names))
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{repo, page})
}

func (g *Registry) repositories(w http.ResponseWriter, r *http.Request) error {
	repos, err := g.Catalog.Repos(r.Context())
	if err != nil {
		return err
	}
	page, err := paginate(w, r, repos)
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{page})
}
