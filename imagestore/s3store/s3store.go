package s3store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"

	"bakefarm/imagestore"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"
)

// Config is what a Store is made of.
type Config struct {
	Client     *minio.Client
	Bucket     string // made if it is missing and the credentials allow it
	Prefix     string // of every object's name; may be empty
	Ledger     imagestore.Ledger
	Locator    imagestore.Locator
	Writer     string // name of this process, in the packs' records
	Log        *slog.Logger
	Encryption encrypt.ServerSide // at rest, by the service; nil: as the bucket is set up
	Checksum   Checksum           // that uploads carry
	Recent     int64              // bytes of what was just written that stay in memory for those who read it next; 0: none
}

// Store is an image store in a bucket. The caller closes it.
type Store struct {
	client  *minio.Client
	core    minio.Core
	bucket  string
	prefix  string
	ledger  imagestore.Ledger
	locator imagestore.Locator
	writer  string
	log     *slog.Logger

	sse    encrypt.ServerSide
	sum    Checksum
	cache  *cache // of what was read
	recent *cache // of what was written; nil: nothing is remembered
	packer *packer

	ctx    context.Context // of uploads, which outlive the call that began them; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

var _ imagestore.Store = (*Store)(nil)

// Open opens the bucket, making it if need be. An unreachable service is logged and tried again until ctx ends; a refusal
// is ErrRefused at once.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Client == nil || c.Bucket == "" || c.Ledger == nil || c.Locator == nil {
		return nil, errors.New("s3store: Client, Bucket, Ledger and Locator are required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		client: c.Client, core: minio.Core{Client: c.Client}, bucket: c.Bucket, prefix: strings.Trim(c.Prefix, "/"),
		ledger: c.Ledger, locator: c.Locator, writer: c.Writer, log: c.Log, sse: c.Encryption, sum: c.Checksum,
		cache: newCache(cacheBytes),
	}
	if c.Recent > 0 {
		s.recent = newCache(c.Recent)
	}
	if err := s.ask(ctx, "S3 can't be reached", s.openBucket); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.packer = newPacker(s)
	return s, nil
}

func (s *Store) openBucket(ctx context.Context) error {
	ok, err := s.client.BucketExists(ctx, s.bucket)
	if err != nil {
		return fmt.Errorf("S3 %s: %w", s.url(), err)
	}
	if ok {
		return nil
	}
	err = s.client.MakeBucket(ctx, s.bucket, minio.MakeBucketOptions{})
	switch minio.ToErrorResponse(err).Code {
	case "BucketAlreadyOwnedByYou", "BucketAlreadyExists": // another process was faster
		return nil
	}
	if err != nil {
		return fmt.Errorf("S3 %s: there is no such bucket, and it can't be made: %w", s.url(), err)
	}
	return nil
}

// Close ends the uploads that nobody can wait for any more. Readers and Writers must be done.
func (s *Store) Close() error {
	s.cancel()
	s.wg.Wait()
	return nil
}

// Ping asks the service whether the bucket is there.
func (s *Store) Ping(ctx context.Context) error {
	ok, err := s.client.BucketExists(ctx, s.bucket)
	if err != nil {
		return fmt.Errorf("S3 %s: %w", s.url(), err)
	}
	if !ok {
		return fmt.Errorf("S3 %s: there is no such bucket", s.url())
	}
	return nil
}

// url names the bucket in errors and logs, without credentials.
func (s *Store) url() string {
	return strings.TrimSuffix(s.client.EndpointURL().String(), "/") + "/" + path.Join(s.bucket, s.prefix)
}

// Host is the service's host and port.
func (s *Store) Host() string { return s.client.EndpointURL().Host }

// objectName spreads packs over 1024 prefixes, by the random part of the ULID (its characters 10 to 25).
func (s *Store) objectName(pack string) string {
	spread := "00"
	if len(pack) >= 12 {
		spread = pack[10:12]
	}
	return path.Join(s.prefix, "packs", spread, pack)
}
