package api_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"bakefarm/api"
	"bakefarm/api/apitest"
	"bakefarm/api/client"
	"bakefarm/imagestore"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// scan writes files into a directory and reads it as the client does.
func scan(t testing.TB, files map[string][]byte) *client.Scan {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := recipe.Parse("r.yaml", []byte(recipeText))
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.ScanContext(t.Context(), dir, r.App, r.OS.Base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestPost(t *testing.T) {
	s := serve(t)
	s.coordinate()
	files := map[string][]byte{"app": apitest.Noise(1, 9<<20), "etc/a": []byte("a"), "etc/b": []byte("a"), "empty": nil}
	context := scan(t, files)
	sent := int64(0)
	var mu sync.Mutex
	count := func(n int64) { mu.Lock(); defer mu.Unlock(); sent += n }
	request := api.BakeRequest{File: "r.yaml", Recipe: recipeText, Set: []string{"config.env.A=1"}}
	b, err := s.client.Post(t.Context(), request, context, count)
	if err != nil {
		t.Fatal(err)
	}
	if sent != 9<<20+1 {
		t.Errorf("%d bytes sent, want every chunk once", sent)
	}
	if len(s.requests) != 1 {
		t.Fatalf("%d submissions", len(s.requests))
	}
	got := s.requests[0]
	if got.ID != b.ID || got.File != "r.yaml" || !slices.Equal(got.Set, request.Set) || got.Rebake || got.LockOnly {
		t.Errorf("submitted %+v", got)
	}
	if raw, err := imagestore.ReadAll(t.Context(), s.Store, got.Recipe, 1<<20); err != nil || string(raw) != recipeText {
		t.Errorf("recipe: %q %v", raw, err)
	}
	raw, err := imagestore.ReadAll(t.Context(), s.Store, got.Context, 1<<20)
	if err != nil || !bytes.Equal(raw, context.Context.Encode()) {
		t.Errorf("manifest: %q %v", raw, err)
	}
	for _, f := range context.Context.Files {
		var content []byte
		for _, c := range f.Chunks {
			chunk, err := imagestore.ReadAll(t.Context(), s.Store, c, recipe.ChunkSize)
			if err != nil {
				t.Fatal(err)
			}
			content = append(content, chunk...)
		}
		if !f.Dir && !bytes.Equal(content, files[f.Path]) {
			t.Errorf("%s: other bytes", f.Path)
		}
	}

	// Again: nothing has to travel, and it is another bake, because the client makes a new key.
	sent = 0
	again, err := s.client.Post(t.Context(), api.BakeRequest{Recipe: recipeText, Rebake: true, LockOnly: true}, context, count)
	if err != nil || sent != 0 || again.ID == b.ID {
		t.Errorf("again: %v, %d bytes, %s", err, sent, again.ID)
	}
	if r := s.requests[1]; !r.Rebake || !r.LockOnly || r.File != "recipe" || r.Context != got.Context {
		t.Errorf("submitted %+v", r)
	}
}

func TestIdempotencyKey(t *testing.T) {
	s := serve(t)
	s.coordinate()
	request := api.BakeRequest{File: "r.yaml", Recipe: recipeText}
	var mu sync.Mutex
	ids, statuses := map[string]int{}, map[int]int{}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			a := s.sendJSON("POST", "/v1/bakes", request, "Idempotency-Key", "one")
			var b api.Bake
			if err := json.Unmarshal(a.raw, &b); err != nil || a.header.Get("Location") != "/v1/bakes/"+b.ID {
				t.Errorf("%d %s: %v, Location %q", a.status, a.raw, err, a.header.Get("Location"))
			}
			mu.Lock()
			defer mu.Unlock()
			ids[b.ID]++
			statuses[a.status]++
		})
	}
	all.Wait()
	// Those that came before the first was answered may be told that it is new as well.
	if len(ids) != 1 || len(s.requests) != 1 || statuses[201] < 1 || statuses[201]+statuses[200] != 20 {
		t.Errorf("bakes %v, statuses %v, %d accepted", ids, statuses, len(s.requests))
	}
	if a := s.sendJSON("POST", "/v1/bakes", request, "Idempotency-Key", "one"); a.status != 200 {
		t.Errorf("later: %d %s", a.status, a.raw)
	}
	for _, other := range []api.BakeRequest{
		{File: "other.yaml", Recipe: recipeText},
		{File: "r.yaml", Recipe: recipeText + "\n"},
		{File: "r.yaml", Recipe: recipeText, Rebake: true},
		{File: "r.yaml", Recipe: recipeText, LockOnly: true},
		{File: "r.yaml", Recipe: recipeText, Set: []string{"name=x"}},
		{File: "r.yaml", Recipe: recipeText, Context: &recipe.Context{Files: []recipe.ContextFile{}}},
	} {
		if a := s.sendJSON("POST", "/v1/bakes", other, "Idempotency-Key", "one"); a.status != 422 || !strings.Contains(a.Detail, "stands for another request") {
			t.Errorf("another request with the same key: %d %s", a.status, a.raw)
		}
	}
	// A key is not used up by a request that was refused.
	if a := s.sendJSON("POST", "/v1/bakes", api.BakeRequest{Recipe: "name: x"}, "Idempotency-Key", "two"); a.status != 422 {
		t.Errorf("bad recipe: %d %s", a.status, a.raw)
	}
	if a := s.sendJSON("POST", "/v1/bakes", request, "Idempotency-Key", "two"); a.status != 201 {
		t.Errorf("the same key after a refusal: %d %s", a.status, a.raw)
	}
	if a := s.sendJSON("POST", "/v1/bakes", request, "Idempotency-Key", strings.Repeat("k", 257)); a.status != 422 {
		t.Errorf("long key: %d %s", a.status, a.raw)
	}
}

