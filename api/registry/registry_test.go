package registry_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bakefarm/api/apitest"
	"bakefarm/api/registry"
	"bakefarm/farm"
	"bakefarm/imagestore"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const repo = "shop/checkout"

// served is a registry with one image.
type served struct {
	*apitest.Farm
	server  *httptest.Server
	version farm.Version
	layers  [][]byte
}

func serve(t testing.TB) *served {
	t.Helper()
	f := apitest.New(t)
	s := &served{Farm: f}
	s.server = serveHandler(t, registry.New(registry.OnBus(f.Bus, f.Store, f.Catalog, f.Log)))
	var layers []apitest.Layer
	for _, files := range []map[string][]byte{
		{"etc/hello": []byte("hello\n"), "etc/noise": apitest.Noise(1, 300_000)},
		{"srv/app": apitest.Noise(2, 3_000_000)},
	} {
		l := layer(t, files)
		layers, s.layers = append(layers, l), append(s.layers, l.Compressed)
	}
	s.version = f.Image(t, repo, layers...)
	return s
}

func serveHandler(t testing.TB, h http.Handler) *httptest.Server {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	return server
}

func layer(t testing.TB, files map[string][]byte) apitest.Layer {
	t.Helper()
	var plain, packed bytes.Buffer
	archive := tar.NewWriter(&plain)
	names := []string{}
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if err := archive.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: int64(len(files[n]))}); err != nil {
			t.Fatal(err)
		}
		archive.Write(files[n])
	}
	archive.Close()
	z := gzip.NewWriter(&packed)
	z.Write(plain.Bytes())
	z.Close()
	return apitest.Layer{Compressed: packed.Bytes(), DiffID: digest.FromBytes(plain.Bytes())}
}

func (s *served) host() string { return strings.TrimPrefix(s.server.URL, "http://") }

// do sends a request and reads the answer.
func (s *served) do(t testing.TB, method, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, raw
}

func TestManifestByEveryReference(t *testing.T) {
	s := serve(t)
	image := s.version.Images[0]
	s.Channel(t, repo, "prod", s.version.Version)
	if _, err := s.Bus.Tags.Create(t.Context(), repo+"@latest", farm.Tag{Digest: string(image.Digest)}); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{s.version.Version, "prod", "latest", string(image.Digest)} {
		resp, raw := s.do(t, "GET", "/v2/"+repo+"/manifests/"+ref)
		if resp.StatusCode != 200 || digest.FromBytes(raw) != image.Digest {
			t.Errorf("%s: %s, %d bytes", ref, resp.Status, len(raw))
		}
		for key, want := range map[string]string{
			"Content-Type": v1.MediaTypeImageManifest, "Docker-Content-Digest": string(image.Digest), "Etag": `"` + string(image.Digest) + `"`,
			"Docker-Distribution-Api-Version": "registry/2.0", "Content-Length": fmt.Sprint(len(raw)),
		} {
			if got := resp.Header.Get(key); got != want {
				t.Errorf("%s: %s: %q, want %q", ref, key, got, want)
			}
		}
		head, none := s.do(t, "HEAD", "/v2/"+repo+"/manifests/"+ref)
		if head.StatusCode != 200 || head.ContentLength != int64(len(raw)) || len(none) != 0 || head.Header.Get("Docker-Content-Digest") != string(image.Digest) {
			t.Errorf("HEAD %s: %s, length %d", ref, head.Status, head.ContentLength)
		}
	}
	if resp, _ := s.do(t, "GET", "/v2/"+repo+"/manifests/prod", "If-None-Match", `"`+string(image.Digest)+`"`); resp.StatusCode != 304 {
		t.Errorf("If-None-Match: %s", resp.Status)
	}
}

// An image can be pulled the moment that its version is committed, however far the catalog has got.
func TestPullAtOnce(t *testing.T) {
	s := serve(t)
	for range 20 {
		v := s.Image(t, repo)
		if resp, raw := s.do(t, "GET", "/v2/"+repo+"/manifests/"+v.Version); resp.StatusCode != 200 {
			t.Fatalf("%s: %s", resp.Status, raw)
		}
	}
}

