package worker

import (
	"context"
	"sync"

	"bakefarm/farm"
	"bakefarm/worker/execute"
	"bakefarm/worker/vm"
)

// Machines are where disks are started on this host, as far as it can.
type Machines struct {
	*vm.Host
	look  sync.Once
	found []string          // architectures whose disks start
	lacks map[string]string // of the others: what is missing
}

// OpenMachines returns the machines of this host, which keep their files in dir.
func OpenMachines(dir string) (*Machines, error) {
	h, err := vm.Open(dir)
	return &Machines{Host: h}, err
}

// await finds out what can be started: once.
func (m *Machines) await(ctx context.Context) (classes []string, lacks map[string]string, err error) {
	m.look.Do(func() { m.found, m.lacks = vm.Arches(ctx) })
	lacks = map[string]string{}
	for _, arch := range m.found {
		classes = append(classes, farm.Class(arch, farm.KindBoot))
	}
	for arch, problem := range m.lacks {
		lacks[farm.Class(arch, farm.KindBoot)] = problem
	}
	return classes, lacks, ctx.Err()
}

var _ execute.Machines = (*Machines)(nil)
