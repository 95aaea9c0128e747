package execute_test

import (
	"testing"

	"bakefarm/imagestore"
	"bakefarm/worker/sandbox"
	"bakefarm/worker/workertest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	sandbox.Enter()
	goleak.VerifyTestMain(m)
}

type testStore = imagestore.Store

func newStore(t testing.TB) testStore { return workertest.NewStore(t) }
