package worker

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"bakefarm/farm"
	"bakefarm/worker/bootkeys"
	"bakefarm/worker/cache"
	"bakefarm/worker/execute"
)

// Host is what the workers of one process share.
type Host struct {
	cache   *cache.Cache
	turns   execute.Turns
	indexes *execute.Indexes
	records *execute.Records
	room    *room

	// Sandboxes are where code of images runs; nil: nowhere. They are the opener's, who closes them after the workers.
	Sandboxes *Sandboxes

	// Machines are where disks are started; nil: nowhere.
	Machines *Machines

	// BootKeys are what disks are signed with.
	BootKeys bootkeys.Keys
}

// OpenHost opens a host with its cache in dir. The budget is in bytes; 0: cache.DefaultBudget. Its workers take no more shards than
// fit into has; what is 0 there is what the machine has (Machine).
func OpenHost(dir string, budget int64, has farm.Resources) (*Host, error) {
	machine := Machine()
	has = farm.Resources{CPU: cmp.Or(has.CPU, machine.CPU), Memory: cmp.Or(has.Memory, machine.Memory)}
	c, err := cache.Open(dir, budget)
	if err != nil {
		return nil, err
	}
	return &Host{
		cache: c, turns: execute.NewTurns((has.CPU + 999) / 1000), indexes: execute.NewIndexes(), records: execute.NewRecords(), room: newRoom(has),
	}, nil
}

// Spare lets go what is only kept in memory to be faster next time.
func (h *Host) Spare() {
	h.indexes.Clear()
	h.records.Spare()
}

// Machine is what this machine has: as many processors as Go uses, and the memory that the machine or the process's control group
// allows. 0 where that is not known: then memory is no bound.
func Machine() farm.Resources {
	return farm.Resources{CPU: 1000 * runtime.GOMAXPROCS(0), Memory: memory("/proc/meminfo", "/sys/fs/cgroup")}
}

// memory reads proc(5)'s meminfo and the limit of the control group, of either version.
func memory(meminfo, cgroup string) int64 {
	var has int64
	if raw, err := os.ReadFile(meminfo); err == nil {
		_, rest, _ := strings.Cut(string(raw), "MemTotal:")
		var kib int64
		if _, err := fmt.Sscanf(rest, "%d kB", &kib); err == nil {
			has = kib << 10
		}
	}
	for _, file := range []string{"memory.max", "memory/memory.limit_in_bytes"} {
		raw, err := os.ReadFile(filepath.Join(cgroup, file))
		if err != nil {
			continue
		}
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil && (has == 0 || limit < has) {
			has = limit
		}
	}
	return has
}

// Close closes the host, after the workers that share it.
func (h *Host) Close() error {
	h.indexes.Wait()
	return h.cache.Close()
}

func (h *Host) env(store execute.Store, mirror execute.Mirror, images execute.Images) execute.Env {
	e := execute.Env{Store: store, Mirror: mirror, Images: images, Cache: h.cache, Turns: h.turns, Indexes: h.indexes, Records: h.records}
	if h.Sandboxes != nil {
		e.Sandbox = h.Sandboxes
	}
	if h.Machines != nil {
		e.Machines = h.Machines
	}
	e.BootKeys = h.BootKeys
	return e
}
