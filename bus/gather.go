package bus

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// gatherMost is how many messages are gathered before a consumer does better.
const gatherMost = 4 * replayBatch

// errNoGather says that a stream can't be gathered from here, or not to the end: a consumer goes on.
var errNoGather = errors.New("no direct gets")

// gather reads what a stream has by direct gets in batches (NATS ADR-31): for the few messages of a bake, or the records of a name,
// that costs the servers a fraction of what a consumer does, which has to be made and removed, and which looks at every subject
// there is when it has several filters. One filter's messages come after another's. errNoGather: what follows r.after is for a
// consumer, which may bring some of several filters again.
func (b *Bus) gather(ctx context.Context, s stream, r *reading, fn func(delivery) error) error {
	if !r.once {
		return errNoGather
	}
	inbox := b.nc.NewRespInbox()
	answers := make(chan *nats.Msg, replayBatch+1) // a batch and its end
	sub, err := b.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return errNoGather
	}
	defer sub.Unsubscribe()
	begin := r.after
	for _, filter := range r.filters {
		r.after = begin
		for gathered, more := 0, true; more; {
			var n int
			if n, more, err = b.gatherBatch(ctx, s, answers, inbox, filter, r, fn); err != nil || more && gathered+n >= gatherMost {
				if len(r.filters) > 1 {
					r.after = begin
				}
				if err == nil {
					err = errNoGather
				}
				return err
			}
			gathered += n
		}
	}
	return nil
}

// gatherBatch asks once. more: there was more than fits into a batch.
func (b *Bus) gatherBatch(ctx context.Context, s stream, answers <-chan *nats.Msg, inbox, filter string, r *reading, fn func(delivery) error) (n int, more bool, err error) {
	ask, err := json.Marshal(struct {
		Seq   uint64 `json:"seq"`
		Next  string `json:"next_by_subj"`
		Batch int    `json:"batch"`
	}{r.after + 1, s.prefix + filter, replayBatch})
	if err != nil {
		return 0, false, err
	}
	if err := b.nc.PublishRequest("$JS.API.DIRECT.GET."+s.name, inbox, ask); err != nil {
		return 0, false, errNoGather
	}
	patient, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	before := uint64(0)
	for ; ; n++ {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-patient.Done():
			if ctx.Err() != nil {
				return n, false, context.Cause(ctx)
			}
			return n, false, errNoGather
		}
		switch m.Header.Get("Status") {
		case "":
		case "404": // nothing is there
			return n, false, nil
		case "204": // the end of the batch
			left := m.Header.Get("Nats-Num-Pending")
			if last, err := strconv.ParseUint(m.Header.Get("Nats-Last-Sequence"), 10, 64); err != nil || last != before {
				return n, false, errNoGather // something was lost
			}
			return n, left != "" && left != "0", nil
		default: // nobody answers, or not this
			return n, false, errNoGather
		}
		seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		last, lastErr := strconv.ParseUint(m.Header.Get("Nats-Last-Sequence"), 10, 64)
		if err != nil || lastErr != nil || last != before || seq <= r.after {
			return n, false, errNoGather
		}
		err = fn(delivery{seq: seq, subject: strings.TrimPrefix(m.Header.Get("Nats-Subject"), s.prefix), data: m.Data, deleted: marker(m.Header)})
		if err != nil {
			return n, false, callerError{err}
		}
		before, r.after = seq, seq
	}
}
