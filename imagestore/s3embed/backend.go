package s3embed

import (
	"context"
	"encoding/hex"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/rclone/gofakes3"
)

// backend is the store as gofakes3 wants it.
type backend struct{ *store }

var _ gofakes3.Backend = backend{}

func (b backend) ListBuckets(context.Context) ([]gofakes3.BucketInfo, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var out []gofakes3.BucketInfo
	for _, bucket := range b.buckets {
		out = append(out, gofakes3.BucketInfo{Name: bucket.name, CreationDate: gofakes3.NewContentTime(bucket.created)})
	}
	slices.SortFunc(out, func(a, b gofakes3.BucketInfo) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// ListBucket does not use gofakes3.Prefix.Match, which takes an empty delimiter
// (sent by minio-go) for one, and trims delimiters off the front of keys.
func (b backend) ListBucket(_ context.Context, name string, prefix *gofakes3.Prefix, page gofakes3.ListBucketPage) (*gofakes3.ObjectList, error) {
	bucket, err := b.bucket(name)
	if err != nil {
		return nil, err
	}
	var p gofakes3.Prefix
	if prefix != nil {
		p = *prefix
	}
	limit := int(page.MaxKeys)
	if limit <= 0 {
		limit = gofakes3.MaxBucketKeys
	}
	l, err := b.list(bucket, p.Prefix, p.Delimiter, page.Marker, limit)
	if err != nil {
		return nil, toBackend(err)
	}
	out := gofakes3.NewObjectList()
	for _, e := range l.entries {
		out.Add(&gofakes3.Content{
			Key: e.key, Size: e.stat.size, ETag: `"` + e.stat.etag + `"`,
			LastModified: gofakes3.NewContentTime(e.stat.modified), StorageClass: gofakes3.StorageStandard,
		})
	}
	for _, common := range l.prefixes {
		out.AddPrefix(common)
	}
	if l.more {
		out.IsTruncated, out.NextMarker = true, l.next
	}
	return out, nil
}

func (b backend) CreateBucket(_ context.Context, name string) error {
	return toBackend(b.createBucket(name))
}

func (b backend) BucketExists(_ context.Context, name string) (bool, error) {
	_, err := b.bucket(name)
	return err == nil, nil
}

func (b backend) DeleteBucket(_ context.Context, name string) error {
	return toBackend(b.deleteBucket(name))
}

func (b backend) GetObject(_ context.Context, bucketName, key string, rng *gofakes3.ObjectRangeRequest) (*gofakes3.Object, error) {
	f, info, err := b.get(bucketName, key)
	if err != nil {
		return nil, toBackend(err)
	}
	obj := newObject(info)
	off, n := int64(0), info.Size
	if rng != nil {
		var ok bool
		if off, n, ok = byteRange(rng, info.Size); !ok {
			f.Close()
			return nil, gofakes3.ErrorMessage(gofakes3.ErrInvalidRange, "The requested range is not satisfiable")
		}
		obj.Range = &gofakes3.ObjectRange{Start: off, Length: n}
	}
	c, err := openRange(f, off, n)
	if err != nil {
		f.Close()
		return nil, err
	}
	obj.Contents = c
	return obj, nil
}

// byteRange is the part of size bytes that a Range header asks for (RFC 9110,
// section 14.1.2). A suffix longer than the object is the whole object.
func byteRange(r *gofakes3.ObjectRangeRequest, size int64) (off, n int64, ok bool) {
	if r.FromEnd {
		n = min(r.End, size)
		return size - n, n, n > 0
	}
	last := r.End
	if last == gofakes3.RangeNoEnd || last >= size {
		last = size - 1
	}
	return r.Start, last - r.Start + 1, r.Start <= last
}

func (b backend) HeadObject(_ context.Context, bucketName, key string) (*gofakes3.Object, error) {
	info, err := b.head(bucketName, key)
	if err != nil {
		return nil, toBackend(err)
	}
	return newObject(info), nil
}

func newObject(info *objectInfo) *gofakes3.Object {
	meta := make(map[string]string, len(info.Headers)+1)
	maps.Copy(meta, info.Headers)
	meta["Last-Modified"] = info.Modified.UTC().Format(http.TimeFormat)
	hash, _ := hex.DecodeString(info.ETag)
	return &gofakes3.Object{
		Name: info.Key, Metadata: meta, Size: info.Size, Contents: http.NoBody, Hash: hash, PartSizes: info.Parts,
	}
}

// PutObject is not reached: the server's own handler takes every body.
func (b backend) PutObject(ctx context.Context, bucketName, key string, meta map[string]string, input io.Reader, size int64) (gofakes3.PutObjectResult, error) {
	return gofakes3.PutObjectResult{}, gofakes3.ErrNotImplemented
}

func (b backend) CopyObject(ctx context.Context, srcBucket, srcKey, dstBucket, dstKey string, meta map[string]string) (gofakes3.CopyObjectResult, error) {
	var none gofakes3.CopyObjectResult
	src, from, err := b.get(srcBucket, srcKey)
	if err != nil {
		return none, toBackend(err)
	}
	defer src.Close()
	dst, err := b.bucket(dstBucket)
	if err != nil {
		return none, err
	}
	info := &objectInfo{Key: dstKey, Headers: maps.Clone(meta)}
	delete(info.Headers, "Last-Modified")
	for name, value := range from.Headers { // the same bytes have the same checksum
		if strings.HasPrefix(name, checksumPrefix) {
			info.Headers[name] = value
		}
	}
	cond := func(current *objectInfo) error {
		if current == nil {
			return gofakes3.CheckWriteConditions(ctx, false, "")
		}
		return gofakes3.CheckWriteConditions(ctx, true, current.ETag)
	}
	if err := b.copy(ctx, src, from.Size, dst, info, cond); err != nil {
		return none, toBackend(err)
	}
	return gofakes3.CopyObjectResult{ETag: `"` + info.ETag + `"`, LastModified: gofakes3.NewContentTime(info.Modified)}, nil
}

func (b backend) DeleteObject(_ context.Context, bucketName, key string) (gofakes3.ObjectDeleteResult, error) {
	bucket, err := b.bucket(bucketName)
	if err == nil {
		err = b.delete(bucket, key)
	}
	return gofakes3.ObjectDeleteResult{}, toBackend(err)
}

func (b backend) DeleteMulti(_ context.Context, bucketName string, keys ...string) (gofakes3.MultiDeleteResult, error) {
	var out gofakes3.MultiDeleteResult
	bucket, err := b.bucket(bucketName)
	if err != nil {
		return out, err
	}
	for _, key := range keys {
		if err := bucket.remove(key); err != nil {
			r := gofakes3.ErrorResultFromError(toBackend(err))
			r.Key = key
			out.Error = append(out.Error, r)
			continue
		}
		out.Deleted = append(out.Deleted, gofakes3.ObjectID{Key: key})
	}
	return out, toBackend(b.syncBucket(bucket))
}
