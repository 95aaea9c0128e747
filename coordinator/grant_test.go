package coordinator

import (
	"strings"
	"testing"

	"bakefarm/bus"
	"bakefarm/farm"
)

// A shard that was given back this very moment, by another coordinator, is not granted without what it builds upon.
func TestGrantAfterMirrorLagged(t *testing.T) {
	b, err := bus.Open(t.Context(), bus.Config{Dir: t.TempDir(), Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c := New(Config{Bus: b})
	shard := farm.Shard{Schema: farm.Schema, ID: "image", Kind: farm.KindImage, Class: "any.image", Deps: []string{"layer"}, Bakes: []string{"b"}}
	claimed := shard
	claimed.State, claimed.Worker, claimed.Token = farm.ShardClaimed, "gone", "old"
	revision, err := b.Shards.Create(t.Context(), shard.ID, claimed)
	if err != nil {
		t.Fatal(err)
	}
	c.shards.apply(shard.ID, &claimed, revision, followed)
	shard.State = farm.ShardQueued
	if _, err := b.Shards.Update(t.Context(), shard.ID, shard, revision); err != nil {
		t.Fatal(err)
	}
	reply, err := c.grant(t.Context(), shard.ID, farm.Worker{ID: "next"})
	if err != nil || reply.Granted || !strings.Contains(reply.Reason, "layer has vanished") {
		t.Errorf("granted without its layer: %+v, %v", reply, err)
	}
}
