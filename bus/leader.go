package bus

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// replicated reports whether records may be read from a server that has not heard of the newest ones yet.
func (b *Bus) replicated() bool { return b.cfg.Replicas > 1 || b.nc.ConnectedClusterName() != "" }

// fromLeader reads the newest message of a subject from the server that leads the stream, as STREAM.MSG.GET of JetStream's API
// does; other reads come from whichever replica is next. jetstream.ErrKeyNotFound, also where that message is the marker of a
// deletion; jetstream.ErrNoStreamResponse where there is no leader now.
func (b *Bus) fromLeader(ctx context.Context, s stream, subject string) (data []byte, seq uint64, err error) {
	ask, err := json.Marshal(struct {
		LastFor string `json:"last_by_subj"`
	}{s.prefix + subject})
	if err != nil {
		return nil, 0, err
	}
	patient, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	reply, err := b.nc.RequestWithContext(patient, "$JS.API.STREAM.MSG.GET."+s.name, ask)
	if err != nil && ctx.Err() == nil && patient.Err() != nil {
		err = jetstream.ErrNoStreamResponse // the leader has gone, and nobody has noticed yet
	}
	if err != nil {
		return nil, 0, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq    uint64 `json:"seq"`
			Header []byte `json:"hdrs"`
			Data   []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, 0, fmt.Errorf("stream %s: its leader's answer: %w", s.name, err)
	}
	if answer.Error != nil {
		switch answer.Error.ErrorCode {
		case jetstream.JSErrCodeMessageNotFound:
			return nil, 0, jetstream.ErrKeyNotFound
		case jetstream.JSErrCodeStreamNotFound: // the stream is there: the server has just come back
			return nil, 0, jetstream.ErrNoStreamResponse
		}
		return nil, 0, answer.Error
	}
	if len(answer.Message.Header) > 0 {
		header, err := nats.DecodeHeadersMsg(answer.Message.Header)
		if err != nil {
			return nil, 0, fmt.Errorf("stream %s: its leader's answer: %w", s.name, err)
		}
		if marker(header) {
			return nil, 0, jetstream.ErrKeyNotFound
		}
	}
	return answer.Message.Data, answer.Message.Seq, nil
}
