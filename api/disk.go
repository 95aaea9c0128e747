package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"bakefarm/api/usage"
	"bakefarm/compose/disk/qcow2"
	"bakefarm/compose/oci"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Disk says how a disk is stored: what a client needs to put it together out of ranges of its layers.
type Disk struct {
	Image  CatalogImage   `json:"image"`
	Config oci.DiskConfig `json:"config"`
	Layers []DiskLayer    `json:"layers" doc:"Their concatenation is the raw disk"`
	Files  []DiskFile     `json:"files" doc:"What starts the disk without firmware: kernel and initrd of a disk for direct boot"`
}

// DiskLayer is a run of the raw disk, as a blob of the repository.
type DiskLayer struct {
	Digest digest.Digest     `json:"digest"`
	Size   int64             `json:"size"`
	Parts  []imagestore.Part `json:"parts" doc:"Pieces in order by digest (d) and size (s); without a digest: zeros"`
}

// DiskFile is a blob beside the layers.
type DiskFile struct {
	Name   string        `json:"name" enum:"kernel,initrd"`
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// Formats of a disk that are made of the raw one while it is sent.
const (
	FormatRaw   = "raw"
	FormatQcow2 = "qcow2"
)

type diskRef struct {
	Ref      string `path:"ref" maxLength:"512" doc:"name, name:version, name:channel or name@digest"`
	Platform string `query:"platform" maxLength:"64" doc:"Which of several disks: linux/amd64"`
}

type diskInput struct {
	Ref      string `path:"ref" maxLength:"512" doc:"name, name:version, name:channel or name@digest"`
	Platform string `query:"platform" maxLength:"64" doc:"Which of several disks: linux/amd64"`
	Format   string `query:"format" enum:"raw,qcow2" default:"raw" doc:"qcow2 is sparse and not compressed"`
}

func (a *API) routeDisks() {
	route(a, get("get-disk-layers", "/v1/images/{ref}/disk/layers", "images", "Show how a disk is stored, to put it together out of ranges of its blobs", 404, 422), a.getDisk)
	op := get("download-disk", "/v1/images/{ref}/disk", "images", "Download a disk; ranges are served", 404, 416, 422)
	binary := map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
	op.Responses = map[string]*huma.Response{
		"200": {Description: "The disk", Content: binary}, "206": {Description: "A range of it", Content: binary},
	}
	route(a, op, a.downloadDisk)
}

func (a *API) getDisk(ctx context.Context, in *diskRef) (*body[Disk], error) {
	row, d, err := a.openDisk(ctx, in.Ref, in.Platform)
	if err != nil {
		return nil, err
	}
	d.Image = showImages([]catalog.ImageRow{row})[0]
	return &body[Disk]{*d}, nil
}

// openDisk finds a disk for somebody who is about to download it, and notes that.
func (a *API) openDisk(ctx context.Context, ref, platform string) (catalog.ImageRow, *Disk, error) {
	row, err := a.findDisk(ctx, ref, platform)
	if err != nil {
		return row, nil, err
	}
	d, err := a.loadDisk(ctx, row.Digest)
	if err == nil && a.Uses != nil {
		a.Uses.Note(row.Name, row.Version, usage.Pulled)
	}
	return row, d, err
}

// findDisk finds the disk that a reference means.
func (a *API) findDisk(ctx context.Context, ref, platform string) (catalog.ImageRow, error) {
	a.refresh(ctx)
	row, err := a.resolve(ctx, ref)
	if errors.Is(err, imagestore.ErrNotFound) {
		return row, refuse(http.StatusNotFound, "there is no image %s", ref)
	}
	if err != nil || row.Kind == farm.ImageDisk && strings.Contains(ref, "@") {
		return row, err
	}
	rows, _, err := a.Catalog.Images(ctx, catalog.Filter{Name: row.Name, Version: row.Version})
	if err != nil {
		return row, err
	}
	rows = slices.DeleteFunc(rows, func(r catalog.ImageRow) bool {
		return r.Kind != farm.ImageDisk || platform != "" && r.Platform != platform
	})
	switch len(rows) {
	case 0:
		return row, refuse(http.StatusNotFound, "%s has no disk%s: add {disk: {size: 2GiB}} to the recipe's outputs", ref, forPlatform(platform))
	case 1:
		return rows[0], nil
	}
	return row, refuse(http.StatusUnprocessableEntity, "%s has disks for several platforms: choose one with platform", ref)
}

func forPlatform(platform string) string {
	if platform == "" {
		return ""
	}
	return " for " + platform
}

// maxDiskConfig bounds a disk's configuration, in bytes.
const maxDiskConfig = 1 << 20

// loadDisk reads how a disk is stored.
func (a *API) loadDisk(ctx context.Context, d digest.Digest) (*Disk, error) {
	raw, err := imagestore.ReadAll(ctx, a.Store, d, imagestore.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", d, err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil || m.ArtifactType != oci.MediaTypeDisk {
		return nil, refuse(http.StatusUnprocessableEntity, "%s is no disk", d)
	}
	if raw, err = imagestore.ReadAll(ctx, a.Store, m.Config.Digest, maxDiskConfig); err != nil {
		return nil, fmt.Errorf("disk %s: configuration: %w", d, err)
	}
	disk := &Disk{Layers: []DiskLayer{}, Files: []DiskFile{}}
	if err := json.Unmarshal(raw, &disk.Config); err != nil {
		return nil, fmt.Errorf("disk %s: configuration: %w", d, err)
	}
	known := make(map[digest.Digest][]imagestore.Part)
	var size int64
	for _, l := range m.Layers {
		switch l.MediaType {
		case oci.MediaTypeKernel:
			disk.Files = append(disk.Files, DiskFile{"kernel", l.Digest, l.Size})
			continue
		case oci.MediaTypeInitrd:
			disk.Files = append(disk.Files, DiskFile{"initrd", l.Digest, l.Size})
			continue
		}
		if known[l.Digest] == nil {
			blob, err := a.Store.Stat(ctx, l.Digest)
			if err != nil {
				return nil, fmt.Errorf("disk %s: layer: %w", d, err)
			}
			known[l.Digest] = blob.Parts
		}
		disk.Layers = append(disk.Layers, DiskLayer{l.Digest, l.Size, known[l.Digest]})
		size += l.Size
	}
	if size != disk.Config.Size {
		return nil, fmt.Errorf("disk %s: its layers have %d bytes, its configuration says %d", d, size, disk.Config.Size)
	}
	return disk, nil
}

// Extents are where the disk has data.
func (d *Disk) Extents() []qcow2.Extent {
	var extents []qcow2.Extent
	var at int64
	for _, l := range d.Layers {
		for _, p := range l.Parts {
			if p.Digest != "" {
				extents = append(extents, qcow2.Extent{Offset: at, Size: p.Size})
			}
			at += p.Size
		}
	}
	return extents
}

func (a *API) downloadDisk(ctx context.Context, in *diskInput) (*huma.StreamResponse, error) {
	row, d, err := a.openDisk(ctx, in.Ref, in.Platform)
	if err != nil {
		return nil, err
	}
	content := &sections{size: d.Config.Size, write: func(ctx context.Context, w io.Writer, offset, n int64) error {
		return a.copyDisk(ctx, w, d, offset, n)
	}}
	if in.Format == FormatQcow2 {
		image, err := qcow2.New(d.Config.Size, d.Extents())
		if err != nil {
			return nil, err
		}
		content = &sections{size: image.Size(), write: func(ctx context.Context, w io.Writer, offset, n int64) error {
			return image.WriteRange(w, offset, n, func(offset, n int64) (io.ReadCloser, error) {
				return piped(func(w io.Writer) error { return a.copyDisk(ctx, w, d, offset, n) }), nil
			})
		}}
	}
	name := strings.NewReplacer("/", "-", ":", "-", "@", "-").Replace(row.Name + "-" + row.Version)
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		content.ctx = r.Context()
		defer content.stop()
		header := w.Header()
		header.Set("Content-Type", "application/octet-stream")
		header.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", name+"."+in.Format))
		header.Set("Etag", fmt.Sprintf("%q", row.Digest.Encoded()+"-"+in.Format))
		header.Set("Docker-Content-Digest", row.Digest.String())
		http.ServeContent(w, r, "", time.Time{}, content) // ranges, conditions; what breaks off is shorter than announced
		if content.err != nil && r.Context().Err() == nil {
			a.Log.Error("disk broken off", "digest", row.Digest, "format", in.Format, "err", content.err)
		}
	}}, nil
}

