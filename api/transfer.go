package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/recipe"

	"github.com/danielgtaylor/huma/v2"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of POST /v1/imports.
const (
	maxVersionRecord = 64 << 20 // bytes of the body
	maxVersionImages = 64
	maxVersionBlobs  = 4096
)

// VersionRecordType is the media type of a VersionRecord as JSON: what an exported layout has for each version.
const VersionRecordType = "application/vnd.bakefarm.version.v1+json"

// VersionRecord is everything that a farm knows of a version, apart from the bytes: what another farm needs to have it too.
type VersionRecord struct {
	Version  farm.Version      `json:"version"`            // as the farm has it, without pins and trash
	Lock     string            `json:"lock"`               // text of its Lock, whose sha256 is Version.Lock
	Recipe   *RecordRecipe     `json:"recipe,omitempty"`   // nil when the bake is forgotten
	Channels []string          `json:"channels,omitempty"` // that point to it
	Blobs    []imagestore.Blob `json:"blobs"`              // what each blob and manifest of its images is made of
}

// recordForm is a VersionRecord for the OpenAPI document: of the farm's own types there is no schema.
const recordForm = "version: the record as the farm keeps it; lock: text of the Lock; recipe: {file, text, set}; channels; blobs: for each blob and manifest " +
	"{digest, size, parts: [{d: digest of a piece, nothing for a hole of zeros; s: size}]}"

// RecordRecipe is the recipe of a version.
type RecordRecipe struct {
	File string   `json:"file"`
	Text string   `json:"text"`
	Set  []string `json:"set,omitempty"`
}

// ImportedVersion is what became of a version that was imported.
type ImportedVersion struct {
	Name    string  `json:"name"`
	Version string  `json:"version"`
	Outcome string  `json:"outcome" enum:"imported,present,restored,mended" doc:"present: it was here already; restored: here, in the trash; mended: here, and damaged"`
	Images  []Image `json:"images"`
}

type importInput struct{ streamed }

func (a *API) routeTransfer() {
	read := get("get-record", "/v1/images/{ref}/record", "images", "Everything about a version apart from its bytes, for another farm", http.StatusNotFound)
	read.Responses = map[string]*huma.Response{"200": jsonResponse(recordForm)}
	route(a, read,
		func(ctx context.Context, in *struct {
			Ref string `path:"ref" maxLength:"512" doc:"name, name:version, name:channel or name@digest"`
		}) (*body[json.RawMessage], error) {
			r, err := a.record(ctx, in.Ref)
			if err != nil {
				return nil, err
			}
			raw, err := json.Marshal(r)
			return &body[json.RawMessage]{raw}, err
		})
	op := post("import-version", "/v1/imports", "images", "Take in a version of another farm", 400, 409, 413, 415, 422)
	op.Description = "The body is the record that the other farm gave. While pieces are missing the answer is 409 with a problem of type " + ProblemMissing +
		", which lists them: send them with POST /v1/chunks?name=…&large=true, then post again. Every blob is put together and hashed before the version is there."
	route(a, op, a.importVersion)
	describe[nothing](a, op, "application/json", recordForm)
}

// record puts a version's record together.
func (a *API) record(ctx context.Context, ref string) (VersionRecord, error) {
	v, err := a.version(ctx, ref)
	if err != nil {
		return VersionRecord{}, err
	}
	v.Pins, v.Trash = nil, nil
	r := VersionRecord{Version: v}
	lock, err := imagestore.ReadAll(ctx, a.Store, v.Lock, imagestore.MaxPiece)
	if err != nil {
		return r, fmt.Errorf("lock of %s:%s: %w", v.Name, v.Version, err)
	}
	r.Lock = string(lock)
	b, _, err := a.Bus.Bakes.Get(ctx, v.Bake)
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return r, err
	}
	if err == nil {
		text, err := imagestore.ReadAll(ctx, a.Store, b.Recipe, maxRecipe)
		if err == nil {
			r.Recipe = &RecordRecipe{b.File, string(text), b.Set}
		} else if !errors.Is(err, imagestore.ErrNotFound) {
			return r, fmt.Errorf("recipe of %s:%s: %w", v.Name, v.Version, err)
		}
	}
	channels, err := a.Bus.Channels.List(ctx, v.Name+"@")
	if err != nil {
		return r, err
	}
	for _, c := range channels {
		if c.Version == v.Version {
			r.Channels = append(r.Channels, c.Channel)
		}
	}
	slices.Sort(r.Channels)
	for _, d := range blobsOf(v) {
		blob, err := a.Store.Stat(ctx, d)
		if err != nil {
			return r, fmt.Errorf("%s:%s: %w", v.Name, v.Version, err)
		}
		r.Blobs = append(r.Blobs, blob)
	}
	return r, nil
}

// blobsOf lists the manifests and blobs of a version's images, and of what is attached to them, each once.
func blobsOf(v farm.Version) []digest.Digest {
	var list []digest.Digest
	seen := map[digest.Digest]bool{}
	add := func(d digest.Digest, blobs []digest.Digest) {
		for _, d := range append([]digest.Digest{d}, blobs...) {
			if !seen[d] {
				seen[d] = true
				list = append(list, d)
			}
		}
	}
	for _, i := range v.Images {
		add(i.Digest, i.Blobs)
	}
	for _, a := range v.Attached {
		add(a.Digest, a.Blobs)
	}
	return list
}

