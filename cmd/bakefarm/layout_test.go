package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// listLayout lists what is in the one image of an OCI layout, a line for each entry of its layers. It reads with the
// standard library alone, checks every digest and size, and refuses a path that occurs twice in a layer.
func listLayout(dir string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, v1.ImageIndexFile))
	if err != nil {
		return "", err
	}
	var index v1.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return "", err
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("%s: %d images, want one", dir, len(index.Manifests))
	}
	if raw, err = layoutBlob(dir, index.Manifests[0]); err != nil {
		return "", err
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return "", err
	}
	if raw, err = layoutBlob(dir, manifest.Config); err != nil {
		return "", err
	}
	var config v1.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return "", err
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return "", fmt.Errorf("%s: %d layers, %d diff IDs", dir, len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	var list bytes.Buffer
	for i, d := range manifest.Layers {
		if raw, err = layoutBlob(dir, d); err != nil {
			return "", err
		}
		fmt.Fprintf(&list, "layer %d\n", i+1)
		if err := listLayer(&list, raw, config.RootFS.DiffIDs[i]); err != nil {
			return "", fmt.Errorf("layer %s: %w", d.Digest, err)
		}
	}
	return list.String(), nil
}

func layoutBlob(dir string, d v1.Descriptor) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(dir, v1.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded()))
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(raw); got != d.Digest || int64(len(raw)) != d.Size {
		return nil, fmt.Errorf("blob %s of %d bytes is %s and has %d", d.Digest, d.Size, got, len(raw))
	}
	return raw, nil
}

// listLayer lists the entries of a layer that unpacks to diffID.
func listLayer(out io.Writer, raw []byte, diffID digest.Digest) error {
	unpacked, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	verifier := diffID.Verifier()
	in := io.TeeReader(unpacked, verifier)
	seen := map[string]bool{}
	for t := tar.NewReader(in); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		path := filepath.Clean("/" + h.Name)
		if seen[path] {
			return fmt.Errorf("%s occurs twice", path)
		}
		seen[path] = true
		line := fmt.Sprintf("%s %d:%d %s", h.FileInfo().Mode(), h.Uid, h.Gid, h.Name)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		fmt.Fprintln(out, line)
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	if !verifier.Verified() {
		return fmt.Errorf("unpacked it is not %s", diffID)
	}
	return nil
}
