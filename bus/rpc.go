package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Bounds of requests.
const (
	CallTimeout    = 30 * time.Second // of a Call whose context has no deadline
	ResponderWait  = 2 * time.Second  // how long Call waits for somebody to serve the subject: a coordinator may be starting
	MaxConcurrency = 64               // requests that one Handle works on at a time; more wait in order
	stopGrace      = 2 * time.Second  // what a handler that runs when it's stopped gets before its context ends
)

// timeoutHeader carries how long the caller still waits, in milliseconds.
const timeoutHeader = "Bakefarm-Timeout"

// reply is what travels back: a value or an error.
type reply struct {
	Value json.RawMessage `json:"value,omitempty"`
	Error *RemoteError    `json:"error,omitempty"`
}

// Call sends a request to one of the processes that handle the subject and returns its answer. A handler's error comes back
// as a *RemoteError. ErrNoResponder: nobody handles it, also not after ResponderWait. When ctx ends or the connection is
// lost meanwhile it is unknown whether the request was worked on, so requests are made idempotent.
func Call[Req, Resp any](ctx context.Context, b *Bus, s Subject, req Req) (Resp, error) {
	var zero Resp
	if _, set := ctx.Deadline(); !set {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, CallTimeout)
		defer cancel()
	}
	data, err := encode("request "+string(s), req, b.limit())
	if err != nil {
		return zero, err
	}
	answer, err := b.request(ctx, s, data)
	if err != nil {
		return zero, err
	}
	var r reply
	if err := json.Unmarshal(answer, &r); err != nil {
		return zero, fmt.Errorf("decode reply %s: %w", s, err)
	}
	if r.Error != nil {
		return zero, r.Error
	}
	return decode[Resp]("reply "+string(s), r.Value)
}

// request sends data and waits for the answer; while nobody serves the subject it tries again for ResponderWait.
func (b *Bus) request(ctx context.Context, s Subject, data []byte) ([]byte, error) {
	subject := b.subject("rpc", string(s))
	start := time.Now()
	for attempt := 0; ; attempt++ {
		m := nats.NewMsg(subject)
		m.Data = data
		if deadline, set := ctx.Deadline(); set {
			m.Header.Set(timeoutHeader, strconv.FormatInt(time.Until(deadline).Milliseconds(), 10))
		}
		answer, err := b.nc.RequestMsgWithContext(ctx, m)
		switch {
		case err == nil:
			return answer.Data, nil
		case ctx.Err() != nil && !b.nc.IsConnected():
			return nil, fmt.Errorf("request %s: %w: %w", s, context.Cause(ctx), b.Ready())
		case ctx.Err() != nil:
			return nil, fmt.Errorf("request %s: %w", s, context.Cause(ctx))
		case !errors.Is(err, nats.ErrNoResponders):
			return nil, fmt.Errorf("request %s: %w", s, err)
		case time.Since(start) > ResponderWait:
			return nil, fmt.Errorf("%w: no coordinator answers on %s at %s: is one running, for the farm %q?", ErrNoResponder, subject, b.Address(), b.cfg.Farm)
		}
		select {
		case <-time.After(backoff(attempt, 10*time.Millisecond, 250*time.Millisecond)):
		case <-ctx.Done():
		}
	}
}