func TestAccept(t *testing.T) {
	s := serve(t)
	path := "/v2/" + repo + "/manifests/" + s.version.Version
	for accept, status := range map[string]int{
		"":                        200,
		"*/*":                     200,
		"application/*":           200,
		v1.MediaTypeImageManifest: 200,
		"text/html, " + v1.MediaTypeImageManifest + ";q=0.5": 200,
		v1.MediaTypeImageIndex:                               404,
		"text/*":                                             404,
	} {
		if resp, raw := s.do(t, "GET", path, "Accept", accept); resp.StatusCode != status {
			t.Errorf("Accept %q: %s, want %d: %s", accept, resp.Status, status, raw)
		}
	}
}

func TestBlobRanges(t *testing.T) {
	s := serve(t)
	whole := s.layers[1]
	size := len(whole)
	path := "/v2/" + repo + "/blobs/" + string(digest.FromBytes(whole))
	type want struct {
		status     int
		from, to   int // bytes of the blob, to exclusive
		rangeField string
	}
	ok := want{200, 0, size, ""}
	part := func(from, to int) want { return want{206, from, to, fmt.Sprintf("bytes %d-%d/%d", from, to-1, size)} }
	none := want{416, 0, 0, fmt.Sprintf("bytes */%d", size)}
	for header, want := range map[string]want{
		"":                               ok,
		"bytes=0-":                       part(0, size),
		"bytes=0-0":                      part(0, 1),
		"bytes=10-19":                    part(10, 20),
		fmt.Sprintf("bytes=%d-", size-1): part(size-1, size),
		"bytes=5-99999999999":            part(5, size),
		"bytes=5-99999999999999999999":   part(5, size),
		"bytes=-7":                       part(size-7, size),
		"bytes=-99999999999999999999":    part(0, size),
		fmt.Sprintf("bytes=%d-%d", size/3-5, size/3+5): part(size/3-5, size/3+6), // over a piece's end
		fmt.Sprintf("bytes=%d-", size):                 none,
		"bytes=99999999999999999999-":                  none,
		"bytes=-0":                                     none,
		"bytes=5-4":                                    ok, // invalid, so ignored (RFC 9110, section 14.2)
		"bytes=0-1,5-6":                                ok, // several: may be ignored
		"bytes=-":                                      ok,
		"bytes=a-b":                                    ok,
		"bytes=--5":                                    ok,
		"bytes=+1-5":                                   ok,
		"items=0-5":                                    ok,
		"bytes=" + strings.Repeat("1", 5000) + "-": none,
	} {
		for _, method := range []string{"GET", "HEAD"} {
			resp, raw := s.do(t, method, path, "Range", header)
			name := fmt.Sprintf("%s %.40q", method, header)
			if resp.StatusCode != want.status || resp.Header.Get("Content-Range") != want.rangeField {
				t.Errorf("%s: %s, Content-Range %q; want %d, %q", name, resp.Status, resp.Header.Get("Content-Range"), want.status, want.rangeField)
				continue
			}
			if want.status == 416 {
				continue
			}
			if resp.ContentLength != int64(want.to-want.from) || resp.Header.Get("Accept-Ranges") != "bytes" {
				t.Errorf("%s: length %d, headers %v", name, resp.ContentLength, resp.Header)
			}
			if method == "GET" && !bytes.Equal(raw, whole[want.from:want.to]) {
				t.Errorf("%s: other bytes", name)
			}
		}
	}
	etag := `"` + string(digest.FromBytes(whole)) + `"`
	if resp, _ := s.do(t, "GET", path, "Range", "bytes=0-1", "If-Range", etag); resp.StatusCode != 206 {
		t.Errorf("If-Range with the blob's own tag: %s", resp.Status)
	}
	if resp, _ := s.do(t, "GET", path, "Range", "bytes=0-1", "If-Range", `"another"`); resp.StatusCode != 200 {
		t.Errorf("If-Range with another tag: %s", resp.Status)
	}
}

