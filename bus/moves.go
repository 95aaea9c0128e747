package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"bakefarm/farm"

	"github.com/nats-io/nats.go/jetstream"
)

// AppendMove adds a move to a channel's history, after the channel's record has moved. Idempotent: a move that the history
// has already is no error; another one with its number, or one after which others came, is ErrConflict.
func (b *Bus) AppendMove(ctx context.Context, m farm.ChannelMove) error {
	what := fmt.Sprintf("history of channel %s of %s", m.Channel, m.Name)
	key := m.Name + "@" + m.Channel
	if len(key) > MaxKey {
		return fmt.Errorf("%s: name of %d bytes: %w: %d is the limit", what, len(key), ErrTooLarge, MaxKey)
	}
	data, err := encode(what, m, b.limit())
	if err != nil {
		return err
	}
	subject := b.channels.prefix + escapeKey(key)
	for {
		last, sequence, err := b.lastMove(ctx, what, subject)
		if err != nil {
			return err
		}
		if sameMove(last, m) {
			return nil
		}
		if last.Move >= m.Move {
			return b.knownMove(ctx, what, m)
		}
		_, err = b.js.Publish(ctx, subject, data, jetstream.WithExpectLastSequencePerSubject(sequence))
		if !wrongLastSequence(err) {
			return translate(what, err)
		}
	}
}

// lastMove is the newest entry and its sequence; zero when there is none.
func (b *Bus) lastMove(ctx context.Context, what, subject string) (farm.ChannelMove, uint64, error) {
	s, err := b.js.Stream(ctx, b.channels.name)
	if err != nil {
		return farm.ChannelMove{}, 0, fmt.Errorf("%s: %w", what, err)
	}
	raw, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return farm.ChannelMove{}, 0, nil
	}
	if err != nil {
		return farm.ChannelMove{}, 0, fmt.Errorf("%s: %w", what, err)
	}
	m, err := decode[farm.ChannelMove](what, raw.Data)
	return m, raw.Sequence, err
}

// knownMove is nil when the history has exactly this move.
func (b *Bus) knownMove(ctx context.Context, what string, m farm.ChannelMove) error {
	moves, err := b.Moves(ctx, m.Name, m.Channel, MaxMoves)
	if err != nil {
		return err
	}
	for _, have := range moves {
		if sameMove(have, m) {
			return nil
		}
	}
	return fmt.Errorf("%s: move %d is there already: %w", what, m.Move, ErrConflict)
}

// sameMove reports whether two entries of a channel's history are the same.
func sameMove(a, b farm.ChannelMove) bool {
	return a.Move == b.Move && a.Action == b.Action && a.From == b.From && a.To == b.To && a.By == b.By && a.At.Equal(b.At)
}

// MaxMoves is the most that Moves returns.
const MaxMoves = 1000

// Moves reads the newest moves of a channel, at most max (and MaxMoves), newest first.
func (b *Bus) Moves(ctx context.Context, name, channel string, max int) ([]farm.ChannelMove, error) {
	max = min(max, MaxMoves)
	if max < 1 {
		return nil, nil
	}
	what := fmt.Sprintf("history of channel %s of %s", channel, name)
	var moves []farm.ChannelMove
	err := b.replay(ctx, b.channels, reading{filters: []string{escapeKey(name + "@" + channel)}, once: true}, func(d delivery) error {
		m, err := decode[farm.ChannelMove](what, d.data)
		if err != nil {
			return err
		}
		if len(moves) == 2*max { // keep the newest, without moving them at every step
			moves = append(moves[:0], moves[max:]...)
		}
		moves = append(moves, m)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	moves = moves[len(moves)-min(len(moves), max):]
	slices.Reverse(moves)
	return moves, nil
}
