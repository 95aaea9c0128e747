// Package client is the Go client of the farm's API, which the command line is made of.
//
// A bake travels in as little as it can: the recipe's text and a manifest of the context first; only when the farm
// answers which chunks it lacks, their bytes; then the same request again under the same Idempotency-Key.
//
//	Scan ──▶ POST /v1/bakes ──▶ 409 missing ──▶ POST /v1/chunks ──▶ POST /v1/bakes ──▶ Follow (events until the end)
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"bakefarm/api"
	"bakefarm/farm"
	"bakefarm/recipe"
)

// maxAnswer bounds what the client reads of one JSON answer, in bytes.
const maxAnswer = 64 << 20

// Client talks to one farm. It may be used by several goroutines.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client

	// Lost is called by Follow when the farm has gone away and is being tried again for so long at most. May be nil.
	Lost func(err error, patience time.Duration)
}

// New makes a client of the API at server, an http or https URL. token is sent as a bearer token unless it is empty.
func New(server, token string) (*Client, error) {
	base, err := url.Parse(server)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("server %q: want a URL such as http://127.0.0.1:7667", server)
	}
	base.Path = strings.TrimSuffix(base.Path, "/")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 8
	transport.ResponseHeaderTimeout = 2 * time.Minute
	return &Client{base: base, token: token, http: &http.Client{Transport: transport, CheckRedirect: elsewhere}}, nil
}

// elsewhere keeps the token from whoever a request is sent on to: an S3 service may be another port of the same host.
func elsewhere(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("sent on ten times")
	}
	if r.URL.Host != via[0].URL.Host {
		r.Header.Del("Authorization")
	}
	return nil
}

// Server is the address of the API.
func (c *Client) Server() string { return c.base.String() }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is an answer of the farm that is no success.
type Error struct {
	api.Problem
}

// Error says what was wrong, with every detail the farm gave, one a line.
func (e *Error) Error() string {
	var b strings.Builder
	switch {
	case e.Detail != "":
		b.WriteString(e.Detail)
	case e.Title != "":
		b.WriteString(e.Title)
	default:
		fmt.Fprintf(&b, "the farm answers %d %s", e.Status, http.StatusText(e.Status))
	}
	for _, d := range e.Errors {
		if d.Message == e.Detail {
			continue
		}
		b.WriteString("\n  ")
		if d.Location != "" {
			b.WriteString(d.Location + ": ")
		}
		b.WriteString(d.Message)
	}
	return b.String()
}

// ErrUnreachable says that nothing answers at the server's address.
var ErrUnreachable = errors.New("no bakefarm answers")

// request sends a request and returns the answer, whose body the caller closes, when its status is a success.
func (c *Client) request(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	u := *c.base
	u.RawPath = c.base.EscapedPath() + path
	var err error
	if u.Path, err = url.PathUnescape(u.RawPath); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	for key, values := range header {
		req.Header[key] = values
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.explain(err)
	}
	problem := &Error{}
	if json.Unmarshal(raw, &problem.Problem) != nil {
		problem.Detail = strings.TrimSpace(string(raw[:min(len(raw), 1024)]))
	}
	problem.Status = resp.StatusCode
	return nil, problem
}

// explain gives a failed connection words that help.
func (c *Client) explain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w at %s (%w): start one with \"bakefarm up\", or name another with --server", ErrUnreachable, c.Server(), op.Err)
	}
	return err
}

// call sends in as JSON, unless it is nil, and decodes the answer into out, unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, header http.Header, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
		if header == nil {
			header = http.Header{}
		}
		header.Set("Content-Type", "application/json")
	}
	resp, err := c.request(ctx, method, path, query, header, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("%s %s: the answer can't be read: %w", method, path, c.explain(err))
	}
	return nil
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (out T, err error) {
	err = c.call(ctx, http.MethodGet, path, query, nil, nil, &out)
	return out, err
}

func post[T any](ctx context.Context, c *Client, path string, in any) (out T, err error) {
	err = c.call(ctx, http.MethodPost, path, nil, nil, in, &out)
	return out, err
}

// segment escapes a name or reference as one segment of a path.
func segment(s string) string { return url.PathEscape(s) }

