package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"bakefarm/api"
	"bakefarm/compose/disk/qcow2"
	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Disk shows how the disk of a version is stored. platform may be empty when there is one disk.
func (c *Client) Disk(ctx context.Context, ref, platform string) (api.Disk, error) {
	return get[api.Disk](ctx, c, "/v1/images/"+segment(ref)+"/disk/layers", listQuery("", 0, "platform", platform))
}

// DiskPull says how a disk is pulled.
type DiskPull struct {
	File     string // where it goes; while it is not whole it has ".part" behind its name, and another attempt goes on with that
	Qcow2    bool   // else raw
	Compress bool   // qcow2 with zstd

	Total    func(int64) // how many bytes the disk has in pieces; may be nil
	Received func(int64) // bytes that came from the farm
	Reused   func(int64) // bytes that were there from an earlier attempt
}

// PullDisk puts a disk together: what an earlier attempt left is kept as far as it is right, every piece is verified, and
// runs of zeros are neither sent nor written.
func (c *Client) PullDisk(ctx context.Context, d api.Disk, p DiskPull) error {
	for _, fn := range []*func(int64){&p.Total, &p.Received, &p.Reused} {
		if *fn == nil {
			*fn = func(int64) {}
		}
	}
	part := p.File + ".part"
	pull := diskPull{Client: c, DiskPull: p, name: d.Image.Name, size: d.Config.Size, at: func(offset int64) int64 { return offset }}
	if p.Qcow2 && !p.Compress {
		image, err := qcow2.New(d.Config.Size, d.Extents())
		if err != nil {
			return err
		}
		pull.image, pull.size = image, image.Size()
		pull.at = func(offset int64) int64 {
			at, _ := image.Offset(offset)
			return at
		}
	}
	if err := pull.into(ctx, part, d); err != nil {
		return fmt.Errorf("pull %s: %w", d.Image.Ref, err)
	}
	if p.Compress {
		if err := compress(part, p.File+".packed", d); err != nil {
			return fmt.Errorf("pull %s: %w", d.Image.Ref, err)
		}
		if err := os.Remove(part); err != nil {
			return err
		}
		part = p.File + ".packed"
	}
	return os.Rename(part, p.File)
}

// diskPull is one disk on its way into a file.
type diskPull struct {
	*Client
	DiskPull
	name  string
	size  int64
	image *qcow2.Image             // nil: raw
	at    func(offset int64) int64 // where a byte of the disk goes in the file
	file  *os.File
}

// want is a run of pieces that is fetched in one request.
type want struct {
	layer  digest.Digest
	offset int64 // in the layer
	disk   int64 // on the disk
	parts  []imagestore.Part
	size   int64
}

const (
	maxWant      = 16 << 20 // bytes in one request
	wantsAtOnce  = 4
	fetchRetries = 3
)

