package remote_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"bakefarm/imagestore"
	"bakefarm/imagestore/remote"
	"bakefarm/imagestore/remote/remotetest"
	"bakefarm/imagestore/s3store/s3storetest"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Connections that containers/image and go-containerregistry leave to their idle timeout.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
	)
}

// noAuth says that there are no credentials, whatever the machine has.
func noAuth(t *testing.T) string { return authFile(t, "", "", "") }

// authFile is a file of credentials for one registry, as docker login writes it.
func authFile(t *testing.T, registry, user, password string) string {
	t.Helper()
	text := "{}"
	if registry != "" {
		text = fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, registry, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	}
	file := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// pulled fetches what a reference names through another library.
func pulled(t *testing.T, target string, options ...ggcr.Option) *ggcr.Descriptor {
	t.Helper()
	ref, err := name.ParseReference(target, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ggcr.Get(ref, options...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// verify reads all of an image. The library checks the digests of what it reads; diff IDs are checked here.
func verify(t *testing.T, image v1.Image) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) == 0 || len(layers) != len(config.RootFS.DiffIDs) {
		t.Fatalf("%d layers, %d diff IDs, %v", len(layers), len(config.RootFS.DiffIDs), err)
	}
	for i, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		id, err := digest.FromReader(r)
		if err != nil || id.String() != config.RootFS.DiffIDs[i].String() {
			t.Errorf("layer %d has diff ID %s, not %s: %v", i, id, config.RootFS.DiffIDs[i], err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestPush(t *testing.T) {
	store, registry := s3storetest.Open(t), remotetest.StartRegistry(t, "", "")
	image := remotetest.PutImage(t, store, 1, 3<<20)
	target := registry.Address + "/shop/checkout:1"
	for range 2 { // idempotent
		if err := remote.Push(t.Context(), store, image.Digest, target, remote.Options{AuthFile: noAuth(t)}); err != nil {
			t.Fatal(err)
		}
	}
	d := pulled(t, target)
	if d.Digest.String() != image.Digest.String() || !bytes.Equal(d.Manifest, image.Raw) {
		t.Errorf("pushed %s, pulled %s", image.Digest, d.Digest)
	}
	back, err := d.Image()
	if err != nil {
		t.Fatal(err)
	}
	verify(t, back)
}

func TestPushIndex(t *testing.T) {
	store, registry := s3storetest.Open(t), remotetest.StartRegistry(t, "", "")
	index := remotetest.PutIndex(t, store, remotetest.PutImage(t, store, 1, 1000), remotetest.PutImage(t, store, 2, 100_000))
	target := registry.Address + "/shop/checkout:1"
	if err := remote.Push(t.Context(), store, index.Digest, target, remote.Options{AuthFile: noAuth(t)}); err != nil {
		t.Fatal(err)
	}
	d := pulled(t, target)
	if d.Digest.String() != index.Digest.String() {
		t.Errorf("pushed %s, pulled %s", index.Digest, d.Digest)
	}
	back, err := d.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := back.IndexManifest()
	if err != nil || len(manifest.Manifests) != 2 {
		t.Fatalf("%+v, %v", manifest, err)
	}
	for _, m := range manifest.Manifests {
		image, err := back.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		verify(t, image)
	}
}

// spy watches what is read of a store.
type spy struct {
	imagestore.Reader
	mu     sync.Mutex
	opened map[digest.Digest]int
	after  func(digest.Digest, io.ReadCloser) io.ReadCloser // wraps what was opened
}

func (s *spy) Open(ctx context.Context, d digest.Digest, offset, n int64) (io.ReadCloser, error) {
	s.mu.Lock()
	if s.opened == nil {
		s.opened = make(map[digest.Digest]int)
	}
	s.opened[d]++
	s.mu.Unlock()
	r, err := s.Reader.Open(ctx, d, offset, n)
	if err == nil && s.after != nil {
		r = s.after(d, r)
	}
	return r, err
}

// A layer that the registry has is not read again.
func TestPushSendsWhatIsMissing(t *testing.T) {
	store, registry := s3storetest.Open(t), remotetest.StartRegistry(t, "", "")
	image := remotetest.PutImage(t, store, 1, 1<<20)
	watched := &spy{Reader: store}
	for i := range 2 {
		target := fmt.Sprintf("%s/shop/checkout:%d", registry.Address, i)
		if err := remote.Push(t.Context(), watched, image.Digest, target, remote.Options{AuthFile: noAuth(t)}); err != nil {
			t.Fatal(err)
		}
		if got := watched.opened[image.Layer]; got != 1 {
			t.Errorf("after push %d the layer was read %d times", i+1, got)
		}
	}
}

func TestPushWithCredentials(t *testing.T) {
	store, registry := s3storetest.Open(t), remotetest.StartRegistry(t, "farm", "right")
	image := remotetest.PutImage(t, store, 1, 1000)
	target := registry.Address + "/shop/checkout:1"
	for what, file := range map[string]string{"none": noAuth(t), "wrong": authFile(t, registry.Address, "farm", "wrong")} {
		err := remote.Push(t.Context(), store, image.Digest, target, remote.Options{AuthFile: file})
		if err == nil || !remote.Final(err) || !strings.Contains(err.Error(), target) {
			t.Errorf("credentials %s: final %v: %v", what, remote.Final(err), err)
		}
		if err != nil && strings.Contains(err.Error(), "wrong") {
			t.Errorf("the password is told: %v", err)
		}
	}
	if err := remote.Push(t.Context(), store, image.Digest, target, remote.Options{AuthFile: authFile(t, registry.Address, "farm", "right")}); err != nil {
		t.Fatal(err)
	}
	d := pulled(t, target, ggcr.WithAuth(&authn.Basic{Username: "farm", Password: "right"}))
	if d.Digest.String() != image.Digest.String() {
		t.Errorf("pushed %s, pulled %s", image.Digest, d.Digest)
	}
}

// torn ends what is read after n bytes, or does something at that moment.
type torn struct {
	io.ReadCloser
	n  int64
	do func() error
}

func (r *torn) Read(p []byte) (int, error) {
	if r.n <= 0 && r.do != nil {
		if err := r.do(); err != nil {
			return 0, err
		}
		r.do = nil
	}
	n, err := r.ReadCloser.Read(p[:min(len(p), 32<<10)])
	r.n -= int64(n)
	return n, err
}

func TestRegistryDiesInTheMiddle(t *testing.T) {
	store, registry := s3storetest.Open(t), remotetest.StartRegistry(t, "", "")
	image := remotetest.PutImage(t, store, 1, 8<<20)
	target := registry.Address + "/shop/checkout:1"
	dying := &spy{Reader: store, after: func(d digest.Digest, r io.ReadCloser) io.ReadCloser {
		if d != image.Layer {
			return r
		}
		return &torn{r, image.Size / 2, func() error { registry.Stop(); return nil }}
	}}
	err := remote.Push(t.Context(), dying, image.Digest, target, remote.Options{AuthFile: noAuth(t)})
	if err == nil || remote.Final(err) || !strings.Contains(err.Error(), target) {
		t.Errorf("it died: final %v: %v", remote.Final(err), err)
	}
	if err != nil && strings.Contains(err.Error(), "_state=") {
		t.Errorf("the upload's session is told: %v", err)
	}
	err = remote.Push(t.Context(), store, image.Digest, target, remote.Options{AuthFile: noAuth(t)})
	if err == nil || remote.Final(err) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("it is dead: final %v: %v", remote.Final(err), err)
	}
	registry.Start()
	if err := remote.Push(t.Context(), store, image.Digest, target, remote.Options{AuthFile: noAuth(t)}); err != nil {
		t.Fatal(err)
	}
	if d := pulled(t, target); d.Digest.String() != image.Digest.String() {
		t.Errorf("pushed %s, pulled %s", image.Digest, d.Digest)
	}
}

func TestStoreFailsInTheMiddle(t *testing.T) {
	store, registry := s3storetest.Open(t), remotetest.StartRegistry(t, "", "")
	image := remotetest.PutImage(t, store, 1, 1<<20)
	for _, failure := range []error{imagestore.ErrCorrupt, errors.New("S3 is away")} {
		failing := &spy{Reader: store, after: func(d digest.Digest, r io.ReadCloser) io.ReadCloser {
			if d != image.Layer {
				return r
			}
			return &torn{r, image.Size / 2, func() error { return failure }}
		}}
		err := remote.Push(t.Context(), failing, image.Digest, registry.Address+"/shop/checkout:1", remote.Options{AuthFile: noAuth(t)})
		if !errors.Is(err, failure) || remote.Final(err) {
			t.Errorf("final %v: %v", remote.Final(err), err)
		}
	}
}

func TestWhatCannotBePushed(t *testing.T) {
	store := s3storetest.Open(t)
	image := remotetest.PutImage(t, store, 1, 1000)
	push := func(d digest.Digest, target string) error {
		return remote.Push(t.Context(), store, d, target, remote.Options{AuthFile: noAuth(t)})
	}
	for _, target := range []string{"", "127.0.0.1:1/Shop:1", "127.0.0.1:1/shop:a b", "http://127.0.0.1/shop:1", "127.0.0.1:1/shop:1@sha256:00"} {
		if err := push(image.Digest, target); err == nil || !remote.Final(err) {
			t.Errorf("%q: final %v: %v", target, remote.Final(err), err)
		}
	}
	registry := remotetest.StartRegistry(t, "", "")
	missing := digest.FromString("no such thing")
	if err := push(missing, registry.Address+"/shop:1"); !errors.Is(err, imagestore.ErrNotFound) || !remote.Final(err) || !strings.Contains(err.Error(), missing.String()) {
		t.Errorf("an image that is not there: final %v: %v", remote.Final(err), err)
	}
	if err := push(image.Layer, registry.Address+"/shop:1"); err == nil || !remote.Final(err) {
		t.Errorf("a layer as an image: final %v: %v", remote.Final(err), err)
	}
	dangling := remotetest.PutIndex(t, store, remotetest.Image{Digest: missing, Raw: []byte("x")})
	if err := push(dangling.Digest, registry.Address+"/shop:1"); !errors.Is(err, imagestore.ErrNotFound) || !remote.Final(err) {
		t.Errorf("an index over what is not there: final %v: %v", remote.Final(err), err)
	}
}

// front puts a server before a registry; answer may answer a request itself.
func front(t *testing.T, registry string, tls bool, answer func(http.ResponseWriter, *http.Request) bool) (address string) {
	t.Helper()
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: registry})
		r.SetXForwarded()
		r.Out.Host = r.In.Host // the registry makes URLs of it
	}}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if tls {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestAnswersOfRegistries(t *testing.T) {
	store, registry := s3storetest.Open(t), remotetest.StartRegistry(t, "", "")
	image := remotetest.PutImage(t, store, 1, 1000)
	ping := func(r *http.Request) bool { return r.URL.Path == "/v2/" }
	upload := func(r *http.Request) bool { return r.Method == http.MethodPost }
	manifest := func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
	}
	oci := func(code string) string {
		return fmt.Sprintf(`{"errors": [{"code": %q, "message": "because of %[1]s"}]}`, code)
	}
	tests := []struct {
		name   string
		on     func(*http.Request) bool
		status int
		body   string
		final  bool
	}{
		{"a registry that starts", ping, 503, "<html>not yet</html>", false},
		{"no registry", ping, 404, "<html>no such page</html>", true},
		{"a full disk", upload, 500, oci("UNKNOWN"), false},
		{"a proxy without a backend", upload, 502, "<html>bad gateway</html>", false},
		{"no permission", upload, 403, oci("DENIED"), true},
		{"a proxy's no", upload, 403, "<html>forbidden</html>", true},
		{"no such project", upload, 404, oci("NAME_UNKNOWN"), true},
		{"too large for the proxy", upload, 413, "<html>too large</html>", true},
		{"a slow request", upload, 408, "", false},
		{"a refused manifest", manifest, 400, oci("MANIFEST_INVALID"), true},
		{"an upload that it lost", manifest, 400, oci("DIGEST_INVALID"), false},
		{"a blob that it lost", manifest, 404, oci("MANIFEST_BLOB_UNKNOWN"), false},
		{"an immutable tag", manifest, 409, "tag exists", true},
		{"a manifest that can't be written", manifest, 500, "", false},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			address := front(t, registry.Address, false, func(w http.ResponseWriter, r *http.Request) bool {
				if !test.on(r) {
					return false
				}
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
				return true
			})
			target := fmt.Sprintf("%s/shop/checkout%d:1", address, i)
			err := remote.Push(t.Context(), store, image.Digest, target, remote.Options{AuthFile: noAuth(t)})
			if err == nil || remote.Final(err) != test.final || !strings.Contains(err.Error(), target) {
				t.Errorf("final %v: %v", remote.Final(err), err)
			}
		})
	}
}