// listQuery makes the query of a list from pairs of a key and a value; empty values are left out.
func listQuery(cursor string, limit int, pairs ...string) url.Values {
	query := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			query.Set(pairs[i], pairs[i+1])
		}
	}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	return query
}

// Bakes lists bakes, newest first. Empty name and state list all.
func (c *Client) Bakes(ctx context.Context, name string, state farm.BakeState, cursor string, limit int) (api.Page[api.Bake], error) {
	return get[api.Page[api.Bake]](ctx, c, "/v1/bakes", listQuery(cursor, limit, "name", name, "state", string(state)))
}

// Bake shows a bake.
func (c *Client) Bake(ctx context.Context, id string) (api.Bake, error) {
	return get[api.Bake](ctx, c, "/v1/bakes/"+segment(id), nil)
}

// Outcome shows a bake whose events have ended. The API may read its record from a NATS server that has not heard of the end
// yet, so it is asked again for a moment.
func (c *Client) Outcome(ctx context.Context, id string) (api.Bake, error) {
	const asks = 7
	wait := 10 * time.Millisecond
	for n := 1; ; n++ {
		b, err := c.Bake(ctx, id)
		if err != nil || b.State.Finished() || n == asks {
			return b, err
		}
		select {
		case <-ctx.Done():
			return b, ctx.Err()
		case <-time.After(wait):
			wait *= 2
		}
	}
}

// Cancel withdraws a bake; cancelling a finished one is an error.
func (c *Client) Cancel(ctx context.Context, id string) (api.Bake, error) {
	return post[api.Bake](ctx, c, "/v1/bakes/"+segment(id)+"/cancel", nil)
}

// Retry asks again for what a bake that failed or was cancelled was asked for. It returns the new bake.
func (c *Client) Retry(ctx context.Context, id string) (api.Bake, error) {
	return post[api.Bake](ctx, c, "/v1/bakes/"+segment(id)+"/retry", nil)
}

// Explain lists the shards of a bake's plan and how each was come by.
func (c *Client) Explain(ctx context.Context, id string) ([]farm.ShardRef, error) {
	return get[[]farm.ShardRef](ctx, c, "/v1/bakes/"+segment(id)+"/explain", nil)
}

// Lock returns the Lock of a bake.
func (c *Client) Lock(ctx context.Context, id string) (*recipe.Lock, error) {
	raw, err := get[json.RawMessage](ctx, c, "/v1/bakes/"+segment(id)+"/lock", nil)
	if err != nil {
		return nil, err
	}
	return recipe.DecodeLock(raw)
}

// Channels lists channels; an empty name lists those of every image name.
func (c *Client) Channels(ctx context.Context, name string) ([]api.Channel, error) {
	return get[[]api.Channel](ctx, c, "/v1/channels", listQuery("", 0, "name", name))
}

func channelPath(name, channel string) string {
	return "/v1/channels/" + segment(name) + "/" + segment(channel)
}

// Channel shows a channel with its history.
func (c *Client) Channel(ctx context.Context, name, channel string) (api.Channel, error) {
	return get[api.Channel](ctx, c, channelPath(name, channel), nil)
}

// Promote points a channel to a version.
func (c *Client) Promote(ctx context.Context, name, channel string, r api.PromoteRequest) (api.Channel, error) {
	return post[api.Channel](ctx, c, channelPath(name, channel)+"/promote", r)
}

// Rollback points a channel back to a version that it pointed to before.
func (c *Client) Rollback(ctx context.Context, name, channel string, r api.RollbackRequest) (api.Channel, error) {
	return post[api.Channel](ctx, c, channelPath(name, channel)+"/rollback", r)
}

// Workers lists the workers that are present.
func (c *Client) Workers(ctx context.Context) ([]farm.Worker, error) {
	return get[[]farm.Worker](ctx, c, "/v1/workers", nil)
}

// Drain has a worker take no more shards, or take some again.
func (c *Client) Drain(ctx context.Context, worker string, resume bool) (farm.Worker, error) {
	return post[farm.Worker](ctx, c, "/v1/workers/"+url.PathEscape(worker)+"/drain", api.DrainRequest{Resume: resume})
}

// Release says which bakefarm answers.
func (c *Client) Release(ctx context.Context) (api.Release, error) {
	return get[api.Release](ctx, c, "/v1/version", nil)
}
