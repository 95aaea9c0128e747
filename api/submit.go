package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/danielgtaylor/huma/v2"
	"github.com/oklog/ulid/v2"
	"github.com/opencontainers/go-digest"
)

// Bounds of POST /v1/bakes.
const (
	maxRecipe    = 1 << 20                        // bytes of a recipe's text
	maxBake      = recipe.MaxManifest + 16<<20    // bytes of the body, unpacked: a lock file has room beside the rest
	smallBake    = 1 << 20                        // bytes of a body that is read without asking for room
	bakeRoom     = maxBake + 2*recipe.MaxManifest // bytes that a larger one may hold: itself, its manifest read and written
	bakePatience = 2 * time.Minute                // for the whole body
)

type submitInput struct {
	Key string `header:"Idempotency-Key" maxLength:"256" doc:"Of the client's own making: the same key with the same body is the same bake, however often it is posted"`
	streamed
}

type submitOutput struct {
	Status   int
	Location string `header:"Location"`
	Body     Bake
}

func (a *API) routeSubmit() {
	op := post("submit-bake", "/v1/bakes", "bakes", "Ask for a bake", 400, 409, 413, 415, 422)
	op.DefaultStatus = http.StatusCreated
	op.Description = "Answers 201 with a new bake, and 200 when the Idempotency-Key has it already. While there are chunks of the context that were not sent for this image's name, or that the store has no longer, the answer is 409 with a problem of type " +
		ProblemMissing + ", which lists them. The body may be gzip (Content-Encoding)."
	op.Responses = map[string]*huma.Response{
		"200": {Description: "The bake that was accepted under this key before", Content: map[string]*huma.MediaType{
			"application/json": {Schema: schemaOf[Bake](a)},
		}},
		"409": {Description: "Chunks of the context are missing, or the request conflicts with another", Content: map[string]*huma.MediaType{
			problemType: {Schema: schemaOf[Problem](a)},
		}},
	}
	route(a, op, a.submitBake)
	describe[BakeRequest](a, op, "application/json", "The recipe, and the manifest of its context")
}

// submission is a request that has been read and found to be in order.
type submission struct {
	name                         string // the repository
	file                         string
	recipe, manifest             []byte
	recipeAt                     digest.Digest
	manifestAt                   digest.Digest // empty without a context
	chunks                       []digest.Digest
	set                          []string
	rebake, lockOnly, background bool
	lock                         []byte // a lock file, as it was sent
	lockAt                       digest.Digest
	update                       []string
	requires                     []string
	timeout                      time.Duration
}

func (a *API) submitBake(ctx context.Context, in *submitInput) (*submitOutput, error) {
	raw, release, err := a.readBake(ctx, in)
	defer release()
	if err != nil {
		return nil, asBodyError(err)
	}
	s, err := readSubmission(raw)
	if err != nil {
		return nil, err
	}
	id, known, err := a.submitted(ctx, in.Key, s)
	if err != nil {
		return nil, err
	}
	if known {
		if b, _, err := a.Bus.Bakes.Get(ctx, id); err == nil {
			return showSubmitted(b, http.StatusOK), nil
		} else if !errors.Is(err, bus.ErrNotFound) {
			return nil, err
		}
		// Remembered, but never accepted: whoever was about to do it did not get there.
	}
	if err := a.upload(ctx, s); err != nil {
		return nil, err
	}
	status := http.StatusCreated
	if !known {
		var first bool
		if id, first, err = a.remember(ctx, in.Key, s); err != nil {
			return nil, err
		}
		if !first {
			status = http.StatusOK
		}
	}
	b, err := bus.Call[bus.SubmitRequest, farm.Bake](ctx, a.Bus, bus.SubmitBake, bus.SubmitRequest{
		ID: id, File: s.file, Recipe: s.recipeAt, Context: s.manifestAt, Set: s.set, Rebake: s.rebake, LockOnly: s.lockOnly, Background: s.background,
		Requires: s.requires, Timeout: s.timeout,
		Lock: s.lockAt, Update: s.update,
	})
	if err != nil {
		return nil, err
	}
	return showSubmitted(b, status), nil
}

