package s3store_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/s3store"
	"bakefarm/imagestore/storetest"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
)

func (f *s3farm) object(t testing.TB, name string) []byte {
	t.Helper()
	o, err := f.client.GetObject(t.Context(), f.bucket, name, minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	data, err := io.ReadAll(o)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (f *s3farm) replace(t testing.TB, name string, data []byte) {
	t.Helper()
	if _, err := f.client.PutObject(t.Context(), f.bucket, name, bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	t.Run("http", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Storage { return newS3Farm(t, false).storage() })
	})
	if service != "" || testing.Short() {
		return // it was that service, or make test does the rest
	}
	t.Run("in process", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Storage { return newS3Farm(t, true).storage() })
	})
}

func TestDial(t *testing.T) {
	client, b, p, err := s3store.Dial("https://AK:s%2Fk@s3.example:9000/bucket/some/prefix/?region=eu-1&lookup=path", http.DefaultTransport)
	if err != nil || b != "bucket" || p != "some/prefix" || client.EndpointURL().String() != "https://s3.example:9000" {
		t.Errorf("got %v %q %q, %v", client.EndpointURL(), b, p, err)
	}
	for url, want := range map[string]string{
		"":                             "scheme",
		"ftp://a:b@h/b":                "scheme",
		"http://h/b":                   "access key",
		"http://a@h/b":                 "access key",
		"http://a:b@h":                 "bucket",
		"http://a:b@h/":                "bucket",
		"http://a:b@/bucket":           "host",
		"http://a:b@h/bucket?lookup=x": "lookup",
		"http://a:b@h/bucket?regoin=x": "there are ca, checksum, credentials, lookup, region, sse",
		"http://h/b?credentials=x":     "want environment",
		"http://a:b@10.0.0.1:9000/bucket?lookup=dns":  "is an address",
		"http://a:b@h/bucket?credentials=environment": "want one of them",
		"https://a:b@h/bucket?ca=/nowhere":            "no such file",
		"https://a:b@h/bucket?ca=/dev/null":           "no certificate",
		"http://a:b@h/b":                              "3 to 63",
		"http://a:b@h/Some_Bucket":                    "lower-case",
		"http://a:b@h/192.168.1.1":                    "bucket",
		"http://a:topsecret@h:port/b":                 "S3 URL",
		"http://a:topsecret\x7f@h/b":                  "S3 URL",
		"http://a:topsecret@h/Bk?lookup=x":            "bucket",
	} {
		_, _, _, err := s3store.Dial(url, nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestObjectsAndRecords(t *testing.T) {
	f := newS3Farm(t, true)
	s := f.open(t)
	storetest.Put(t, s, storetest.Bytes(1, 1000), storetest.Bytes(2, 2000))
	ids, names := f.ledger.Keys(), f.objects(t)
	if len(ids) != 1 || len(names) != 1 {
		t.Fatalf("packs %q, objects %q", ids, names)
	}
	if want := f.prefix + "/packs/" + ids[0][10:12] + "/" + ids[0]; names[0] != want {
		t.Errorf("object %s, want %s", names[0], want)
	}
	p := *f.ledger.Get(ids[0])
	data := f.object(t, names[0])
	entries, foot, err := imagestore.DecodeTrailer(data[p.IndexAt:], int64(len(data)))
	if err != nil || p.Size != int64(len(data)) || p.Entries != 2 || len(entries) != 2 || foot.Index != p.Index || p.State != farm.PackLive || p.Writer != t.Name() {
		t.Errorf("record %+v, entries %v, %v", p, entries, err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// Nobody may build upon a condemned pack; who did already can still read it.
// listing is an answer to ListObjectsV2 (Amazon S3 API reference), as far as clients read it.
type listing struct {
	XMLName               struct{} `xml:"ListBucketResult"`
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	Contents              []struct {
		Key, LastModified, ETag string
		Size                    int64
	}
}

// Services decide how long the pages of a listing are; some send an empty one with more to come.
func TestPagesOfAnyLength(t *testing.T) {
	f := newS3Farm(t, true)
	const packs = 7
	s := f.open(t)
	for i := range packs {
		w := s.Begin()
		if _, err := w.Put(t.Context(), storetest.Bytes(uint64(i), 1000)); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, length := range []int{1, 2, 3, packs, 0} { // 0: an empty page first
		var all listing
		f.through = func(next http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				if !r.URL.Query().Has("list-type") {
					return next.RoundTrip(r)
				}
				token := r.URL.Query().Get("continuation-token")
				if token == "" {
					answer, err := next.RoundTrip(r)
					if err != nil {
						return nil, err
					}
					defer answer.Body.Close()
					if all = (listing{}); xml.NewDecoder(answer.Body).Decode(&all) != nil {
						t.Error("the listing can't be read")
					}
				}
				from, _ := strconv.Atoi(token)
				to := min(from+length, len(all.Contents))
				if length == 0 && token != "" {
					to = len(all.Contents)
				}
				page := listing{Contents: all.Contents[from:to], IsTruncated: to < len(all.Contents)}
				if page.IsTruncated {
					page.NextContinuationToken = fmt.Sprintf("%02d", to)
				}
				raw, err := xml.Marshal(page)
				return &http.Response{
					StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
					Header: http.Header{"Content-Type": {"application/xml"}}, Body: io.NopCloser(bytes.NewReader(raw)),
				}, err
			})
		}
		seen := map[string]int{}
		if err := f.open(t).Objects(t.Context(), func(o s3store.Object) error { seen[o.Pack]++; return nil }); err != nil {
			t.Fatal(err)
		}
		if len(seen) != packs {
			t.Errorf("in pages of %d: %d packs, want %d", length, len(seen), packs)
		}
		for pack, n := range seen {
			if n != 1 {
				t.Errorf("in pages of %d: %s was listed %d times", length, pack, n)
			}
		}
	}
}

func TestCondemned(t *testing.T) {
	f := newS3Farm(t, true)
	s := f.open(t)
	data := storetest.Bytes(1, 300_000)
	d := storetest.Put(t, s, data)[0].Digest
	id := f.ledger.Keys()[0]
	f.ledger.Condemn(id)
	if have, err := s.Have(t.Context(), []digest.Digest{d}); err != nil || have[0] {
		t.Errorf("have %v, %v", have, err)
	}
	if got, err := storetest.Read(t.Context(), s, d, 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
	storetest.Put(t, s, data)
	if n := len(f.objects(t)); n != 2 {
		t.Errorf("%d objects, want 2: the piece was not stored anew", n)
	}
	if have, err := s.Have(t.Context(), []digest.Digest{d}); err != nil || !have[0] {
		t.Errorf("have %v, %v", have, err)
	}
	// Its object goes while a reader still believes in it.
	if err := f.client.RemoveObject(t.Context(), f.bucket, f.prefix+"/packs/"+id[10:12]+"/"+id, minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	f.ledger.Set(id, nil)
	for _, r := range []*s3store.Store{s, f.open(t)} {
		if got, err := storetest.Read(t.Context(), r, d, 0, -1); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read: %d bytes, %v", len(got), err)
		}
	}
}

// gate lets PUTs through only when told.
type gate struct {
	http.RoundTripper
	puts    atomic.Int32
	waiting chan struct{}
	open    chan struct{}
}

func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/packs/") {
		g.puts.Add(1)
		g.waiting <- struct{}{}
		select {
		case <-g.open:
		case <-time.After(20 * time.Second):
			return nil, errors.New("the gate was not opened")
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	return g.RoundTripper.RoundTrip(r)
}

// wait waits for the next PUT.
func (g *gate) wait(t *testing.T) {
	t.Helper()
	select {
	case <-g.waiting:
	case <-time.After(20 * time.Second):
		t.Fatal("no PUT has come")
	}
}

// Commits that come while two uploads are on their way go together in a third.
func TestGroupCommit(t *testing.T) {
	f := newS3Farm(t, true)
	g := &gate{waiting: make(chan struct{}, 100), open: make(chan struct{})}
	f.through = func(next http.RoundTripper) http.RoundTripper { g.RoundTripper = next; return g }
	s := f.open(t)
	const writers = 20
	var wg sync.WaitGroup
	commit := func(i int) {
		w := s.Begin()
		if _, err := w.Put(t.Context(), storetest.Bytes(uint64(i), 1000)); err != nil {
			t.Error(err)
		}
		// All have a piece in common, which is in flight in the first.
		if _, err := w.Put(t.Context(), storetest.Bytes(9999, 1000)); err != nil {
			t.Error(err)
		}
		wg.Go(func() {
			if err := w.Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	commit(0)
	g.wait(t)
	commit(1)
	g.wait(t)
	for i := 2; i < writers; i++ {
		commit(i)
	}
	time.Sleep(300 * time.Millisecond) // they are waiting: nothing can be heard of that
	if n := g.puts.Load(); n != 2 {
		t.Fatalf("%d uploads at the same time, want 2", n)
	}
	if n := len(f.ledger.Keys()); n != 0 {
		t.Fatalf("%d packs registered before they are stored", n)
	}
	close(g.open)
	wg.Wait()
	if n := len(f.ledger.Keys()); n != 3 {
		t.Errorf("%d packs, want 3", n)
	}
	total := 0
	for _, id := range f.ledger.Keys() {
		total += f.ledger.Get(id).Entries
	}
	if total != writers+1 {
		t.Errorf("%d entries, want %d: a piece that was in flight was stored again", total, writers+1)
	}
}

func TestCloseEndsCommits(t *testing.T) {
	f := newS3Farm(t, true)
	g := &gate{waiting: make(chan struct{}, 100), open: make(chan struct{})}
	f.through = func(next http.RoundTripper) http.RoundTripper { g.RoundTripper = next; return g }
	s := f.open(t)
	w := s.Begin()
	if _, err := w.Put(t.Context(), storetest.Bytes(1, 1000)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- w.Commit(t.Context()) }()
	g.wait(t)
	s.Close()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("got %v", err)
	}
	if len(f.ledger.Keys()) != 0 {
		t.Error("something was registered")
	}
}

// A commit whose caller goes away does not take the others' along.
func TestCancelledCommitLeavesOthers(t *testing.T) {
	f := newS3Farm(t, true)
	g := &gate{waiting: make(chan struct{}, 100), open: make(chan struct{})}
	f.through = func(next http.RoundTripper) http.RoundTripper { g.RoundTripper = next; return g }
	s := f.open(t)
	data := storetest.Bytes(1, 1000)
	w1, w2 := s.Begin(), s.Begin()
	for _, w := range []imagestore.Writer{w1, w2} {
		if _, err := w.Put(t.Context(), data); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error), make(chan error)
	go func() { first <- w1.Commit(ctx) }()
	g.wait(t)
	go func() { second <- w2.Commit(t.Context()) }()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v", err)
	}
	if _, err := w1.Put(t.Context(), data); !errors.Is(err, context.Canceled) {
		t.Errorf("a writer that has failed went on: %v", err)
	}
	close(g.open)
	if err := <-second; err != nil {
		t.Errorf("second: %v", err)
	}
	if got, err := storetest.Read(t.Context(), s, digest.FromBytes(data), 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
}

func TestRegisterFails(t *testing.T) {
	f := newS3Farm(t, true)
	s := f.open(t)
	data := storetest.Bytes(1, 1000)
	d := digest.FromBytes(data)
	var calls atomic.Int32
	commit := func() error {
		w := s.Begin()
		_, err := w.Put(t.Context(), data)
		return errors.Join(err, w.Commit(t.Context()))
	}
	f.ledger.Before = func(farm.Pack) error { calls.Add(1); return errors.New("no responders") }
	if err := commit(); err == nil || !strings.Contains(err.Error(), "no responders") || calls.Load() < 3 {
		t.Errorf("%d calls, %v", calls.Load(), err)
	}
	if have, err := s.Have(t.Context(), []digest.Digest{d}); err != nil || have[0] {
		t.Errorf("have %v, %v", have, err)
	}
	f.ledger.Before = func(farm.Pack) error {
		if calls.Add(-1) > 0 {
			return errors.New("timeout")
		}
		return nil
	}
	calls.Store(3)
	if err := commit(); err != nil {
		t.Errorf("after two timeouts: %v", err)
	}
	if n := len(f.ledger.Keys()); n != 1 {
		t.Errorf("%d packs: a register that is tried again must not make another", n)
	}
}

func TestOpenTroubles(t *testing.T) {
	f := newS3Farm(t, true)
	open := func(ctx context.Context, url string, wire http.RoundTripper) error {
		client, b, p, err := s3store.Dial(url, wire)
		if err != nil {
			t.Fatal(err)
		}
		s, err := s3store.Open(ctx, s3store.Config{Client: client, Bucket: b, Prefix: p, Ledger: f.ledger, Locator: nothing{}})
		if err == nil {
			s.Close()
		}
		return err
	}
	wrong, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	wrong.User = url.UserPassword(wrong.User.Username(), "wrong%secret")
	err = open(t.Context(), wrong.String(), f.wire)
	if !errors.Is(err, s3store.ErrRefused) || !strings.Contains(err.Error(), f.bucket) || strings.Contains(err.Error(), "wrong%") || !strings.Contains(err.Error(), "secret (percent-encoded") {
		t.Errorf("wrong secret: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	down := roundTrip(func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") })
	if err := open(ctx, f.url, down); err == nil || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("down: %v", err)
	}
	var n atomic.Int32
	later := roundTrip(func(r *http.Request) (*http.Response, error) {
		if n.Add(1) < 3 {
			return nil, errors.New("connection refused")
		}
		return f.wire.RoundTrip(r)
	})
	if err := open(t.Context(), f.url, later); err != nil {
		t.Errorf("reachable later: %v", err)
	}
}

// A blob as one object: made once, whole or not at all, and read by who has only its URL.
func TestMaterialise(t *testing.T) {
	f := newS3Farm(t, false)
	s := f.open(t)
	a, b := storetest.Bytes(1, 300_000), storetest.Bytes(2, 400_000)
	parts := storetest.Put(t, s, a, b)
	good, bad := storetest.BlobOf(slices.Concat(a, b), parts...), storetest.BlobOf(slices.Concat(a, b), parts...)
	bad.Digest = digest.FromString("another")
	w := s.Begin()
	if err := errors.Join(w.Compose(t.Context(), good), w.Compose(t.Context(), bad), w.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Materialise(t.Context(), good.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Materialise(t.Context(), bad.Digest); !errors.Is(err, imagestore.ErrCorrupt) {
		t.Errorf("a composite with a wrong digest: %v", err)
	}
	if err := s.Materialise(t.Context(), digest.FromString("nothing")); !errors.Is(err, imagestore.ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
	var names []digest.Digest
	list := func() []digest.Digest {
		names = nil
		if err := s.Wholes(t.Context(), func(w s3store.Whole) error { names = append(names, w.Digest); return nil }); err != nil {
			t.Fatal(err)
		}
		return names
	}
	if !slices.Equal(list(), []digest.Digest{good.Digest}) {
		t.Errorf("objects: %v", names)
	}
	link, err := s.Presign(t.Context(), good.Digest, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Range", "bytes=299990-300009")
	resp, err := f.wire.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusPartialContent || !bytes.Equal(got, slices.Concat(a[299_990:], b[:10])) {
		t.Errorf("%s: %d bytes, %v", resp.Status, len(got), err)
	}
	if err := s.Dematerialise(t.Context(), good.Digest); err != nil || len(list()) != 0 {
		t.Errorf("still there: %v, %v", names, err)
	}
	if there, err := s.Materialised(t.Context(), good.Digest); err != nil || there {
		t.Errorf("there: %v, %v", there, err)
	}
}

// Pieces that lie in many packs, on a service that takes its time, are waited for together.
func TestReadAhead(t *testing.T) {
	f := newS3Farm(t, true)
	s := f.open(t)
	var content []byte
	var parts []imagestore.Part
	for i := range 200 {
		data := storetest.Bytes(uint64(1000+i), 20_000)
		parts = append(parts, storetest.Put(t, s, data)[0]) // a pack each
		content = append(content, data...)
	}
	w := s.Begin()
	if err := errors.Join(w.Compose(t.Context(), storetest.BlobOf(content, parts...)), w.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	var now, most atomic.Int32
	f.through = func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			time.Sleep(20 * time.Millisecond)
			return next.RoundTrip(r)
		})
	}
	s = f.open(t)
	if err := f.settled(t, s, parts); err != nil { // the indexes of 200 packs are not what this is about
		t.Fatal(err)
	}
	for name, open := range map[string]func() (io.ReadCloser, error){
		"blob":  func() (io.ReadCloser, error) { return s.Open(t.Context(), digest.FromBytes(content), 0, -1) },
		"parts": func() (io.ReadCloser, error) { return f.open(t).OpenParts(t.Context(), parts) },
	} {
		most.Store(0)
		began := time.Now()
		r, err := open()
		if err != nil {
			t.Fatal(name, err)
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%s: %d bytes, %v", name, len(got), err)
		}
		if n := most.Load(); n < 8 || n > 40 {
			t.Errorf("%s: %d requests at a time, in %s: want about 16", name, n, time.Since(began))
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// nothing is a locator of an empty farm.
type nothing struct{ imagestore.Locator }

// Pieces that lie side by side are read with few requests.
func TestCoalescedReads(t *testing.T) {
	f := newS3Farm(t, true)
	var gets atomic.Int32
	f.through = func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/packs/") {
				gets.Add(1)
			}
			return next.RoundTrip(r)
		})
	}
	s := f.open(t)
	w := s.Begin()
	var content []byte
	var parts []imagestore.Part
	for i := range 100 {
		data := storetest.Bytes(uint64(i), 300_000)
		p, err := w.Put(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		content, parts = append(content, data...), append(parts, p)
	}
	if err := errors.Join(w.Compose(t.Context(), storetest.BlobOf(content, parts...)), w.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(content)
	got, err := storetest.Read(t.Context(), s, d, 0, -1)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if n := gets.Load(); n > 12 {
		t.Errorf("%d requests for 30 MB in 100 pieces", n)
	}
	gets.Store(0)
	r, err := f.open(t).OpenParts(t.Context(), parts)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); errors.Join(err, r.Close()) != nil || !bytes.Equal(got, content) || gets.Load() > 16 { // indexes, too
		t.Errorf("parts: %d bytes with %d requests, %v", len(got), gets.Load(), err)
	}
	gets.Store(0)
	if _, err := storetest.Read(t.Context(), s, d, 5_000_000, 100); err != nil || gets.Load() > 2 {
		t.Errorf("%d requests for a range of 100 bytes, %v", gets.Load(), err)
	}
}

// Parts that are in memory are not asked for, and what is no piece of that length is refused before anything is read.
func TestParts(t *testing.T) {
	f := newS3Farm(t, true)
	var gets atomic.Int32
	f.through = func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/packs/") {
				gets.Add(1)
			}
			return next.RoundTrip(r)
		})
	}
	s := f.open(t)
	var content []byte
	var parts []imagestore.Part
	for i := range 6 {
		data := storetest.Bytes(uint64(i), 10_000*(i+1)+i)
		parts = append(parts, storetest.Put(t, s, data)[0], imagestore.Part{Size: 100})
		content = append(append(content, data...), make([]byte, 100)...)
		if i%2 == 0 { // it stays in memory
			if _, err := storetest.Read(t.Context(), s, parts[2*i].Digest, 0, -1); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The same of a store that offers nothing beside the interface.
	for name, r := range map[string]imagestore.Reader{"itself": s, "by the interface": struct{ imagestore.Reader }{s}} {
		gets.Store(0)
		rc, err := imagestore.OpenParts(t.Context(), r, append(slices.Clip(parts), parts[0]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(iotest.HalfReader(rc))
		if errors.Join(err, rc.Close()) != nil || !bytes.Equal(got, append(slices.Clip(content), content[:parts[0].Size]...)) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if n := gets.Load(); n > 3 {
			t.Errorf("%s: %d requests for 3 pieces that are not in memory", name, n)
		}
		for _, wrong := range []int64{-1, 1} {
			bad := slices.Clone(parts)
			bad[2].Size += wrong
			rc, err := imagestore.OpenParts(t.Context(), r, bad)
			if err == nil {
				_, err = io.Copy(io.Discard, rc)
				rc.Close()
			}
			if !errors.Is(err, imagestore.ErrSize) || !strings.Contains(err.Error(), string(bad[2].Digest)) {
				t.Errorf("%s: a piece of another size: %v", name, err)
			}
		}
		if rc, err = imagestore.OpenParts(t.Context(), r, []imagestore.Part{{Digest: digest.FromString("nothing"), Size: 1}}); err == nil {
			_, err = io.Copy(io.Discard, rc)
			rc.Close()
		}
		if !errors.Is(err, imagestore.ErrNotFound) {
			t.Errorf("%s: nothing there: %v", name, err)
		}
	}
}

func TestSmallPiecesAreKept(t *testing.T) {
	f := newS3Farm(t, true)
	var gets atomic.Int32
	f.through = func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet {
				gets.Add(1)
			}
			return next.RoundTrip(r)
		})
	}
	s := f.open(t)
	data := storetest.Bytes(1, 5000)
	d := storetest.Put(t, s, data)[0].Digest
	for range 10 {
		got, err := storetest.Read(t.Context(), s, d, 0, -1)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatal(err)
		}
		clear(got)
	}
	if n := gets.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestIndexMismatch(t *testing.T) {
	f := newS3Farm(t, true)
	s := f.open(t)
	storetest.Put(t, s, storetest.Bytes(1, 1000))
	storetest.Put(t, s, storetest.Bytes(2, 1000))
	ids := f.ledger.Keys()
	p, other := *f.ledger.Get(ids[0]), *f.ledger.Get(ids[1])
	p.Trailer = nil // read from the object
	if _, err := s.ReadIndex(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	swapped := p
	swapped.Index = other.Index
	if _, err := s.ReadIndex(t.Context(), swapped); !errors.Is(err, imagestore.ErrCorrupt) {
		t.Errorf("another index: %v", err)
	}
	for name, bad := range map[string]farm.Pack{
		"negative": {ID: p.ID, Size: p.Size, IndexAt: -1}, "beyond": {ID: p.ID, Size: p.Size, IndexAt: p.Size},
		"huge": {ID: p.ID, Size: 1 << 50, IndexAt: 1000},
	} {
		if _, err := s.ReadIndex(t.Context(), bad); !errors.Is(err, imagestore.ErrNoPack) {
			t.Errorf("%s: %v", name, err)
		}
	}
	gone := p
	gone.ID = "01ZZZZZZZZZZZZZZZZZZZZZZZZ"
	if _, err := s.ReadIndex(t.Context(), gone); !errors.Is(err, imagestore.ErrNotFound) {
		t.Errorf("gone: %v", err)
	}
}

// Who follows the packs of others asks S3 for long indexes only.
func TestShortIndexIsInTheRecord(t *testing.T) {
	f := newS3Farm(t, true)
	s := f.open(t)
	storetest.Put(t, s, storetest.Bytes(1, 1000), storetest.Bytes(2, 1000))
	var many [][]byte
	for i := range uint64(30) {
		many = append(many, storetest.Bytes(100+i, 100))
	}
	storetest.Put(t, s, many...)
	ids := f.ledger.Keys()
	short, long := *f.ledger.Get(ids[0]), *f.ledger.Get(ids[1])
	if short.Entries > long.Entries {
		short, long = long, short
	}
	if len(short.Trailer) == 0 || len(long.Trailer) != 0 {
		t.Errorf("trailers of %d and %d bytes in the records of %d and %d entries", len(short.Trailer), len(long.Trailer), short.Entries, long.Entries)
	}
	inObject := short
	inObject.Trailer = nil
	want, err := s.ReadIndex(t.Context(), inObject)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), short.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := s.ReadIndex(t.Context(), short); err != nil || !slices.Equal(got, want) {
		t.Errorf("by the record: %+v, %v; want %+v", got, err, want)
	}
	if _, _, err := s.Verify(t.Context(), short, func(int64) error { return nil }); !errors.Is(err, imagestore.ErrNotFound) {
		t.Errorf("verified without its object: %v", err)
	}
}

// A composite never becomes visible before the pieces that are in flight for another Writer.
func TestCompositeOfPiecesInFlight(t *testing.T) {
	f := newS3Farm(t, true)
	var slow sync.Mutex // held: the first PUT waits
	slow.Lock()
	var puts atomic.Int32
	started := make(chan struct{}, 10)
	f.through = func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/packs/") && puts.Add(1) == 1 {
				started <- struct{}{}
				slow.Lock()
			}
			return next.RoundTrip(r)
		})
	}
	s := f.open(t)
	data := storetest.Bytes(1, 1000)
	first := s.Begin()
	if _, err := first.Put(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	results := make(chan error, 2)
	go func() { results <- first.Commit(t.Context()) }()
	<-started
	second := s.Begin()
	p, err := second.Put(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	twice := storetest.BlobOf(slices.Concat(data, data), p, p)
	if err := second.Compose(t.Context(), twice); err != nil {
		t.Fatal(err)
	}
	go func() { results <- second.Commit(t.Context()) }()
	for deadline := time.Now().Add(20 * time.Second); puts.Load() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the second PUT has not come")
		}
	}
	time.Sleep(20 * time.Millisecond)
	if n := len(f.ledger.Keys()); n != 0 {
		t.Errorf("%d packs are registered before the first is stored", n)
	}
	slow.Unlock()
	if err := errors.Join(<-results, <-results); err != nil {
		t.Fatal(err)
	}
	if got, err := storetest.Read(t.Context(), f.open(t), twice.Digest, 0, -1); err != nil || len(got) != 2000 {
		t.Error(len(got), err)
	}
}