func TestErrors(t *testing.T) {
	s := serve(t)
	other := s.Image(t, "other/app")
	piece := s.Put(t, []byte("in the store, but in no image"))[0]
	config := other.Images[0].Blobs[0]
	unknown := digest.FromString("unknown")
	for _, test := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v2/no/such/manifests/latest", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/no/such/tags/list", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/no/such/blobs/" + string(unknown), 404, "NAME_UNKNOWN"},
		{"GET", "/v2/" + repo + "/manifests/nope", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/" + repo + "/manifests/" + string(unknown), 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/" + repo + "/manifests/" + string(digest.FromBytes(s.layers[0])), 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/" + repo + "/manifests/" + string(other.Images[0].Digest), 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/" + repo + "/blobs/" + string(unknown), 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/" + repo + "/blobs/" + string(config), 404, "BLOB_UNKNOWN"}, // of another repository
		{"GET", "/v2/" + repo + "/blobs/" + string(piece), 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/" + repo + "/blobs/sha256:abc", 400, "DIGEST_INVALID"},
		{"GET", "/v2/" + repo + "/blobs/sha512:" + strings.Repeat("a", 128), 400, "DIGEST_INVALID"},
		{"GET", "/v2/" + repo + "/blobs/SHA256:" + strings.Repeat("A", 64), 400, "DIGEST_INVALID"},
		{"GET", "/v2/" + repo + "/manifests/sha256:abc", 400, "DIGEST_INVALID"},
		{"GET", "/v2/" + repo + "/referrers/nope", 400, "DIGEST_INVALID"},
		{"GET", "/v2/Shop/manifests/latest", 400, "NAME_INVALID"},
		{"GET", "/v2/shop//checkout/manifests/latest", 400, "NAME_INVALID"},
		{"GET", "/v2/../../etc/manifests/passwd", 400, "NAME_INVALID"},
		{"GET", "/v2/a/%2e%2e/b/manifests/latest", 400, "NAME_INVALID"},
		{"GET", "/v2/a%00b/manifests/latest", 400, "NAME_INVALID"},
		{"GET", "/v2/" + strings.Repeat("a/", 100) + "b/manifests/latest", 400, "NAME_INVALID"},
		{"GET", "/v2/" + repo + "/manifests/", 404, "UNSUPPORTED"},
		{"GET", "/v2/" + repo + "/manifests/a%2Fb", 404, "UNSUPPORTED"},
		{"GET", "/v2/" + repo + "/nothing", 404, "UNSUPPORTED"},
		{"GET", "/v2/" + repo + "/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/" + repo + "/tags/list?n=many", 400, "PAGINATION_NUMBER_INVALID"},
		{"POST", "/v2/" + repo + "/blobs/uploads/", 405, "UNSUPPORTED"},
		{"GET", "/v2/" + repo + "/blobs/uploads/abc", 405, "UNSUPPORTED"},
		{"PUT", "/v2/" + repo + "/manifests/latest", 405, "UNSUPPORTED"},
		{"DELETE", "/v2/" + repo + "/manifests/" + string(unknown), 405, "UNSUPPORTED"},
		{"PATCH", "/v2/", 405, "UNSUPPORTED"},
	} {
		resp, raw := s.do(t, test.method, test.path)
		var body struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(raw, &body); err != nil || len(body.Errors) != 1 {
			t.Errorf("%s %s: %s: %v: %s", test.method, test.path, resp.Status, err, raw)
			continue
		}
		if resp.StatusCode != test.status || body.Errors[0].Code != test.code || body.Errors[0].Message == "" {
			t.Errorf("%s %s: %s %v, want %d %s", test.method, test.path, resp.Status, body.Errors, test.status, test.code)
		}
		if resp.StatusCode == 405 && resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s %s: Allow %q", test.method, test.path, resp.Header.Get("Allow"))
		}
	}
}