// Loopback registries are spoken to over https with any certificate where they have one.
func TestLoopbackTLS(t *testing.T) {
	store, registry := s3storetest.Open(t), remotetest.StartRegistry(t, "", "")
	image := remotetest.PutImage(t, store, 1, 1000)
	address := front(t, registry.Address, true, func(http.ResponseWriter, *http.Request) bool { return false })
	if err := remote.Push(t.Context(), store, image.Digest, address+"/shop:1", remote.Options{AuthFile: noAuth(t)}); err != nil {
		t.Fatal(err)
	}
	if d := pulled(t, registry.Address+"/shop:1"); d.Digest.String() != image.Digest.String() {
		t.Errorf("pushed %s, pulled %s", image.Digest, d.Digest)
	}
}

func TestCancelledPush(t *testing.T) {
	store, registry := s3storetest.Open(t), remotetest.StartRegistry(t, "", "")
	image := remotetest.PutImage(t, store, 1, 8<<20)
	ctx, cancel := context.WithCancel(t.Context())
	watched := &spy{Reader: store, after: func(d digest.Digest, r io.ReadCloser) io.ReadCloser {
		return &torn{r, image.Size / 2, func() error { cancel(); return nil }}
	}}
	err := remote.Push(ctx, watched, image.Digest, registry.Address+"/shop:1", remote.Options{AuthFile: noAuth(t)})
	if !errors.Is(err, context.Canceled) || remote.Final(err) {
		t.Errorf("final %v: %v", remote.Final(err), err)
	}
}
