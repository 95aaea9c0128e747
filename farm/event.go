package farm

import "time"

// Event is one thing that happened to a bake: what status streams and logs show. Its identity is its sequence number in
// the event stream.
type Event struct {
	Schema int           `json:"schema"`
	Bake   string        `json:"bake"`
	Type   EventType     `json:"type"`
	At     time.Time     `json:"at"`
	State  BakeState     `json:"state,omitempty"` // bake
	Shard  string        `json:"shard,omitempty"` // shard, log
	Label  string        `json:"label,omitempty"` // shard, log
	Status ShardState    `json:"status,omitempty"`
	Source Source        `json:"source,omitempty"`
	Worker string        `json:"worker,omitempty"`
	Took   time.Duration `json:"took,omitempty"`
	Done   int           `json:"done,omitempty"`  // plan, shard: finished shards, hits included
	Total  int           `json:"total,omitempty"` // plan, shard: shards of the plan
	Line   string        `json:"line,omitempty"`  // log: one line without its end
	Error  string        `json:"error,omitempty"`
}

// EventType says which fields of an event count.
type EventType string

// The types of event.
const (
	EventBake  EventType = "bake"  // the bake has a new State
	EventPlan  EventType = "plan"  // the plan stands: Total shards, Done of them hits
	EventShard EventType = "shard" // a shard has a new Status
	EventLog   EventType = "log"   // a worker said Line
)
