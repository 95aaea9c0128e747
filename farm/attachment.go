package farm

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Attachment is an OCI artifact about an image of a version: a signature, an attestation, a report (OCI image specification 1.1,
// manifest with a subject). The farm does not look into it. It stays as long as the version does, and travels with it.
type Attachment struct {
	Subject     digest.Digest     `json:"subject"` // the image's
	Digest      digest.Digest     `json:"digest"`  // of the artifact's manifest
	Size        int64             `json:"size"`    // of that manifest, in bytes
	Type        string            `json:"type"`    // media type: what it is
	Annotations map[string]string `json:"annotations,omitempty"`
	Blobs       []digest.Digest   `json:"blobs"` // that its manifest refers to
	By          string            `json:"by"`
	At          time.Time         `json:"at"`
}

// Bounds of what is attached to a version.
const (
	MaxAttachments      = 64
	maxAttachmentBlobs  = 64
	maxAnnotationsBytes = 8 << 10
)

// mediaType is the form of a media type (RFC 6838, section 4.2).
var mediaType = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$`)

// ValidateMediaType refuses what is no media type.
func ValidateMediaType(s string) error {
	if !mediaType.MatchString(s) {
		return fmt.Errorf("media type %.100q: want one such as application/vnd.example.signature", s)
	}
	return nil
}

// Validate checks an attachment by itself.
func (a Attachment) Validate() error {
	if err := ValidateMediaType(a.Type); err != nil {
		return fmt.Errorf("type: %w", err)
	}
	for _, d := range append([]digest.Digest{a.Subject, a.Digest}, a.Blobs...) {
		if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
			return fmt.Errorf("digest %.100q: want sha256: and 64 hexadecimal digits", string(d))
		}
	}
	size := 0
	for key, value := range a.Annotations {
		if key == "" {
			return errors.New("annotations: one has no name")
		}
		size += len(key) + len(value)
	}
	switch {
	case size > maxAnnotationsBytes:
		return fmt.Errorf("annotations: %d bytes: at most %d", size, maxAnnotationsBytes)
	case len(a.Blobs) > maxAttachmentBlobs:
		return fmt.Errorf("blobs: %d: at most %d", len(a.Blobs), maxAttachmentBlobs)
	case a.Size <= 0:
		return errors.New("size: want more than 0")
	}
	return nil
}

// WithAttachment is the version with an artifact more; as it was when it has it already.
func (v Version) WithAttachment(a Attachment) (Version, error) {
	if err := a.Validate(); err != nil {
		return v, err
	}
	if !slices.ContainsFunc(v.Images, func(i Image) bool { return i.Digest == a.Subject }) {
		return v, fmt.Errorf("subject: %s is no image of %s:%s", a.Subject, v.Name, v.Version)
	}
	if v.Has(a.Digest) {
		return v, nil
	}
	if len(v.Attached) >= MaxAttachments {
		return v, fmt.Errorf("%s:%s has %d artifacts attached, which is the limit: detach one first", v.Name, v.Version, MaxAttachments)
	}
	v.Attached = append(slices.Clone(v.Attached), a)
	return v, nil
}

// Has reports whether an artifact is attached to the version.
func (v Version) Has(artifact digest.Digest) bool {
	return slices.ContainsFunc(v.Attached, func(a Attachment) bool { return a.Digest == artifact })
}

// WithoutAttachment is the version without an artifact. had is false when it had none.
func (v Version) WithoutAttachment(artifact digest.Digest) (without Version, had bool) {
	n := len(v.Attached)
	v.Attached = slices.DeleteFunc(slices.Clone(v.Attached), func(a Attachment) bool { return a.Digest == artifact })
	return v, len(v.Attached) < n
}
