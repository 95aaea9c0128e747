// Package remote carries images between the farm's store and other registries, and reads those that others made. It is the one
// package that imports containers/image, whose maintainers continue it under another path: what moves will move here alone.
//
//	Push          store ─▶ source (types.ImageSource over imagestore.Reader) ─▶ copy.Image ─▶ registry
//	Client.Look   registry ─▶ what a reference names now, by platform
//	Client.Open   registry, OCI layout, archive of docker save ─▶ manifest, configuration, layers as they are
//
// Blobs stream from the store, verified piece by piece; manifests are copied as they are, so digests stay the same.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"

	"bakefarm/imagestore"

	"github.com/containers/image/v5/copy"
	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/docker/reference"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/types"
	"github.com/docker/distribution/registry/api/errcode"
	"github.com/opencontainers/go-digest"
)

// Options say how to reach a registry.
type Options struct {
	AuthFile string   // credentials; empty: where podman and docker keep theirs
	Insecure []string // registries (host or host:port) that are spoken to over http, or https with any certificate; loopback ones always are
}

// errReference: a target that names no image of a registry.
var errReference = errors.New("no reference of a registry's image")

// Push copies the image or index with the given manifest digest to target ("registry.example/shop/checkout:1"), with its
// digest preserved. Blobs that the registry has already are not sent again. Idempotent. The error names the target; Final
// says whether trying again makes sense.
func Push(ctx context.Context, store imagestore.Reader, manifest digest.Digest, target string, o Options) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("push %s to %s: %w", manifest, target, withoutQuery(err))
		}
	}()
	named, err := reference.ParseNormalizedNamed(target)
	if err != nil {
		return fmt.Errorf("%w: %w", errReference, err)
	}
	destination, err := docker.NewReference(reference.TagNameOnly(named))
	if err != nil {
		return fmt.Errorf("%w: %w", errReference, err)
	}
	// What is published is what the farm has made: there is no signature of somebody else to ask for.
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: []signature.PolicyRequirement{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return err
	}
	defer policy.Destroy()
	_, err = copy.Image(ctx, policy, destination, source{store: store, manifest: manifest}, &copy.Options{
		DestinationCtx:     o.system(reference.Domain(named)),
		PreserveDigests:    true,
		ImageListSelection: copy.CopyAllImages,
	})
	return err
}

// bareError is an error with another text.
type bareError struct {
	text string
	err  error
}

func (e bareError) Error() string { return e.text }
func (e bareError) Unwrap() error { return e.err }

// withoutQuery leaves the query of a failed request's URL out of an error's text: registries put sessions and signatures
// there, which are long and nobody's business.
func withoutQuery(err error) error {
	var failed *url.Error
	if !errors.As(err, &failed) {
		return err
	}
	if bare, _, found := strings.Cut(failed.URL, "?"); found {
		return bareError{strings.ReplaceAll(err.Error(), failed.URL, bare), err}
	}
	return err
}

// system translates the options for one registry.
func (o Options) system(registry string) *types.SystemContext {
	s := &types.SystemContext{
		AuthFilePath: o.AuthFile, DockerRegistryUserAgent: "bakefarm",
		// The name stands in the recipe in full: no alias or mirror of this machine may change it.
		SystemRegistriesConfPath: os.DevNull, SystemRegistriesConfDirPath: os.DevNull,
		// The library would keep an SQLite database of where it saw which blob, through cgo. Where there can be no
		// directory it remembers in memory: enough for the one registry of one push.
		BlobInfoCacheDir: os.DevNull,
	}
	if o.insecure(registry) {
		s.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	return s
}

func (o Options) insecure(registry string) bool {
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	if ip := net.ParseIP(strings.Trim(host, "[]")); host == "localhost" || ip != nil && ip.IsLoopback() {
		return true
	}
	for _, allowed := range o.Insecure {
		if allowed == registry || allowed == host {
			return true
		}
	}
	return false
}

// Final reports whether an error of Push will stay, however often it is tried: wrong credentials, a bad reference, an
// image that the store does not have or that the registry refuses.
func Final(err error) bool {
	var unauthorized docker.ErrUnauthorizedForCredentials
	var rejected types.ManifestTypeRejectedError
	switch {
	case errors.Is(err, errReference), errors.Is(err, errNoManifest), errors.Is(err, imagestore.ErrNotFound), errors.As(err, &unauthorized), errors.As(err, &rejected):
		return true
	}
	return final(status(err))
}

// final reports whether an HTTP status says that the request itself is wrong.
func final(status int) bool {
	return status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests
}

// passing are the codes with which a registry says that it has lost track of an upload: two pushes to a repository at the
// same time, or its storage lagging behind, are enough for that.
var passing = []string{"BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "SIZE_INVALID"}

// status finds the HTTP status that is behind an error; 0 when a registry did not answer, or when its answer will pass.
func status(err error) int {
	switch e := err.(type) {
	case nil:
		return 0
	case errcode.Errors: // of a registry's body: the first is what it is about
		if len(e) == 0 {
			return 0
		}
		return status(e[0])
	case errcode.ErrorCoder:
		d := e.ErrorCode().Descriptor()
		if slices.Contains(passing, d.Value) {
			return 0
		}
		return d.HTTPStatusCode
	case interface{ Unwrap() error }:
		if code := statusField(err); code != 0 {
			return code
		}
		return status(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, wrapped := range e.Unwrap() {
			if code := status(wrapped); code != 0 {
				return code
			}
		}
	}
	return statusField(err)
}

// statusField reads the field StatusCode, which the library's errors about answers of registries have. Some of their types
// are its own: that of a 4xx answer whose body is not a registry's, as proxies write it.
func statusField(err error) int {
	v := reflect.Indirect(reflect.ValueOf(err))
	if v.Kind() != reflect.Struct {
		return 0
	}
	if f := v.FieldByName("StatusCode"); f.IsValid() && f.CanInt() {
		return int(f.Int())
	}
	return 0
}
