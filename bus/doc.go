// Package bus is everything NATS: the farm's records, its work queue, its events and the requests between its roles.
// Nothing else in the farm imports NATS.
//
//	                    ┌───────────── JetStream (embedded server, or a cluster) ──────────────┐
//	Bucket[T]    ──────▶│ KV_<farm>_bakes, _shards, _actions …   one JSON record a key, CAS    │ truth
//	AppendMove   ──────▶│ <farm>_CHANNELS   history of the channels, kept for ever             │
//	PublishEvent ──────▶│ <farm>_EVENTS     what happened to bakes, bounded by age and size    │ news
//	Enqueue      ──────▶│ <farm>_WORK       hints: "this shard may want running"               │ hints
//	                    └──────────────────────────────────────────────────────────────────────┘
//	Call ──▶ <farm>.rpc.claim … ──▶ Handle (any coordinator)        Broadcast ──▶ <farm>.cancel ──▶ Subscribe (every worker)
//
// Three strengths of promise live here, and a caller must know which one it leans on:
//
//   - A record in a bucket is the truth. It changes by compare-and-set (Create, Update), and every change has a place in
//     the bucket's total order, which Follow replays. Any error but ErrExists, ErrConflict and ErrNotFound leaves open
//     whether a write happened: read again.
//   - A message in the work queue is a hint. It may come twice, late, or for a shard that is long done; whoever takes it
//     asks a coordinator for a claim first. It is not lost by a crash, but anyone may re-send it.
//   - Events and broadcasts are for information. No decision may depend on having seen one.
//
// # Durability
//
// JetStream answers a write after it has handed the bytes to the kernel: a record survives the kill -9 of this process.
// A power cut or a kernel crash may lose what was written since the last fsync, up to two minutes with the embedded
// server. SyncAlways makes every write wait for the disk instead. In a cluster with three replicas a write is on a
// majority of the machines before it is answered.
//
// # Schemas
//
// Every record and message carries a schema number (farm.Schema): writers stamp it, readers refuse what is further than
// one away.
package bus