// A submission that was remembered by an API that died before the coordinator heard of it is made good by the next try.
func TestRememberedButNotSubmitted(t *testing.T) {
	s := serve(t)
	request := api.BakeRequest{File: "r.yaml", Recipe: recipeText}
	a := s.sendJSON("POST", "/v1/bakes", request, "Idempotency-Key", "k")
	if a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("without a coordinator: %d %s", a.status, a.raw)
	}
	kept, err := s.Bus.Submissions.List(t.Context(), "")
	if err != nil || len(kept) != 1 {
		t.Fatalf("%v %v", kept, err)
	}
	s.coordinate()
	a = s.sendJSON("POST", "/v1/bakes", request, "Idempotency-Key", "k")
	var b api.Bake
	if err := json.Unmarshal(a.raw, &b); err != nil || a.status != 201 {
		t.Fatalf("%d %s %v", a.status, a.raw, err)
	}
	for _, k := range kept {
		if b.ID != k.Bake {
			t.Errorf("bake %s, remembered was %s", b.ID, k.Bake)
		}
	}
}

func TestRecipeErrors(t *testing.T) {
	s := serve(t)
	a := s.sendJSON("POST", "/v1/bakes", api.BakeRequest{File: "r.yaml", Recipe: recipeText + "colour: blue\nsize: 3\n"})
	if a.status != 422 || len(a.Errors) != 2 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	if e := a.Errors[0]; e.Location != "r.yaml:8:1" || !strings.HasPrefix(e.Message, "colour: ") {
		t.Errorf("%+v", e)
	}
	a = s.sendJSON("POST", "/v1/bakes", api.BakeRequest{File: "r.yaml", Recipe: recipeText, Set: []string{"config.entrypoint"}})
	if a.status != 422 || len(a.Errors) != 1 || !strings.HasPrefix(a.Errors[0].Location, "--set") {
		t.Errorf("%d %s", a.status, a.raw)
	}
	// As the command line prints it.
	_, err := s.client.Post(t.Context(), api.BakeRequest{File: "r.yaml", Recipe: "name: ["}, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "r.yaml:1:") {
		t.Errorf("%v", err)
	}
}