func (a *API) importVersion(ctx context.Context, in *importInput) (*body[ImportedVersion], error) {
	if err := a.intake.Acquire(ctx, 2*maxVersionRecord); err != nil {
		return nil, err
	}
	defer a.intake.Release(2 * maxVersionRecord)
	in.patience(bakePatience)
	raw, err := in.open("application/json", maxVersionRecord)
	if err != nil {
		return nil, asBodyError(err)
	}
	text, err := io.ReadAll(raw)
	in.patience(0)
	if err != nil {
		return nil, asBodyError(err)
	}
	var r VersionRecord
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&r); err != nil {
		return nil, at("body", fmt.Errorf("the body is no version's record: %w", err))
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	was, _, err := a.Bus.Versions.Get(ctx, r.Version.Name+"@"+r.Version.Version)
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return nil, err
	}
	known := err == nil && was.Key == r.Version.Key && slices.EqualFunc(was.Images, r.Version.Images, func(x, y farm.Image) bool { return x.Digest == y.Digest })
	known = known && !slices.ContainsFunc(r.Version.Attached, func(artifact farm.Attachment) bool { return !was.Has(artifact.Digest) })
	if known { // nothing has to travel for what is whole
		have, err := a.Store.Have(ctx, append(blobsOf(was), was.Lock))
		if err != nil {
			return nil, err
		}
		known = !slices.Contains(have, false)
	}
	if !known {
		if err := a.takeIn(ctx, r); err != nil {
			return nil, err
		}
	}
	reply, err := bus.Call[bus.ImportRequest, bus.ImportReply](ctx, a.Bus, bus.ImportVersion, bus.ImportRequest{Version: r.Version, Bake: r.bake()})
	if err != nil {
		return nil, err
	}
	v := reply.Version
	// A version that was here already may have got a signature there.
	if err := a.attachTo(ctx, v.Name, v.Version, slices.DeleteFunc(slices.Clone(r.Version.Attached), func(artifact farm.Attachment) bool { return v.Has(artifact.Digest) })...); err != nil {
		return nil, err
	}
	out := ImportedVersion{Name: v.Name, Version: v.Version, Outcome: reply.Outcome}
	for _, i := range v.Images {
		out.Images = append(out.Images, showImage(i))
	}
	return &body[ImportedVersion]{out}, nil
}

// validate checks what can be checked without the bytes.
func (r *VersionRecord) validate() error {
	v := r.Version
	if err := farm.ValidateName(v.Name); err != nil {
		return at("body.version.name", err)
	}
	lock, err := recipe.DecodeLock([]byte(r.Lock))
	if err != nil {
		return at("body.lock", err)
	}
	switch {
	case digest.FromString(r.Lock) != v.Lock:
		return at("body.lock", fmt.Errorf("lock: its text does not have the digest %.100s that the version says", v.Lock))
	case lock.Key() != v.Key || farm.VersionOf(lock.Key()) != v.Version:
		return at("body.version.key", fmt.Errorf("version: its Lock is that of version %s", farm.VersionOf(lock.Key())))
	case len(v.Images) == 0 || len(v.Images) > maxVersionImages:
		return at("body.version.images", fmt.Errorf("images: %d: want 1 to %d", len(v.Images), maxVersionImages))
	case len(r.Blobs) > maxVersionBlobs:
		return at("body.blobs", fmt.Errorf("blobs: %d: at most %d", len(r.Blobs), maxVersionBlobs))
	case r.Recipe != nil && len(r.Recipe.Text) > maxRecipe:
		return at("body.recipe.text", fmt.Errorf("recipe: %d bytes: at most %d", len(r.Recipe.Text), maxRecipe))
	case len(v.Bake) > 64:
		return at("body.version.bake", errors.New("bake: an ID of at most 64 bytes"))
	}
	for i, image := range v.Images {
		if image.Name != v.Name || image.Ref != v.Name+":"+v.Version || image.Kind != farm.ImageOCI && image.Kind != farm.ImageDisk {
			return at(fmt.Sprintf("body.version.images[%d]", i), fmt.Errorf("image %d: it is %s, a %q, and no image of %s:%s", i, image.Ref, image.Kind, v.Name, v.Version))
		}
	}
	if len(v.Attached) > farm.MaxAttachments {
		return at("body.version.attached", fmt.Errorf("attached: %d: at most %d", len(v.Attached), farm.MaxAttachments))
	}
	for i, artifact := range v.Attached {
		if _, err := (farm.Version{Images: v.Images}).WithAttachment(artifact); err != nil {
			return at(fmt.Sprintf("body.version.attached[%d]", i), err)
		}
	}
	described := map[digest.Digest]bool{}
	for i, b := range r.Blobs {
		if err := b.Validate(); err != nil {
			return at(fmt.Sprintf("body.blobs[%d]", i), err)
		}
		described[b.Digest] = true
	}
	wanted := blobsOf(v)
	for _, d := range wanted {
		if !described[d] {
			return at("body.blobs", fmt.Errorf("blobs: nothing says what %.100s is made of", d))
		}
	}
	if len(wanted) != len(r.Blobs) {
		return at("body.blobs", fmt.Errorf("blobs: %d, but the images have %d", len(r.Blobs), len(wanted)))
	}
	return nil
}

