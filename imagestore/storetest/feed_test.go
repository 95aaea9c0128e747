package storetest_test

import (
	"testing"

	"bakefarm/imagestore"
	"bakefarm/imagestore/storetest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLedger(t *testing.T) {
	storetest.RunLedger(t, func(*testing.T) imagestore.Ledger { return storetest.NewLedger() })
}
