package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"

	"bakefarm/api"
	"bakefarm/farm"
	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Exports and imports carry versions between farms in an OCI image layout that every tool of that kind reads:
//
//	index.json ─┬─▶ index or manifest, named name:version     as pulled
//	            ├─▶ disk artifact, named name:version-disk-…
//	            ├─▶ what is attached to them: signatures …
//	            └─▶ artifact of type api.VersionRecordType ──▶ record: catalog entry, Lock, recipe, pieces of each blob

// downloads is how many blobs of an export are on their way at the same time.
const downloads = 4

// Exported is a version that was exported.
type Exported struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Blobs   int    `json:"blobs"`   // with manifests
	Size    int64  `json:"size"`    // of them, in bytes
	Skipped int    `json:"skipped"` // of them: in the layout already
}

// Export writes versions into a layout: a file when target ends in .tar, else a directory, to which it adds. What a directory has
// already is not fetched again, and every blob is verified. received counts the bytes that travelled; it may be nil.
func (c *Client) Export(ctx context.Context, refs []string, target string, received func(int64)) (done []Exported, err error) {
	var records []api.VersionRecord
	seen := map[string]bool{}
	for _, ref := range refs { // a reference that means nothing is found out before anything is written
		r, err := get[api.VersionRecord](ctx, c, "/v1/images/"+segment(ref)+"/record", nil)
		if err != nil {
			return nil, fmt.Errorf("export %s: %w", ref, err)
		}
		if key := r.Version.Name + ":" + r.Version.Version; !seen[key] {
			seen[key] = true
			records = append(records, r)
		}
	}
	b, err := openBundle(target)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.drop()
		}
	}()
	index, err := b.index()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	for _, r := range records {
		e, err := c.exportVersion(ctx, b, r, received)
		if err != nil {
			return nil, fmt.Errorf("export %s:%s: %w", r.Version.Name, r.Version.Version, err)
		}
		entries, err := putRecord(b, r)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool {
				return d.Digest == entry.Digest || d.Annotations[refName] != "" && d.Annotations[refName] == entry.Annotations[refName]
			})
			index.Manifests = append(index.Manifests, entry)
		}
		done = append(done, e)
	}
	return done, b.finish(index)
}

func (c *Client) exportVersion(ctx context.Context, b bundleWriter, r api.VersionRecord, received func(int64)) (Exported, error) {
	e := Exported{Name: r.Version.Name, Version: r.Version.Version}
	streams := downloads
	if _, one := b.(*tarBundle); one {
		streams = 1
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(streams)
	for _, blob := range r.Blobs {
		e.Blobs, e.Size = e.Blobs+1, e.Size+blob.Size
		if b.has(blob.Digest, blob.Size) {
			e.Skipped++
			continue
		}
		group.Go(func() error {
			resp, err := c.request(ctx, http.MethodGet, "/v2/"+r.Version.Name+"/blobs/"+blob.Digest.String(), nil, nil, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			var body io.Reader = resp.Body
			if received != nil {
				body = &countingBody{resp.Body, received}
			}
			return b.put(blob.Digest, blob.Size, body)
		})
	}
	return e, group.Wait()
}

// putRecord stores a version's record, and returns the index's entries for the version.
func putRecord(b bundleWriter, r api.VersionRecord) ([]v1.Descriptor, error) {
	put := func(mediaType string, raw []byte) (v1.Descriptor, error) {
		d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		if b.has(d.Digest, d.Size) {
			return d, nil
		}
		return d, b.put(d.Digest, d.Size, bytes.NewReader(raw))
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var referrers []v1.Descriptor
	for _, a := range r.Version.Attached {
		referrers = append(referrers, v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: a.Digest, Size: a.Size, ArtifactType: a.Type, Annotations: a.Annotations})
	}
	config, err := put(v1.MediaTypeEmptyJSON, v1.DescriptorEmptyJSON.Data)
	if err != nil {
		return nil, err
	}
	record, err := put(api.VersionRecordType, raw)
	if err != nil {
		return nil, err
	}
	sizes := map[digest.Digest]int64{}
	for _, blob := range r.Blobs {
		sizes[blob.Digest] = blob.Size
	}
	var entries []v1.Descriptor
	ref := r.Version.Name + ":" + r.Version.Version
	multi := slices.ContainsFunc(r.Version.Images, farm.Image.IsIndex)
	for _, i := range r.Version.Images {
		entry := v1.Descriptor{MediaType: i.MediaType, Digest: i.Digest, Size: sizes[i.Digest], Annotations: map[string]string{refName: ref}}
		switch {
		case i.Kind == farm.ImageDisk:
			entry.Annotations[refName] = ref + "-disk-" + strings.ReplaceAll(i.Platform, "/", "-")
		case multi && !i.IsIndex():
			continue // below the index
		}
		entries = append(entries, entry)
	}
	subject := entries[0]
	subject.Annotations = nil
	manifest, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: api.VersionRecordType,
		Config: config, Layers: []v1.Descriptor{record}, Subject: &subject,
	})
	if err != nil {
		return nil, err
	}
	entry, err := put(v1.MediaTypeImageManifest, manifest)
	entry.ArtifactType = api.VersionRecordType
	// One record a version: the name is what a later export of the same version replaces it by.
	entry.Annotations = map[string]string{refName: ref + "-record"}
	return append(append(entries, referrers...), entry), err
}

// ImportOptions say what of a layout is imported.
type ImportOptions struct {
	Only     []string // globs over name:version; none: everything
	Channels bool     // move the channels that pointed to a version there
	Sent     func(int64)
}