func TestLists(t *testing.T) {
	s := serve(t)
	want := []string{s.version.Version, "prod", "dev"}
	s.Channel(t, repo, "prod", s.version.Version)
	s.Channel(t, repo, "dev", s.version.Version)
	for range 5 {
		want = append(want, s.Image(t, repo).Version)
	}
	s.Image(t, "zebra")
	slices.Sort(want)
	for _, n := range []int{1, 2, 3, 8, 9} {
		var got []string
		pages := 0
		for path := fmt.Sprintf("/v2/%s/tags/list?n=%d", repo, n); path != ""; pages++ {
			resp, raw := s.do(t, "GET", path)
			var list struct {
				Name string
				Tags []string
			}
			if err := json.Unmarshal(raw, &list); err != nil || list.Name != repo || len(list.Tags) > n {
				t.Fatalf("%s: %v: %s", path, err, raw)
			}
			got = append(got, list.Tags...)
			path = ""
			if link := resp.Header.Get("Link"); link != "" {
				target, rel, _ := strings.Cut(strings.TrimPrefix(link, "<"), ">; ")
				if rel != `rel="next"` {
					t.Fatalf("Link %q", link)
				}
				path = target
			}
		}
		if !slices.Equal(got, want) || pages != (len(want)+n-1)/n {
			t.Errorf("n=%d: %d pages, %v; want %v", n, pages, got, want)
		}
	}
	if resp, raw := s.do(t, "GET", "/v2/"+repo+"/tags/list?n=0"); string(raw) != `{"name":"shop/checkout","tags":[]}` || resp.Header.Get("Link") != "" {
		t.Errorf("n=0: %s", raw)
	}
	if _, raw := s.do(t, "GET", "/v2/_catalog"); string(raw) != `{"repositories":["shop/checkout","zebra"]}` {
		t.Errorf("catalog: %s", raw)
	}
	resp, raw := s.do(t, "GET", "/v2/"+repo+"/referrers/"+string(s.version.Images[0].Digest))
	var index v1.Index
	if err := json.Unmarshal(raw, &index); err != nil || resp.Header.Get("Content-Type") != v1.MediaTypeImageIndex || index.Manifests == nil || len(index.Manifests) != 0 {
		t.Errorf("referrers: %v %s", err, raw)
	}
}

// An index is served, and the manifests within it, which are no images of their own in the catalog.
func TestIndex(t *testing.T) {
	s := serve(t)
	child := s.version.Images[0]
	raw, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{
		{MediaType: child.MediaType, Digest: child.Digest, Size: 1, Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	v := s.Version(t, "multi", farm.Image{
		Digest: s.Put(t, raw)[0], MediaType: v1.MediaTypeImageIndex, Kind: "oci", Format: "oci",
		Blobs: append([]digest.Digest{child.Digest}, child.Blobs...),
	})
	if resp, got := s.do(t, "GET", "/v2/multi/manifests/"+v.Version); resp.Header.Get("Content-Type") != v1.MediaTypeImageIndex || !bytes.Equal(got, raw) {
		t.Errorf("index: %s %s", resp.Status, got)
	}
	if resp, got := s.do(t, "GET", "/v2/multi/manifests/"+string(child.Digest)); resp.Header.Get("Content-Type") != v1.MediaTypeImageManifest || digest.FromBytes(got) != child.Digest {
		t.Errorf("manifest within an index: %s %s", resp.Status, got)
	}
}

// faulty is a store whose blobs break after some bytes.
type faulty struct {
	imagestore.Reader
	after int64
}

func (f faulty) Open(ctx context.Context, d digest.Digest, offset, n int64) (io.ReadCloser, error) {
	rc, err := f.Reader.Open(ctx, d, offset, n)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(rc, f.after), broken{}), rc}, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, imagestore.ErrCorrupt }