// bake is the record of the bake that made the version, as far as the other farm remembers it.
func (r *VersionRecord) bake() *farm.Bake {
	if r.Recipe == nil || r.Version.Bake == "" {
		return nil
	}
	v := r.Version
	return &farm.Bake{
		ID: v.Bake, Name: v.Name, Recipe: digest.FromString(r.Recipe.Text), File: r.Recipe.File, Set: r.Recipe.Set,
		State: farm.BakeDone, Lock: v.Lock, Key: v.Key, Version: v.Version, Images: v.Images, AcceptedAt: v.CreatedAt, DoneAt: v.CreatedAt,
	}
}

// takeIn makes the store have a version's blobs, if its pieces are all there and shown to be the sender's; else the problem lists
// them. Blobs are hashed as a whole, and the images' manifests must say what the record says.
func (a *API) takeIn(ctx context.Context, r VersionRecord) error {
	var pieces []digest.Digest
	seen := map[digest.Digest]bool{}
	for _, b := range r.Blobs {
		for _, p := range b.Parts {
			if p.Digest != "" && !seen[p.Digest] {
				seen[p.Digest] = true
				pieces = append(pieces, p.Digest)
			}
		}
	}
	name := r.Version.Name
	missing, err := a.unshown(ctx, name, "", pieces)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return a.missing(ctx, name, missing, fmt.Sprintf("%s:%s: %d of its %d pieces are not here: POST them to /v1/chunks?name=%s&large=true, then post its record again",
			name, r.Version.Version, len(missing), len(pieces), url.QueryEscape(name)))
	}
	w := a.Store.Begin()
	for _, b := range r.Blobs {
		if err := a.compose(ctx, w, b); err != nil {
			return err
		}
	}
	texts := []string{r.Lock}
	if r.Recipe != nil {
		texts = append(texts, r.Recipe.Text)
	}
	for _, text := range texts {
		if _, err := w.Put(ctx, []byte(text)); err != nil {
			return err
		}
	}
	if err := w.Commit(ctx); err != nil {
		return err
	}
	for i, image := range r.Version.Images {
		if err := a.checkImage(ctx, r, image); err != nil {
			return at(fmt.Sprintf("body.version.images[%d]", i), err)
		}
	}
	sizes := map[digest.Digest]int64{}
	for _, b := range r.Blobs {
		sizes[b.Digest] = b.Size
	}
	for i, artifact := range r.Version.Attached {
		if err := a.checkAttachment(ctx, artifact, sizes); err != nil {
			return at(fmt.Sprintf("body.version.attached[%d]", i), err)
		}
	}
	return nil
}

// compose describes a blob to the store when its bytes are what they should be.
func (a *API) compose(ctx context.Context, w imagestore.Writer, b imagestore.Blob) error {
	if there, err := a.Store.Stat(ctx, b.Digest); err == nil && slices.Equal(there.Parts, b.Parts) {
		return nil // whoever put it there has hashed it
	} else if err != nil && !errors.Is(err, imagestore.ErrNotFound) {
		return err
	}
	content, err := imagestore.OpenParts(ctx, a.Store, b.Parts)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(h, content)
	if err := errors.Join(err, content.Close()); err != nil {
		return err
	}
	if got := digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(h.Sum(nil))); got != b.Digest {
		return at("body.blobs", fmt.Errorf("blob %s: its pieces together have the digest %s", b.Digest, got))
	}
	return w.Compose(ctx, b)
}

// checkImage compares an image's manifest with the record.
func (a *API) checkImage(ctx context.Context, r VersionRecord, image farm.Image) error {
	raw, err := imagestore.ReadAll(ctx, a.Store, image.Digest, imagestore.MaxManifest)
	if err != nil {
		return err
	}
	refs, err := imagestore.ManifestRefs(image.MediaType, raw)
	if err != nil {
		return fmt.Errorf("%s: %w", image.Digest, err)
	}
	sizes := map[digest.Digest]int64{}
	for _, b := range r.Blobs {
		sizes[b.Digest] = b.Size
	}
	for _, ref := range refs {
		if !slices.Contains(image.Blobs, ref.Digest) || sizes[ref.Digest] != ref.Size {
			return fmt.Errorf("manifest %s refers to %s of %d bytes, which the record does not have", image.Digest, ref.Digest, ref.Size)
		}
		if image.MediaType == v1.MediaTypeImageIndex && !slices.ContainsFunc(r.Version.Images, func(i farm.Image) bool { return i.Digest == ref.Digest }) {
			return fmt.Errorf("index %s refers to %s, which is no image of the version", image.Digest, ref.Digest)
		}
	}
	return nil
}
