package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"

	"github.com/danielgtaylor/huma/v2"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxAttached is the size limit of an attached file, in bytes.
const maxAttached = 4 << 20

type attachInput struct {
	Ref  string `path:"ref" maxLength:"512" doc:"name, name:version, name:channel or name@digest; of several images of a version it is the index that is meant, or the one of the digest"`
	Body AttachRequest
}

type detachInput struct {
	Ref    string `path:"ref" maxLength:"512" doc:"name, name:version, name:channel or name@digest"`
	Digest string `path:"digest" maxLength:"128" doc:"Of the artifact's manifest"`
}

func (a *API) routeAttachments() {
	const path = "/v1/images/{ref}/attachments"
	op := post("attach", path, "images", "Attach a signature, an attestation or a report to an image, as an OCI artifact that registries list as its referrer", 404, 422)
	op.MaxBodyBytes = 2 * maxAttached
	route(a, op, a.attach)
	route(a, get("list-attachments", path, "images", "List what is attached to the images of a version", 404), a.listAttachments)
	remove := huma.Operation{
		OperationID: "detach", Method: http.MethodDelete, Path: path + "/{digest}", Tags: []string{"images"}, Errors: []int{404, 422},
		Summary: "Detach an artifact from its image", DefaultStatus: http.StatusNoContent,
	}
	route(a, remove, a.detach)
}

func (a *API) listAttachments(ctx context.Context, in *imageRef) (*body[[]farm.Attachment], error) {
	v, err := a.version(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	if v.Attached == nil {
		v.Attached = []farm.Attachment{}
	}
	return &body[[]farm.Attachment]{v.Attached}, nil
}

// attach makes an artifact of a file and attaches it. The same file with the same words about it is the same artifact.
func (a *API) attach(ctx context.Context, in *attachInput) (*body[farm.Attachment], error) {
	r := in.Body
	for field, mediaType := range map[string]string{"body.type": r.Type, "body.mediaType": cmp.Or(r.MediaType, r.Type)} {
		if err := farm.ValidateMediaType(mediaType); err != nil {
			return nil, at(field, err)
		}
	}
	if len(r.Content) == 0 || len(r.Content) > maxAttached {
		return nil, at("body.content", fmt.Errorf("content: %d bytes: want 1 to %d", len(r.Content), maxAttached))
	}
	a.refresh(ctx)
	row, err := a.resolve(ctx, in.Ref)
	if errors.Is(err, imagestore.ErrNotFound) {
		return nil, refuse(http.StatusNotFound, "there is no image %s", in.Ref)
	}
	if err != nil {
		return nil, err
	}
	subject, err := a.Store.Stat(ctx, row.Digest)
	if err != nil {
		return nil, err
	}
	w := a.Store.Begin()
	layer, err := w.Put(ctx, r.Content)
	if err != nil {
		return nil, err
	}
	config, err := w.Put(ctx, v1.DescriptorEmptyJSON.Data)
	if err != nil {
		return nil, err
	}
	content := v1.Descriptor{MediaType: cmp.Or(r.MediaType, r.Type), Digest: layer.Digest, Size: layer.Size}
	if r.Title != "" {
		content.Annotations = map[string]string{v1.AnnotationTitle: r.Title}
	}
	raw, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: r.Type,
		Config:  v1.Descriptor{MediaType: v1.MediaTypeEmptyJSON, Digest: config.Digest, Size: config.Size},
		Layers:  []v1.Descriptor{content},
		Subject: &v1.Descriptor{MediaType: row.MediaType, Digest: row.Digest, Size: subject.Size}, Annotations: r.Annotations,
	})
	if err != nil {
		return nil, err
	}
	made := farm.Attachment{
		Subject: row.Digest, Digest: digest.FromBytes(raw), Size: int64(len(raw)), Type: r.Type, Annotations: r.Annotations,
		Blobs: []digest.Digest{config.Digest, layer.Digest}, By: cmp.Or(r.By, somebody), At: time.Now().UTC().Truncate(time.Second),
	}
	if err := made.Validate(); err != nil {
		return nil, at("body", err)
	}
	if _, err := imagestore.PutManifest(ctx, a.Store, w, v1.MediaTypeImageManifest, raw); err != nil {
		return nil, err
	}
	if err := w.Commit(ctx); err != nil {
		return nil, err
	}
	return &body[farm.Attachment]{made}, a.attachTo(ctx, row.Name, row.Version, made)
}

// attachTo attaches artifacts that the store has to a version.
func (a *API) attachTo(ctx context.Context, name, version string, artifacts ...farm.Attachment) error {
	for _, artifact := range artifacts {
		if _, err := bus.Call[bus.AttachRequest, bus.AttachReply](ctx, a.Bus, bus.Attach, bus.AttachRequest{Name: name, Version: version, Attachment: artifact}); err != nil {
			return err
		}
	}
	return nil
}

func (a *API) detach(ctx context.Context, in *detachInput) (*struct{}, error) {
	d := digest.Digest(in.Digest)
	if _, err := imagestore.ParseDigest(d); err != nil {
		return nil, at("path.digest", err)
	}
	v, err := a.version(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	_, err = bus.Call[bus.AttachRequest, bus.AttachReply](ctx, a.Bus, bus.Attach, bus.AttachRequest{Name: v.Name, Version: v.Version, Detach: d})
	return nil, err
}

// checkAttachment compares an artifact's manifest with the record of an import.
func (a *API) checkAttachment(ctx context.Context, artifact farm.Attachment, sizes map[digest.Digest]int64) error {
	raw, err := imagestore.ReadAll(ctx, a.Store, artifact.Digest, imagestore.MaxManifest)
	if err != nil {
		return err
	}
	refs, err := imagestore.ManifestRefs(v1.MediaTypeImageManifest, raw)
	if err != nil {
		return fmt.Errorf("%s: %w", artifact.Digest, err)
	}
	var m v1.Manifest
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&m); err != nil {
		return fmt.Errorf("%s: %w", artifact.Digest, err)
	}
	if m.Subject == nil || m.Subject.Digest != artifact.Subject || int64(len(raw)) != artifact.Size {
		return fmt.Errorf("artifact %s: it is not about %s, or has not %d bytes", artifact.Digest, artifact.Subject, artifact.Size)
	}
	for _, ref := range refs {
		if size, has := sizes[ref.Digest]; !has || size != ref.Size {
			return fmt.Errorf("artifact %s refers to %s of %d bytes, which the record does not have", artifact.Digest, ref.Digest, ref.Size)
		}
	}
	return nil
}