func showSubmitted(b farm.Bake, status int) *submitOutput {
	return &submitOutput{status, "/v1/bakes/" + b.ID, showBake(b)}
}

// readBake reads the body. A large one waits until there is room for it; release gives it back.
func (a *API) readBake(ctx context.Context, in *submitInput) (raw []byte, release func(), err error) {
	release = func() {}
	in.patience(bakePatience)
	defer in.patience(0)
	body, err := in.open("application/json", maxBake)
	if err != nil {
		return nil, release, err
	}
	raw, err = io.ReadAll(io.LimitReader(body, smallBake+1))
	if err != nil || len(raw) <= smallBake {
		return raw, release, err
	}
	if err := a.intake.Acquire(ctx, bakeRoom); err != nil {
		return nil, release, err
	}
	release = func() { a.intake.Release(bakeRoom) }
	whole := bytes.NewBuffer(raw)
	_, err = whole.ReadFrom(body)
	return whole.Bytes(), release, err
}

// readSubmission checks everything about a request that can be checked without the farm.
func readSubmission(raw []byte) (*submission, error) {
	var r struct {
		BakeRequest
		Context json.RawMessage `json:"context"` // is read with bounds of its own
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return nil, at("body", fmt.Errorf("the body is not a request for a bake: %w", err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, at("body", errors.New("something follows the JSON value"))
	}
	switch {
	case r.Recipe == "":
		return nil, at("body.recipe", errors.New("recipe: the text is missing"))
	case len(r.Recipe) > maxRecipe:
		return nil, at("body.recipe", fmt.Errorf("recipe: %d bytes: at most %d", len(r.Recipe), maxRecipe))
	case len(r.File) > 1024:
		return nil, at("body.file", errors.New("file: a name of at most 1024 bytes"))
	case r.File == "":
		r.File = "recipe"
	}
	parsed, err := recipe.Parse(r.File, []byte(r.Recipe), r.Set...)
	if err != nil {
		return nil, err
	}
	if string(r.Lock) == "null" {
		r.Lock = nil
	}
	s := &submission{
		name: parsed.Name, file: r.File, recipe: []byte(r.Recipe), recipeAt: digest.FromString(r.Recipe),
		set: r.Set, rebake: r.Rebake, lockOnly: r.LockOnly, background: r.Background, update: r.Update,
		requires: r.Requires,
	}
	for _, l := range r.Requires {
		if err := farm.CheckLabel(l); err != nil {
			return nil, at("body.requires", fmt.Errorf("requires: %w", err))
		}
	}
	if r.Timeout != "" {
		if s.timeout, err = time.ParseDuration(r.Timeout); err != nil || s.timeout < time.Second {
			return nil, at("body.timeout", fmt.Errorf("timeout %.40q: want a time of a second or more, such as 30m", r.Timeout))
		}
	}
	if len(r.Lock) > 0 {
		lock, err := recipe.DecodeLockFile(r.Lock)
		if err != nil {
			return nil, at("body.lock", err)
		}
		s.lock = lock.Encode() // one text for all layouts
		s.lockAt = digest.FromBytes(s.lock)
	}
	if len(r.Context) == 0 || string(r.Context) == "null" {
		return s, nil
	}
	manifest, err := recipe.DecodeContext(r.Context)
	if err != nil {
		return nil, at("body.context", err)
	}
	s.manifest = manifest.Encode()
	s.manifestAt = digest.FromBytes(s.manifest)
	seen := map[digest.Digest]bool{}
	for _, f := range manifest.Files {
		for _, c := range f.Chunks {
			if !seen[c] {
				seen[c] = true
				s.chunks = append(s.chunks, c)
			}
		}
	}
	return s, nil
}

// digest names everything that the request says.
func (s *submission) digest() digest.Digest {
	said := []any{s.file, s.recipeAt, s.manifestAt, s.set, s.rebake, s.lockOnly}
	if s.lockAt != "" {
		said = append(said, s.lockAt, s.update)
	}
	if len(s.requires) > 0 || s.timeout > 0 {
		said = append(said, s.requires, s.timeout)
	}
	raw, err := json.Marshal(said)
	if err != nil {
		panic("api: strings always encode: " + err.Error())
	}
	return digest.FromBytes(raw)
}

func submissionKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// submitted finds the bake that the key stands for already.
func (a *API) submitted(ctx context.Context, key string, s *submission) (id string, known bool, err error) {
	if key == "" {
		return "", false, nil
	}
	before, _, err := a.Bus.Submissions.Get(ctx, submissionKey(key))
	if errors.Is(err, bus.ErrNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	if before.Request != s.digest() {
		return "", false, at("header.Idempotency-Key", fmt.Errorf("Idempotency-Key %.100q stands for another request, bake %s: give this one a key of its own", key, before.Bake))
	}
	return before.Bake, true, nil
}

// remember makes an ID for the bake and ties it to the key. Of several requests that come at once, one is first; the others
// get its ID.
func (a *API) remember(ctx context.Context, key string, s *submission) (id string, first bool, err error) {
	id = ulid.Make().String()
	if key == "" {
		return id, true, nil
	}
	_, err = a.Bus.Submissions.Create(ctx, submissionKey(key), farm.Submission{Bake: id, Request: s.digest(), At: time.Now().UTC()})
	if errors.Is(err, bus.ErrExists) {
		id, _, err = a.submitted(ctx, key, s)
		return id, false, err
	}
	return id, true, err
}

// upload stores the recipe's text and the manifest, if the repository has shown to have all chunks and the store has them;
// else it is a problem that lists those that are to be sent, or proven.
func (a *API) upload(ctx context.Context, s *submission) error {
	held, err := a.book.Holds(ctx, s.name, s.manifestAt, s.chunks)
	if err != nil {
		return err
	}
	ask := append([]digest.Digest{s.recipeAt}, s.chunks...)
	for _, d := range []digest.Digest{s.manifestAt, s.lockAt} {
		if d != "" {
			ask = append(ask, d)
		}
	}
	have, err := a.Store.Have(ctx, ask)
	if err != nil {
		return err
	}
	missing := lacking(s.chunks, have[1:1+len(s.chunks)], held.Missing)
	if len(missing) > 0 {
		return a.missing(ctx, s.name, missing, fmt.Sprintf("%s has not sent %d of the context's %d chunks: POST them to /v1/chunks?name=%s, then post the bake again",
			s.name, len(missing), len(s.chunks), url.QueryEscape(s.name)))
	}
	if !have[0] || slices.Contains(have[1+len(s.chunks):], false) {
		w := a.Store.Begin()
		for _, piece := range [][]byte{s.recipe, s.manifest, s.lock} {
			if len(piece) == 0 {
				continue
			}
			if _, err := w.Put(ctx, piece); err != nil {
				return err
			}
		}
		if err := w.Commit(ctx); err != nil {
			return err
		}
	}
	if len(s.chunks) == 0 {
		return nil
	}
	return a.book.Accept(ctx, s.name, s.manifestAt, s.chunks, held)
}

// unshown lists those of the pieces that the repository has not shown to have, or that the store has not.
func (a *API) unshown(ctx context.Context, name string, manifest digest.Digest, pieces []digest.Digest) ([]digest.Digest, error) {
	held, err := a.book.Holds(ctx, name, manifest, pieces)
	if err != nil {
		return nil, err
	}
	have, err := a.Store.Have(ctx, pieces)
	if err != nil {
		return nil, err
	}
	return lacking(pieces, have, held.Missing), nil
}

// lacking merges what the store does not have with what was not shown, in order.
func lacking(pieces []digest.Digest, have []bool, unshown []digest.Digest) []digest.Digest {
	if !slices.Contains(have, false) {
		return unshown
	}
	not := make(map[digest.Digest]bool, len(unshown))
	for _, d := range unshown {
		not[d] = true
	}
	var missing []digest.Digest
	for i, d := range pieces {
		if !have[i] || not[d] {
			missing = append(missing, d)
		}
	}
	return missing
}

// missing is the problem of content that has to be sent, or proven, before the request is posted again.
func (a *API) missing(ctx context.Context, name string, missing []digest.Digest, detail string) error {
	challenge, err := a.book.Challenge(ctx, name)
	if err != nil {
		return err
	}
	return &problem{Problem: Problem{Type: ProblemMissing, Status: http.StatusConflict, Missing: missing, Challenge: challenge, Detail: detail}}
}
