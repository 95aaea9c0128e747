package main

import (
	"testing"

	"bakefarm/bus"
	"bakefarm/imagestore"
	"bakefarm/imagestore/storetest"
)

// openBus starts an embedded NATS server for one test.
func openBus(t *testing.T) *bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// The bus keeps the image store's contracts, sentinels included.

func TestLedgerOnTheBus(t *testing.T) {
	storetest.RunLedger(t, func(t *testing.T) imagestore.Ledger { return ledger{openBus(t).Ledger()} })
}

func TestTagsOnTheBus(t *testing.T) {
	storetest.RunTags(t, func(t *testing.T) imagestore.Tags { return tags{openBus(t).Tags} })
}
