// Package api is the farm's HTTP interface: REST under /v1 with its OpenAPI document, events as server-sent events, health
// and metrics; package registry's distribution API stands beside it under /v2.
//
// It holds no truth. What it shows comes from the bus's buckets, the catalog and the store; what changes something travels
// over the bus to a coordinator or to deploy, and is idempotent there. Any number of APIs may serve one farm.
//
//	POST /v1/bakes ──▶ text and manifest become pieces ──▶ chunks not sent for this name? 409, POST /v1/chunks, again
//	                                                   └─▶ submission (Idempotency-Key) ──▶ bus.SubmitBake
//
// Errors of every kind become RFC 9457 problems at one edge (problem.go). Everything that comes in is bounded: bodies,
// lists, memory that requests hold at a time, and the time that a client may take to send or to read.
package api