// copyDisk writes n bytes of the raw disk from offset on. The store verifies every piece.
func (a *API) copyDisk(ctx context.Context, w io.Writer, d *Disk, offset, n int64) error {
	var start int64
	for _, l := range d.Layers {
		end := start + l.Size
		if n > 0 && offset < end {
			part := min(n, end-offset)
			r, err := a.Store.Open(ctx, l.Digest, offset-start, part)
			if err != nil {
				return err
			}
			_, err = io.CopyN(w, r, part)
			if cerr := r.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				return err
			}
			offset, n = offset+part, n-part
		}
		start = end
	}
	return nil
}

// sections is content that is made a section at a time, as an io.ReadSeeker.
type sections struct {
	ctx   context.Context
	size  int64
	write func(ctx context.Context, w io.Writer, offset, n int64) error

	offset int64
	buf    *bufio.Reader // over the section that is being made; nil: none is
	making io.Closer
	err    error
}

// piped reads what a function writes. Closing it ends the function and waits for it.
func piped(write func(w io.Writer) error) io.ReadCloser {
	pr, pw := io.Pipe()
	p := &pipe{PipeReader: pr, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		pw.CloseWithError(write(pw))
	}()
	return p
}

type pipe struct {
	*io.PipeReader
	done chan struct{}
}

func (p *pipe) Close() error {
	err := p.PipeReader.Close()
	<-p.done
	return err
}

func (s *sections) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.offset
	case io.SeekEnd:
		offset += s.size
	}
	if offset < 0 || offset > s.size {
		return 0, fmt.Errorf("seek to %d of %d", offset, s.size)
	}
	if offset != s.offset {
		s.stop()
	}
	s.offset = offset
	return offset, nil
}

func (s *sections) stop() {
	if s.making != nil {
		s.making.Close()
	}
	s.making, s.buf = nil, nil
}

// sectionSize is how much is made at a time, in bytes.
const sectionSize = 8 << 20

func (s *sections) Read(p []byte) (int, error) {
	if s.offset == s.size {
		return 0, io.EOF
	}
	if s.buf == nil {
		n := min(sectionSize, s.size-s.offset)
		offset := s.offset
		section := piped(func(w io.Writer) error { return s.write(s.ctx, w, offset, n) })
		s.making, s.buf = section, bufio.NewReaderSize(section, 256<<10)
	}
	n, err := s.buf.Read(p)
	s.offset += int64(n)
	if err == io.EOF { // of the section
		s.stop()
		if n == 0 {
			return s.Read(p)
		}
		err = nil
	}
	if err != nil {
		s.err = err
	}
	return n, err
}
