package worker

import (
	"bakefarm/worker/cache"
	"bakefarm/worker/execute"
)

// Host is what the workers of one process share.
type Host struct {
	cache   *cache.Cache
	turns   execute.Turns
	indexes *execute.Indexes
	records *execute.Records

	// Sandboxes are where code of images runs; nil: nowhere. They are the opener's, who closes them after the workers.
	Sandboxes *Sandboxes

	// Machines are where disks are started; nil: nowhere.
	Machines *Machines
}

// OpenHost opens a host with its cache in dir. The budget is in bytes; 0: cache.DefaultBudget.
func OpenHost(dir string, budget int64) (*Host, error) {
	c, err := cache.Open(dir, budget)
	if err != nil {
		return nil, err
	}
	return &Host{cache: c, turns: execute.NewTurns(0), indexes: execute.NewIndexes(), records: execute.NewRecords()}, nil
}

// Close closes the host, after the workers that share it.
func (h *Host) Close() error { return h.cache.Close() }

func (h *Host) env(store execute.Store, mirror execute.Mirror, images execute.Images) execute.Env {
	e := execute.Env{Store: store, Mirror: mirror, Images: images, Cache: h.cache, Turns: h.turns, Indexes: h.indexes, Records: h.records}
	if h.Sandboxes != nil {
		e.Sandbox = h.Sandboxes
	}
	if h.Machines != nil {
		e.Machines = h.Machines
	}
	return e
}