func TestHostileSubmissions(t *testing.T) {
	s := serve(t)
	s.coordinate()
	valid, err := json.Marshal(api.BakeRequest{Recipe: recipeText})
	if err != nil {
		t.Fatal(err)
	}
	with := func(context string) []byte {
		return fmt.Appendf(nil, `{"recipe": %q, "context": %s}`, recipeText, context)
	}
	digestOfA := string(digest.FromString("a"))
	for name, test := range map[string]struct {
		body        []byte
		contentType string
		encoding    string
		status      int
		detail      string
	}{
		"empty":             {nil, "application/json", "", 422, "not a request"},
		"no JSON":           {[]byte("name: x"), "application/json", "", 422, "not a request"},
		"array":             {[]byte("[]"), "application/json", "", 422, "not a request"},
		"two values":        {append(bytes.Clone(valid), "{}"...), "application/json", "", 422, "follows"},
		"unknown field":     {[]byte(`{"recipe": "x", "colour": 1}`), "application/json", "", 422, "colour"},
		"wrong type":        {[]byte(`{"recipe": 5}`), "application/json", "", 422, "recipe"},
		"no recipe":         {[]byte(`{}`), "application/json", "", 422, "the text is missing"},
		"large recipe":      {fmt.Appendf(nil, `{"recipe": "%s"}`, strings.Repeat("#", 1<<20+1)), "application/json", "", 422, "bytes"},
		"long file name":    {fmt.Appendf(nil, `{"recipe": "x", "file": "%s"}`, strings.Repeat("f", 1025)), "application/json", "", 422, "1024"},
		"no type":           {valid, "", "", 415, "Content-Type"},
		"form":              {valid, "application/x-www-form-urlencoded", "", 415, "Content-Type"},
		"text":              {valid, "text/plain", "", 415, "Content-Type"},
		"unknown encoding":  {valid, "application/json", "br", 415, "Content-Encoding"},
		"no gzip":           {valid, "application/json", "gzip", 400, "gzip"},
		"torn gzip":         {zip(t, valid)[:40], "application/json", "gzip", 400, "can't be read"},
		"gzip bomb":         {bomb(t, 200<<20), "application/json", "gzip", 413, "larger"},
		"parent":            {with(`{"files": [{"path": "../x"}]}`), "application/json", "", 422, "../x"},
		"absolute":          {with(`{"files": [{"path": "/etc/passwd"}]}`), "application/json", "", 422, "/etc/passwd"},
		"unsorted":          {with(`{"files": [{"path": "b"}, {"path": "a"}]}`), "application/json", "", 422, "sorted"},
		"bad digest":        {with(`{"files": [{"path": "a", "size": 1, "chunks": ["sha256:no"]}]}`), "application/json", "", 422, "digest"},
		"chunks and size":   {with(`{"files": [{"path": "a", "size": 9000000, "chunks": ["` + digestOfA + `"]}]}`), "application/json", "", 422, "chunks"},
		"millions of files": {with(`{"files": [` + strings.Repeat("{},", 1<<20) + `{}]}`), "application/json", "", 422, "files"},
		"context array":     {with(`[]`), "application/json", "", 422, "context"},
	} {
		t.Run(name, func(t *testing.T) {
			header := []string{}
			if test.contentType != "" {
				header = append(header, "Content-Type", test.contentType)
			}
			if test.encoding != "" {
				header = append(header, "Content-Encoding", test.encoding)
			}
			if a := s.send("POST", "/v1/bakes", test.body, header...); a.status != test.status || !strings.Contains(a.Detail, test.detail) {
				t.Errorf("%d %.300s; want %d with %q", a.status, a.raw, test.status, test.detail)
			}
		})
	}
	if len(s.requests) != 0 {
		t.Errorf("submitted: %+v", s.requests)
	}
	if a := s.send("POST", "/v1/bakes", zip(t, valid), "Content-Type", "application/json; charset=utf-8", "Content-Encoding", "gzip"); a.status != 201 {
		t.Errorf("gzip: %d %s", a.status, a.raw)
	}
}

