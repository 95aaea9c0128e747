package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"bakefarm/imagestore/s3embed"
)

// embeddedBucket is the bucket of the embedded S3 server.
const embeddedBucket = "bakefarm"

// s3Keys are the embedded server's credentials, made at its first start.
type s3Keys struct {
	AccessKey string `json:"accessKey"`
	SecretKey string `json:"secretKey"`
}

// loadS3Keys reads the credentials from a file that only its owner can read, or makes it.
func loadS3Keys(file string) (s3Keys, error) {
	var k s3Keys
	raw, err := os.ReadFile(file)
	if err == nil {
		if err := json.Unmarshal(raw, &k); err != nil || k.AccessKey == "" || k.SecretKey == "" {
			return k, fmt.Errorf("%s holds no S3 credentials; remove it to have new ones made", file)
		}
		return k, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	k = s3Keys{AccessKey: rand.Text()[:20], SecretKey: rand.Text() + rand.Text()}
	raw, err = json.MarshalIndent(k, "", "  ")
	if err != nil {
		return k, err
	}
	return k, os.WriteFile(file, append(raw, '\n'), 0o600)
}

// storage is an S3 service to be dialled: by URL, and through a transport when it lives in this process.
type storage struct {
	url       string
	transport http.RoundTripper // nil: TCP
}

// openS3 opens the S3 server on the data directory, and has the program close it. Without keys it has those of the directory.
func openS3(p *program, data *dataDir, keys s3Keys, log *slog.Logger) (*s3embed.Server, s3Keys, error) {
	if err := os.MkdirAll(data.sub("s3"), 0o700); err != nil {
		return nil, keys, err
	}
	if keys.AccessKey == "" {
		var err error
		if keys, err = loadS3Keys(data.sub("s3.json")); err != nil {
			return nil, keys, err
		}
	}
	server, err := s3embed.Open(data.sub("s3"), s3embed.Config{AccessKey: keys.AccessKey, SecretKey: keys.SecretKey, Log: log})
	if err != nil {
		if errors.Is(err, s3embed.ErrInUse) {
			err = usageError{err}
		}
		return nil, keys, err
	}
	p.closes("s3", server.Close)
	return server, keys, nil
}

// embedS3 starts the embedded S3 server on the data directory. Without an address only this process reaches it.
func (s *settings) embedS3(p *program, data *dataDir, log *slog.Logger) (storage, error) {
	server, keys, err := openS3(p, data, s3Keys{}, log)
	if err != nil {
		return storage{}, err
	}
	host := "s3.invalid" // never resolved: the transport calls the handler
	where := storage{transport: server.Transport()}
	if s.s3Listen != "" {
		l, err := s.bind(s.s3Listen, "--s3-listen")
		if err != nil {
			return storage{}, err
		}
		p.runs("s3 listener", func(ctx context.Context) error { return serve(ctx, l, server.Handler()) })
		log.Info("the embedded S3 server listens", "address", l.Addr(), "bucket", embeddedBucket, "keys", data.sub("s3.json"))
		host = l.Addr().String()
	}
	where.url = (&url.URL{Scheme: "http", User: url.UserPassword(keys.AccessKey, keys.SecretKey), Host: host, Path: "/" + embeddedBucket}).String()
	return where, nil
}

// bindLoopback listens on an address of this machine that others can't reach. flag names it in errors.
func bindLoopback(address, flag string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, usagef("%s %s: only loopback addresses: this release has no users yet, so whoever reaches it may do anything; put a proxy with authentication before it, or say --insecure-listen where only friends can reach it", flag, address)
	}
	return bindAny(address, flag)
}

// bindAny listens on any address.
func bindAny(address, flag string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, usagef("%s %q: want host:port, such as 127.0.0.1:7667: %w", flag, address, err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, usagef("%s %s: %w: stop what listens there, or choose another port", flag, address, err)
	}
	return l, nil
}

// serve answers HTTP until ctx ends; then requests get a moment to finish.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	// Requests end with the server, not before: long streams learn from baseCtx that it stops.
	baseCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return baseCtx },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	// Short requests get a moment to finish; event streams, which would go on for ever, then end with baseCtx.
	lingering := time.AfterFunc(300*time.Millisecond, cancel)
	defer lingering.Stop()
	grace, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer done()
	err := server.Shutdown(grace)
	if err != nil {
		err = server.Close()
	}
	<-failed
	return err
}