func (p *diskPull) into(ctx context.Context, part string, d api.Disk) (err error) {
	p.file, err = os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := p.file.Close(); err == nil {
			err = cerr
		}
	}()
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	before := info.Size()
	if before != p.size { // of another disk, or none: what is right in it still counts
		if err := p.file.Truncate(p.size); err != nil {
			return err
		}
	}
	wants, err := p.missing(d, before)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(wantsAtOnce)
	for _, w := range wants {
		g.Go(func() error { return p.fetch(ctx, w) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if p.image != nil {
		var head bytes.Buffer
		if err := p.image.WriteRange(&head, 0, p.image.Head(), nil); err != nil {
			return err
		}
		if _, err := p.file.WriteAt(head.Bytes(), 0); err != nil {
			return err
		}
	}
	return p.file.Sync()
}

// missing returns what the file does not have yet. Where the disk has zeros, an earlier file may have something else: it
// is overwritten.
func (p *diskPull) missing(d api.Disk, before int64) ([]want, error) {
	var wants []want
	var at, total int64
	buf := make([]byte, 1<<20)
	for _, l := range d.Layers {
		var offset int64
		for _, part := range l.Parts {
			if part.Digest == "" {
				if err := p.clear(at+offset, part.Size, before); err != nil {
					return nil, err
				}
				offset += part.Size
				continue
			}
			total += part.Size
			if int64(len(buf)) < part.Size {
				buf = make([]byte, part.Size)
			}
			here := buf[:part.Size]
			if p.at(at+offset) < before {
				if _, err := p.file.ReadAt(here, p.at(at+offset)); err != nil && !errors.Is(err, io.EOF) {
					return nil, err
				}
				if digest.FromBytes(here) == part.Digest {
					p.Reused(part.Size)
					offset += part.Size
					continue
				}
			}
			if n := len(wants); n > 0 && wants[n-1].layer == l.Digest && wants[n-1].disk+wants[n-1].size == at+offset && wants[n-1].size < maxWant {
				wants[n-1].parts = append(wants[n-1].parts, part)
				wants[n-1].size += part.Size
			} else {
				wants = append(wants, want{l.Digest, offset, at + offset, []imagestore.Part{part}, part.Size})
			}
			offset += part.Size
		}
		at += l.Size
	}
	p.Total(total)
	return wants, nil
}

// clear makes sure that a run of zeros is one in a raw file that was there before.
func (p *diskPull) clear(offset, n, before int64) error {
	if p.image != nil || offset >= before {
		return nil // qcow2 has no room for zeros
	}
	var zeros, buf [64 << 10]byte
	for end := min(offset+n, before); offset < end; {
		k, err := p.file.ReadAt(buf[:min(int64(len(buf)), end-offset)], offset)
		if k == 0 && err != nil {
			return err
		}
		if !bytes.Equal(buf[:k], zeros[:k]) {
			if _, err := p.file.WriteAt(zeros[:k], offset); err != nil {
				return err
			}
		}
		offset += int64(k)
	}
	return nil
}

// fetch gets a run of pieces; what breaks off on the way is asked for again.
func (p *diskPull) fetch(ctx context.Context, w want) error {
	for attempt := 1; ; attempt++ {
		err := p.fetchOnce(ctx, &w)
		var answer *Error
		if err == nil || ctx.Err() != nil || errors.As(err, &answer) || attempt == fetchRetries {
			return err
		}
	}
}

// fetchOnce takes from w what has come and was right.
func (p *diskPull) fetchOnce(ctx context.Context, w *want) error {
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", w.offset, w.offset+w.size-1)}}
	resp, err := p.request(ctx, http.MethodGet, "/v2/"+(&url.URL{Path: p.name}).EscapedPath()+"/blobs/"+w.layer.String(), nil, header, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("layer %s: the farm does not answer with the range that was asked for", w.layer)
	}
	for len(w.parts) > 0 {
		part := w.parts[0]
		data := make([]byte, part.Size)
		n, err := io.ReadFull(resp.Body, data)
		p.Received(int64(n))
		if err != nil {
			return fmt.Errorf("layer %s: %w", w.layer, err)
		}
		if got := digest.FromBytes(data); got != part.Digest {
			return fmt.Errorf("layer %s: piece %s came as %s", w.layer, part.Digest, got)
		}
		if _, err := p.file.WriteAt(data, p.at(w.disk)); err != nil {
			return err
		}
		w.parts = w.parts[1:]
		w.offset, w.disk, w.size = w.offset+part.Size, w.disk+part.Size, w.size-part.Size
	}
	return nil
}

// compress makes a compressed qcow2 image of a raw file.
func compress(raw, to string, d api.Disk) (err error) {
	in, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := out.Close(); err == nil {
			err = cerr
		}
	}()
	if _, err = qcow2.WriteCompressed(out, d.Config.Size, d.Extents(), func(offset, n int64) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(in, offset, n)), nil
	}); err != nil {
		return err
	}
	return out.Sync()
}

// DiskFile fetches a file that stands beside a disk: its kernel, its initrd.
func (c *Client) DiskFile(ctx context.Context, d api.Disk, f api.DiskFile, to string) error {
	resp, err := c.request(ctx, http.MethodGet, "/v2/"+(&url.URL{Path: d.Image.Name}).EscapedPath()+"/blobs/"+f.Digest.String(), nil, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, f.Size+1))
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	if digest.FromBytes(data) != f.Digest {
		return fmt.Errorf("%s: it came with other bytes than %s", f.Name, f.Digest)
	}
	return os.WriteFile(to, data, 0o644)
}