func zip(t testing.TB, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// bomb is so many bytes of white space, packed.
func bomb(t testing.TB, n int) []byte { return zip(t, bytes.Repeat([]byte{' '}, n)) }

// chunksPath is where the chunks of recipeText's context go.
const chunksPath = "/v1/chunks?name=shop%2Fcheckout"

// frame is a chunk as it travels.
func frame(content []byte) []byte {
	sum := imagestore.SumOf(content)
	return append(binary.BigEndian.AppendUint32(sum[:], uint32(len(content))), content...)
}

func TestChunks(t *testing.T) {
	s := serve(t)
	var body []byte
	var chunks []digest.Digest
	for i := range 20 { // more than one group
		content := apitest.Noise(uint64(100+i), recipe.ChunkSize-i)
		chunks, body = append(chunks, digest.FromBytes(content)), append(body, frame(content)...)
	}
	if a := s.send("POST", chunksPath, body, "Content-Type", api.ChunksType); a.status != 204 || len(a.raw) != 0 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	for i, c := range chunks {
		if got, err := imagestore.ReadAll(t.Context(), s.Store, c, recipe.ChunkSize); err != nil || len(got) != recipe.ChunkSize-i {
			t.Errorf("chunk %d: %d bytes, %v", i, len(got), err)
		}
	}
	if a := s.send("POST", chunksPath, nil, "Content-Type", api.ChunksType); a.status != 204 {
		t.Errorf("no chunks: %d %s", a.status, a.raw)
	}
}

func TestHostileChunks(t *testing.T) {
	s := serve(t)
	good, next := []byte("a good chunk"), []byte("never looked at")
	lie := frame([]byte("content"))
	lie[40] ^= 1
	huge := frame(bytes.Repeat([]byte{1}, recipe.ChunkSize+1))
	endless := frame([]byte("x"))
	binary.BigEndian.PutUint32(endless[32:], 1<<32-1)
	for name, test := range map[string]struct {
		bad    []byte
		status int
		detail string
	}{
		"other bytes":      {lie, 422, "chunk 1: says it is sha256:"},
		"too large":        {huge, 422, "chunk 1: 4194305 bytes"},
		"length lies":      {endless, 422, "chunk 1: 4294967295 bytes"},
		"empty chunk":      {frame(nil), 422, "chunk 1: 0 bytes"},
		"torn head":        {frame(next)[:20], 400, "breaks off in the middle of chunk 1"},
		"head only":        {frame(next)[:36], 400, "breaks off in the middle of chunk 1"},
		"torn content":     {frame(next)[:40], 400, "breaks off in the middle of chunk 1"},
		"something else":   {[]byte(strings.Repeat("GET / HTTP/1.1\r\n", 10)), 422, "chunk 1"},
		"length of a half": {frame(next)[:34], 400, "breaks off in the middle of chunk 1"},
	} {
		t.Run(name, func(t *testing.T) {
			before := append([]byte(name), good...)
			body := slices.Concat(frame(before), test.bad)
			if test.status == 422 {
				body = append(body, frame(next)...)
			}
			a := s.send("POST", chunksPath, body, "Content-Type", api.ChunksType)
			if a.status != test.status || !strings.Contains(a.Detail, test.detail) {
				t.Errorf("%d %.200s; want %d with %q", a.status, a.raw, test.status, test.detail)
			}
			if !s.has(digest.FromBytes(before)) {
				t.Error("the good chunk before it is lost")
			}
			if s.has(digest.FromBytes(next)) || s.has(digest.FromBytes([]byte("content"))) {
				t.Error("something was kept that should not be")
			}
		})
	}
	if a := s.send("POST", chunksPath, frame(good), "Content-Type", "application/octet-stream"); a.status != 415 {
		t.Errorf("other type: %d %s", a.status, a.raw)
	}
	for _, name := range []string{"", "?name=", "?name=Shop", "?name=a/../b"} {
		if a := s.send("POST", "/v1/chunks"+name, frame(good), "Content-Type", api.ChunksType); a.status != 422 || !strings.Contains(a.Detail, "name") {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
}

// A client that has gone in the middle leaves nothing waiting.
func TestChunksBreakOff(t *testing.T) {
	s := serve(t)
	content := apitest.Noise(7, recipe.ChunkSize)
	body := &tornBody{rest: append(frame(content), frame([]byte("x"))[:10]...)}
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.server.URL+chunksPath, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", api.ChunksType)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("answered %s", resp.Status)
	}
}

// tornBody fails after its bytes.
type tornBody struct{ rest []byte }

func (b *tornBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, fmt.Errorf("torn on purpose")
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func TestMissingChunks(t *testing.T) {
	s := serve(t)
	s.coordinate()
	have := s.Put(t, []byte("have"))[0]
	lack := digest.FromString("lack")
	context := &recipe.Context{Files: []recipe.ContextFile{
		{Path: "a", Size: 4, Chunks: []digest.Digest{lack}},
		{Path: "b", Size: 4, Chunks: []digest.Digest{have}},
		{Path: "c", Size: 4, Chunks: []digest.Digest{lack}},
	}}
	// That somebody else has brought a chunk is nothing that a digest entitles to.
	ask := func() answer {
		return s.sendJSON("POST", "/v1/bakes", api.BakeRequest{Recipe: recipeText, Context: context})
	}
	a := ask()
	if a.status != 409 || a.Type != api.ProblemMissing || !slices.Equal(a.Missing, []digest.Digest{lack, have}) {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if len(s.requests) != 0 || s.has(digest.FromBytes(context.Encode())) {
		t.Error("something was kept or submitted")
	}
	if a = s.send("POST", chunksPath, frame([]byte("lack")), "Content-Type", api.ChunksType); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	if a = s.send("POST", "/v1/chunks?name=shop/other", frame([]byte("have")), "Content-Type", api.ChunksType); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	if a = ask(); a.status != 409 || !slices.Equal(a.Missing, []digest.Digest{have}) {
		t.Errorf("%d %s", a.status, a.raw)
	}
	prove := func(name string, challenge []byte, d digest.Digest, mac []byte) answer {
		return s.sendJSON("POST", "/v1/proofs", api.ProofRequest{Name: name, Challenge: challenge, Proofs: []api.Proof{{Chunk: d, MAC: mac}}})
	}
	for name, p := range map[string]answer{
		"wrong":   prove("shop/checkout", a.Challenge, have, api.Tag(a.Challenge, []byte("something"))),
		"short":   prove("shop/checkout", a.Challenge, have, []byte{0}),
		"no such": prove("shop/checkout", a.Challenge, digest.FromString("nothing"), api.Tag(a.Challenge, []byte("nothing"))),
	} {
		if p.status != 200 || strings.TrimSpace(string(p.raw)) != `{"proven":[]}` {
			t.Errorf("%s: %d %s", name, p.status, p.raw)
		}
	}
	right := api.Tag(a.Challenge, []byte("have"))
	if p := prove("shop/other", a.Challenge, have, right); p.status != 422 {
		t.Errorf("another's challenge: %d %s", p.status, p.raw)
	}
	if b := ask(); b.status != 409 {
		t.Errorf("%d %s", b.status, b.raw)
	}
	if p := prove("shop/checkout", a.Challenge, have, right); p.status != 200 || !strings.Contains(string(p.raw), have.String()) {
		t.Errorf("%d %s", p.status, p.raw)
	}
	if a = ask(); a.status != 201 {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if a = ask(); a.status != 201 {
		t.Errorf("again: %d %s", a.status, a.raw)
	}
}

// What one repository has sent, another one that has it too proves instead of sending it; what only it has is sent.
func TestProveInsteadOfSending(t *testing.T) {
	s := serve(t)
	s.coordinate()
	big := apitest.Noise(1, 9<<20)
	var sent atomic.Int64
	count := func(n int64) { sent.Add(n) }
	if _, err := s.client.Post(t.Context(), api.BakeRequest{Recipe: recipeText}, scan(t, map[string][]byte{"app": big}), count); err != nil {
		t.Fatal(err)
	}
	if sent.Swap(0) != 9<<20 {
		t.Error("the first one has sent something else")
	}
	other := api.BakeRequest{Recipe: recipeText, Set: []string{"name=shop/other"}}
	if _, err := s.client.Post(t.Context(), other, scan(t, map[string][]byte{"app": big, "own": []byte("own")}), count); err != nil {
		t.Fatal(err)
	}
	if n := sent.Load(); n != 3 {
		t.Errorf("%d bytes sent, want 3", n)
	}
}

// A connection that breaks in the middle of an upload costs what was on its way.
func TestUploadGoesOn(t *testing.T) {
	s := serve(t)
	s.coordinate()
	var broken, requests, bytes atomic.Int64
	c := s.through(func(w http.ResponseWriter, r *http.Request, hand http.Handler) {
		if r.URL.Path == "/v1/chunks" {
			requests.Add(1)
			most := int64(1 << 40)
			if broken.Add(1) <= 3 {
				most = 5 << 20
			}
			r.Body = &tearing{r.Body, most, &bytes}
		}
		hand.ServeHTTP(w, r)
	})
	content := apitest.Noise(3, 24<<20)
	if _, err := c.Post(t.Context(), api.BakeRequest{Recipe: recipeText}, scan(t, map[string][]byte{"app": content}), nil); err != nil {
		t.Fatal(err)
	}
	if requests.Load() < 4 || bytes.Load() > 45<<20 {
		t.Errorf("%d bytes in %d requests", bytes.Load(), requests.Load())
	}
}

// tearing is a body that breaks off after so many bytes.
type tearing struct {
	io.ReadCloser
	left  int64
	total *atomic.Int64
}

func (b *tearing) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("torn on purpose")
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	b.total.Add(int64(n))
	return n, err
}
