// Package remote carries images between the farm's store and other registries. It is the one package that imports
// containers/image, whose maintainers continue it under another path: what moves will move here alone.
//
//	store ─▶ source (types.ImageSource over imagestore.Reader) ─▶ copy.Image ─▶ registry
//
// Blobs stream from the store, verified piece by piece; manifests are copied as they are, so digests stay the same.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
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
			err = fmt.Errorf("push %s to %s: %w", manifest, target, err)
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
	// The library's cache of where blobs were seen wants a directory; ours lives as long as the copy.
	cache, err := os.MkdirTemp("", "bakefarm-push-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(cache)

	// What is published is what the farm has made: there is no signature of somebody else to ask for.
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: []signature.PolicyRequirement{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return err
	}
	defer policy.Destroy()
	_, err = copy.Image(ctx, policy, destination, source{store: store, manifest: manifest}, &copy.Options{
		DestinationCtx:     o.system(reference.Domain(named), cache),
		SourceCtx:          &types.SystemContext{BlobInfoCacheDir: cache},
		PreserveDigests:    true,
		ImageListSelection: copy.CopyAllImages,
	})
	return err
}

// system translates the options for one registry.
func (o Options) system(registry, cache string) *types.SystemContext {
	s := &types.SystemContext{
		AuthFilePath: o.AuthFile, BlobInfoCacheDir: cache, DockerRegistryUserAgent: "bakefarm",
		// The name stands in the recipe in full: no alias or mirror of this machine may change it.
		SystemRegistriesConfPath: os.DevNull, SystemRegistriesConfDirPath: os.DevNull,
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
	var status docker.UnexpectedHTTPStatusError
	switch {
	case errors.Is(err, errReference), errors.Is(err, imagestore.ErrNotFound), errors.As(err, &unauthorized):
		return true
	case errors.As(err, &status):
		return final(status.StatusCode)
	}
	return refused(err)
}

// final reports whether an HTTP status says that the request itself is wrong.
func final(status int) bool {
	return status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests
}

// refused looks through everything that err wraps for a registry's own error codes.
func refused(err error) bool {
	var many errcode.Errors
	if errors.As(err, &many) {
		for _, e := range many {
			if refused(e) {
				return true
			}
		}
	}
	var coder errcode.ErrorCoder
	return errors.As(err, &coder) && final(coder.ErrorCode().Descriptor().HTTPStatusCode)
}
