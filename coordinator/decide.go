package coordinator

import "slices"

// A step is a shard of a plan as deciding sees it: which steps' outputs it needs. Steps are in topological order.
type step struct {
	deps []int
}

// A standing is what is known of a step.
type standing int

const (
	unknown standing = iota // not looked up yet
	missing                 // looked up: nobody has its output, nobody makes it for us
	running                 // queued or claimed, with our interest
	ready                   // its output is known
	broken                  // it failed while we wanted it
)

// moves are what a bake has to do next.
type moves struct {
	lookup   []int // find out whether the output exists
	dispatch []int // have it made: all that it needs is ready
	broken   []int // failed: so does the bake
	done     bool  // every root is ready
}

// decide walks the plan from the roots down, and below a step only when that step has to be made: what is under a
// ready or running one is not needed. It is pure; the caller carries out the moves, updates the standings and asks
// again. Indexes come out in ascending order.
func decide(steps []step, roots []int, standings []standing) moves {
	var m moves
	needed := make([]bool, len(steps))
	for _, r := range roots {
		needed[r] = true
	}
	m.done = true
	for _, r := range roots {
		m.done = m.done && standings[r] == ready
	}
	// Dependencies stand before their dependents, so one pass from the end sees every step after all that want it.
	for i := len(steps) - 1; i >= 0; i-- {
		if !needed[i] {
			continue
		}
		switch standings[i] {
		case unknown:
			m.lookup = append(m.lookup, i)
		case broken:
			m.broken = append(m.broken, i)
		case missing:
			able := true
			for _, d := range steps[i].deps {
				needed[d] = true
				able = able && standings[d] == ready
			}
			if able {
				m.dispatch = append(m.dispatch, i)
			}
		}
	}
	slices.Reverse(m.lookup)
	slices.Reverse(m.dispatch)
	slices.Reverse(m.broken)
	return m
}

// visited reports which steps the walk reaches: the others were pruned. A ready step hides what is below it only when
// it was a hit; hit tells.
func visited(steps []step, roots []int, hit func(int) bool) []bool {
	seen := make([]bool, len(steps))
	for _, r := range roots {
		seen[r] = true
	}
	for i := len(steps) - 1; i >= 0; i-- {
		if !seen[i] || hit(i) {
			continue
		}
		for _, d := range steps[i].deps {
			seen[d] = true
		}
	}
	return seen
}