// Handle serves a subject with fn, together with all other processes that do: each request goes to one of them. fn gets a
// context that ends when the caller stops waiting or some time after stop; its error travels to the caller as a
// *RemoteError, and a panic as an error.
//
// stop takes no new requests and waits until those begun are answered; it must be called before Close.
func Handle[Req, Resp any](b *Bus, s Subject, fn func(context.Context, Req) (Resp, error)) (stop func(), err error) {
	answer := func(ctx context.Context, data []byte) (value []byte, err error) {
		defer func() {
			if p := recover(); p != nil {
				b.log.Error("handler panicked", "subject", string(s), "panic", p, "stack", string(debug.Stack()))
				err = fmt.Errorf("request %s: the handler panicked: %v", s, p)
			}
		}()
		req, err := decode[Req]("request "+string(s), data)
		if err != nil {
			b.setAside("requests", err)
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		resp, err := fn(ctx, req)
		if err != nil {
			return nil, err
		}
		return encode("reply "+string(s), resp, b.limit())
	}
	return b.serve(s, answer)
}

// serve answers the requests of a subject, MaxConcurrency at a time.
func (b *Bus) serve(s Subject, answer func(context.Context, []byte) ([]byte, error)) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	slots := make(chan struct{}, MaxConcurrency)
	stopped := make(chan struct{})
	sub, err := b.nc.QueueSubscribe(b.subject("rpc", string(s)), "bakefarm", func(m *nats.Msg) {
		select {
		case slots <- struct{}{}: // blocks this subscription only
		case <-stopped:
			return
		}
		go func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, callersPatience(m))
			defer cancel()
			value, err := answer(ctx, m.Data)
			b.respond(s, m, value, err)
		}()
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("handle %s: %w", s, err)
	}
	if err := b.flush(); err != nil { // so that a caller who starts after us finds us
		cancel()
		sub.Unsubscribe()
		return nil, fmt.Errorf("handle %s: %w", s, err)
	}
	return sync.OnceFunc(func() {
		defer cancel()
		b.drain(sub)
		defer time.AfterFunc(stopGrace, cancel).Stop()
		for range MaxConcurrency { // whoever has all slots is alone
			slots <- struct{}{}
		}
		close(stopped)
	}), nil
}

// respond answers a request. That the caller may have gone is no error.
func (b *Bus) respond(s Subject, m *nats.Msg, value []byte, err error) {
	r := reply{Value: value}
	if err != nil {
		r = reply{Error: remoteError(err)}
	}
	data, err := json.Marshal(r)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		b.log.Warn("reply not sent", "subject", string(s), "err", err)
	}
}

// callersPatience is how long the caller waits for the answer.
func callersPatience(m *nats.Msg) time.Duration {
	ms, err := strconv.ParseInt(m.Header.Get(timeoutHeader), 10, 64)
	if err != nil || ms < 1 || ms > int64(time.Hour/time.Millisecond) {
		return CallTimeout
	}
	return time.Duration(ms) * time.Millisecond
}

// drain ends a subscription after what it has received is handed over.
func (b *Bus) drain(sub *nats.Subscription) {
	done := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(done) })
	if err := sub.Drain(); err != nil {
		return // closed already, with the connection
	}
	select {
	case <-done:
	case <-time.After(stopGrace):
		sub.Unsubscribe()
	}
}

// flush waits until the server has seen everything sent so far.
func (b *Bus) flush() error { return b.nc.FlushTimeout(apiTimeout) }

// Broadcast tells every worker that listens now to stop an attempt. Workers that miss it learn at their next beat.
func (b *Bus) Broadcast(_ context.Context, c CancelShard) error {
	data, err := encode("broadcast", c, b.limit())
	if err != nil {
		return err
	}
	return translate("broadcast", b.nc.Publish(b.subject("cancel"), data))
}

// Subscribe calls fn for every broadcast, one after the other, until stop, which waits for a call that runs.
func (b *Bus) Subscribe(fn func(CancelShard)) (stop func(), err error) {
	return listen(b, b.subject("cancel"), "broadcast", fn)
}

// OfferTo offers a shard to a worker. Whether it heard is not known.
func (b *Bus) OfferTo(worker string, o Offer) error {
	data, err := encode("offer", o, b.limit())
	if err != nil {
		return err
	}
	return translate("offer", b.nc.Publish(b.subject("offer", escapeKey(worker)), data))
}

// Offers calls fn for every offer to a worker, one after the other, until stop, which waits for a call that runs.
func (b *Bus) Offers(worker string, fn func(Offer)) (stop func(), err error) {
	return listen(b, b.subject("offer", escapeKey(worker)), "offer", fn)
}

// listen calls fn for every message on a subject that decodes.
func listen[M any](b *Bus, subject, what string, fn func(M)) (stop func(), err error) {
	sub, err := b.nc.Subscribe(subject, func(m *nats.Msg) {
		v, err := decode[M](what, m.Data)
		if err != nil {
			b.setAside(what+"s", err)
			return
		}
		fn(v)
	})
	if err == nil {
		err = b.flush()
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	return sync.OnceFunc(func() { b.drain(sub) }), nil
}
