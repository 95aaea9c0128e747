package coordinator

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"bakefarm/bus"
	"bakefarm/farm"
)

// A pump publishes events in the order in which they happened here, behind the back of whoever waits for an answer.
// Events are for watching: no decision depends on one, and one that can't be published is lost with a line in the log.
type pump struct {
	bus   *bus.Bus
	queue chan farm.Event
	lost  func(farm.Event, error)
	now   func() time.Time
}

// pumpRoom is how many events may wait. Then whoever makes more waits: memory is bounded.
const pumpRoom = 4096

// publishPatience bounds the wait for one event's acknowledgement.
const publishPatience = 5 * time.Second

// emit queues an event. It is lost if there is no room for it until ctx ends.
func (p *pump) emit(ctx context.Context, e farm.Event) {
	e.Schema, e.At = farm.Schema, p.now().UTC()
	select {
	case p.queue <- e:
		return
	default: // full: wait, as long as somebody waits for us
	}
	select {
	case p.queue <- e:
	case <-ctx.Done():
		p.lost(e, ctx.Err())
	}
}

// run publishes until ctx ends, and then what is still queued.
func (p *pump) run(ctx context.Context) {
	for {
		select {
		case e := <-p.queue:
			p.publish(context.WithoutCancel(ctx), e)
		case <-ctx.Done():
			for {
				select {
				case e := <-p.queue:
					p.publish(context.WithoutCancel(ctx), e)
				default:
					return
				}
			}
		}
	}
}

func (p *pump) publish(ctx context.Context, e farm.Event) {
	ctx, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	if err := p.bus.PublishEvent(ctx, e); err != nil {
		p.lost(e, err)
	}
}

// bakeEvent tells a bake's new state.
func (c *Coordinator) bakeEvent(ctx context.Context, b farm.Bake) {
	c.events.emit(ctx, farm.Event{Type: farm.EventBake, Bake: b.ID, State: b.State, Error: b.Error})
}

// note puts a line of the coordinator's own into a bake's log.
func (c *Coordinator) note(ctx context.Context, bake, line string) {
	c.events.emit(ctx, farm.Event{Type: farm.EventLog, Bake: bake, Line: clip(line, maxLine)})
}

// underWay tells every bake that wants the shard about its new state: that it is queued, or claimed. Its end is told by
// whoever drives the bake (flight.deliver), so that the last event of a bake is its own end.
func (c *Coordinator) underWay(ctx context.Context, s farm.Shard) {
	for _, bake := range s.Bakes {
		e := shardEvent(bake, s)
		if f := c.flightOf(bake); f != nil {
			e.Done, e.Total = f.progress()
		}
		c.events.emit(ctx, e)
	}
}

// shardEvent is what a bake is told of a shard.
func shardEvent(bake string, s farm.Shard) farm.Event {
	e := farm.Event{Type: farm.EventShard, Bake: bake, Shard: s.ID, Label: s.Label, Status: s.State, Worker: s.Worker}
	if s.State == farm.ShardDone {
		e.Took = s.Took
	} else {
		e.Error = s.Error
	}
	return e
}

// logLines hands a worker's lines to every bake that wants the shard.
func (c *Coordinator) logLines(ctx context.Context, s farm.Shard, lines []string) {
	if extra := len(lines) - maxLines; extra > 0 {
		lines = lines[extra:]
	}
	for _, line := range lines {
		line = clip(strings.TrimRight(line, "\r\n"), maxLine)
		for _, bake := range s.Bakes {
			c.events.emit(ctx, farm.Event{
				Type: farm.EventLog, Bake: bake, Shard: s.ID, Label: s.Label, Worker: s.Worker, Line: line,
			})
		}
	}
}

// clip makes valid UTF-8 of at most n bytes out of what came from outside.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	const mark = "…"
	n -= len(mark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}