// What can't be read must never look like the end of a blob.
func TestCorruptBlob(t *testing.T) {
	s := serve(t)
	path := "/v2/" + repo + "/blobs/" + string(digest.FromBytes(s.layers[1]))
	config := registry.OnBus(s.Bus, s.Store, s.Catalog, s.Log)
	config.Store = faulty{s.Store, 1_000_000}
	server := serveHandler(t, registry.New(config))
	resp, err := http.Get(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err == nil || len(got) > 1_000_000 {
		t.Errorf("%d bytes, error %v: want a broken connection", len(got), err)
	}
	config.Store = faulty{s.Store, 0}
	server = serveHandler(t, registry.New(config))
	resp, err = http.Get(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 500 || !strings.Contains(string(raw), `"UNKNOWN"`) || resp.Header.Get("Docker-Content-Digest") != "" {
		t.Errorf("%s %v: %s: want an error", resp.Status, err, raw)
	}
}

func TestGoContainerRegistry(t *testing.T) {
	s := serve(t)
	ref, err := name.ParseReference(s.host()+"/"+repo+":"+s.version.Version, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := image.Layers()
	if err != nil || len(pulled) != len(s.layers) {
		t.Fatalf("%d layers, %v", len(pulled), err)
	}
	for i, l := range pulled {
		rc, err := l.Compressed() // compares the digest
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(rc)
		if err != nil || !bytes.Equal(got, s.layers[i]) {
			t.Errorf("layer %d: %d bytes, %v", i, len(got), err)
		}
		rc.Close()
	}
	if c, err := image.ConfigFile(); err != nil || c.Architecture != "amd64" {
		t.Errorf("config: %v %v", c, err)
	}
	tags, err := remote.List(ref.Context(), remote.WithContext(t.Context()))
	if err != nil || !slices.Equal(tags, []string{s.version.Version}) {
		t.Errorf("%v %v", tags, err)
	}
	repos, err := remote.Catalog(t.Context(), ref.Context().Registry)
	if err != nil || !slices.Equal(repos, []string{repo}) {
		t.Errorf("%v %v", repos, err)
	}
	index, err := remote.Referrers(ref.Context().Digest(string(s.version.Images[0].Digest)), remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := index.IndexManifest(); err != nil || len(m.Manifests) != 0 {
		t.Errorf("%v %v", m, err)
	}
}

// run runs a program that these tests need.
func run(t testing.TB, env []string, program string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", program, program)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

func TestSkopeo(t *testing.T) {
	s := serve(t)
	ref := "docker://" + s.host() + "/" + repo + ":" + s.version.Version
	var seen struct {
		Digest string
		Layers []string
	}
	if err := json.Unmarshal([]byte(run(t, nil, "skopeo", "inspect", "--tls-verify=false", ref)), &seen); err != nil {
		t.Fatal(err)
	}
	if seen.Digest != string(s.version.Images[0].Digest) || len(seen.Layers) != 2 {
		t.Errorf("skopeo inspect: %+v", seen)
	}
	dir := filepath.Join(t.TempDir(), "image")
	run(t, nil, "skopeo", "copy", "--src-tls-verify=false", ref, "dir:"+dir)
	for _, l := range s.layers {
		got, err := os.ReadFile(filepath.Join(dir, digest.FromBytes(l).Encoded()))
		if err != nil || !bytes.Equal(got, l) {
			t.Errorf("layer %s: %d bytes, %v", digest.FromBytes(l), len(got), err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil || digest.FromBytes(raw) != s.version.Images[0].Digest {
		t.Errorf("manifest: %v", err)
	}
}

func TestBuildah(t *testing.T) {
	s := serve(t)
	home := t.TempDir()
	store := []string{"--root", filepath.Join(home, "root"), "--runroot", filepath.Join(home, "run"), "--storage-driver", "vfs"}
	env := []string{"BUILDAH_ISOLATION=chroot", "HOME=" + home, "XDG_RUNTIME_DIR=" + home}
	policy := filepath.Join(home, "policy.json")
	if err := os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	ref := "docker://" + s.host() + "/" + repo + ":" + s.version.Version
	id := strings.TrimSpace(run(t, env, "buildah", append(store, "pull", "--tls-verify=false", "--signature-policy", policy, ref)...))
	got := run(t, env, "buildah", append(store, "inspect", "--type", "image", "--format", "{{.FromImageDigest}}", id)...)
	if strings.TrimSpace(got) != string(s.version.Images[0].Digest) {
		t.Errorf("buildah pulled %q, want %s", got, s.version.Images[0].Digest)
	}
}

// Two APIs of one farm and a client that gives up: nothing waits for it.
func TestClientGone(t *testing.T) {
	s := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", s.server.URL+"/v2/"+repo+"/blobs/"+string(digest.FromBytes(s.layers[1])), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	resp.Body.Close()
	s.server.Close() // waits for the handler
}

// Without the bus, what is known can still be pulled; what would have to be asked is not there for now.
func TestBusAway(t *testing.T) {
	s := serve(t)
	s.Channel(t, repo, "prod", s.version.Version)
	if err := s.Catalog.CatchUpVersions(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Bus.Close(); err != nil {
		t.Fatal(err)
	}
	for path, status := range map[string]int{
		"/manifests/" + s.version.Version:                  200,
		"/manifests/" + string(s.version.Images[0].Digest): 200,
		"/blobs/" + string(digest.FromBytes(s.layers[0])):  200,
		"/manifests/prod": 503,
		"/tags/list":      503,
		"/blobs/" + string(digest.FromString("never heard of")): 503,
	} {
		if resp, raw := s.do(t, "GET", "/v2/"+repo+path); resp.StatusCode != status {
			t.Errorf("%s: %s %.200s, want %d", path, resp.Status, raw, status)
		}
	}
}