// ImportResult is what became of one version.
type ImportResult struct {
	api.ImportedVersion
	Pieces   int      `json:"pieces"`             // of its blobs
	Sent     int      `json:"sent"`               // of them: travelled; the farm had the others
	Bytes    int64    `json:"bytes"`              // that travelled
	Channels []string `json:"channels,omitempty"` // that were moved
}

// Import gives the versions of an exported layout to the farm, one after the other. It sends the pieces that the farm lacks; what
// is there already is skipped, so that an import that broke off goes on where it was. Everything is verified: pieces and blobs
// by the farm, the layout's files here. Results until an error are returned with it.
func (c *Client) Import(ctx context.Context, source string, o ImportOptions) ([]ImportResult, error) {
	b, err := readBundle(source)
	if err != nil {
		return nil, err
	}
	defer b.close()
	var results []ImportResult
	found := 0
	for _, entry := range b.index.Manifests {
		if entry.ArtifactType != api.VersionRecordType {
			continue
		}
		found++
		r, err := b.record(entry)
		if err != nil {
			return results, fmt.Errorf("%s: record %s: %w", source, entry.Digest, err)
		}
		ref := r.Version.Name + ":" + r.Version.Version
		if !matches(o.Only, ref) {
			continue
		}
		result, err := c.importVersion(ctx, b, r, o)
		if err != nil {
			return results, fmt.Errorf("import %s: %w", ref, err)
		}
		results = append(results, result)
	}
	if found == 0 {
		return nil, fmt.Errorf("%s has no version in it that bakefarm export has written", source)
	}
	return results, nil
}

func matches(globs []string, ref string) bool {
	name, _, _ := strings.Cut(ref, ":")
	return len(globs) == 0 || slices.ContainsFunc(globs, func(g string) bool {
		if g == ref || g == name {
			return true
		}
		whole, err := path.Match(g, ref)
		short, _ := path.Match(g, name)
		return err == nil && (whole || short)
	})
}

// maxRecord bounds a version's record, in bytes: the farm takes no larger one.
const maxRecord = 64 << 20

func (b *bundleReader) record(entry v1.Descriptor) (api.VersionRecord, error) {
	var r api.VersionRecord
	raw, err := b.read(entry.Digest, imagestore.MaxManifest)
	if err != nil {
		return r, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return r, err
	}
	if len(m.Layers) != 1 || m.Layers[0].MediaType != api.VersionRecordType {
		return r, errors.New("its manifest has no record")
	}
	if raw, err = b.read(m.Layers[0].Digest, maxRecord); err != nil {
		return r, err
	}
	return r, json.Unmarshal(raw, &r)
}

func (c *Client) importVersion(ctx context.Context, b *bundleReader, r api.VersionRecord, o ImportOptions) (ImportResult, error) {
	pieces := &pieceSource{bundle: b, places: map[digest.Digest]piece{}}
	for _, blob := range r.Blobs {
		at := int64(0)
		for _, p := range blob.Parts {
			if p.Digest != "" {
				pieces.places[p.Digest] = piece{blob.Digest, place{offset: at, size: p.Size}}
			}
			at += p.Size
		}
	}
	result := ImportResult{Pieces: len(pieces.places)}
	var mu sync.Mutex
	sent := func(n int64) {
		mu.Lock()
		result.Sent, result.Bytes = result.Sent+1, result.Bytes+n
		mu.Unlock()
		if o.Sent != nil {
			o.Sent(n)
		}
	}
	channels := r.Channels
	r.Channels = nil
	imported, err := deliver(ctx, delivery[api.ImportedVersion]{
		post: func() (api.ImportedVersion, error) { return post[api.ImportedVersion](ctx, c, "/v1/imports", r) },
		send: func(missing *Error) error { return c.upload(ctx, pieces, r.Version.Name, missing, sent) },
	})
	result.ImportedVersion = imported
	if err != nil || !o.Channels {
		return result, err
	}
	for _, channel := range channels {
		now, err := c.Channel(ctx, r.Version.Name, channel)
		var problem *Error
		if err != nil && (!errors.As(err, &problem) || problem.Status != http.StatusNotFound) {
			return result, err
		}
		if err == nil && now.Version == imported.Version {
			continue
		}
		if _, err := c.Promote(ctx, r.Version.Name, channel, api.PromoteRequest{Version: imported.Version}); err != nil {
			return result, fmt.Errorf("channel %s: %w", channel, err)
		}
		result.Channels = append(result.Channels, channel)
	}
	return result, nil
}

// piece is where a piece lies in a layout.
type piece struct {
	blob digest.Digest
	place
}

// pieceSource gives the pieces of a layout's blobs.
type pieceSource struct {
	bundle *bundleReader
	places map[digest.Digest]piece
}

func (s *pieceSource) size(d digest.Digest) int64 { return s.places[d].size }
func (s *pieceSource) large() bool                { return true }

func (s *pieceSource) read(d digest.Digest) ([]byte, error) {
	p, ok := s.places[d]
	if !ok {
		return nil, fmt.Errorf("the farm asks for %s, which no blob of the version has", d)
	}
	content, closer, size, err := s.bundle.open(p.blob)
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	if p.size > imagestore.MaxPiece || p.offset+p.size > size {
		return nil, fmt.Errorf("%s: %d bytes at %d of %d: the layout is damaged", p.blob, p.size, p.offset, size)
	}
	raw := make([]byte, p.size)
	_, err = io.ReadFull(io.NewSectionReader(content, p.offset, p.size), raw)
	return raw, err
}

func (s *pieceSource) verified(d digest.Digest) ([]byte, error) {
	raw, err := s.read(d)
	if err == nil && digest.FromBytes(raw) != d {
		return nil, fmt.Errorf("%s: its bytes at %d are not piece %s: the layout is damaged", s.places[d].blob, s.places[d].offset, d)
	}
	return raw, err
}
