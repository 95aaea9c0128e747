package coordinator

import (
	"time"

	"bakefarm/farm"

	"github.com/prometheus/client_golang/prometheus"
)

// Queue metrics, for those who look and for autoscalers. Every coordinator sees the whole queue, so one of them is asked,
// or the maximum over all is taken; adding them up counts every shard several times.
var (
	queuedDesc = prometheus.NewDesc("bakefarm_queue_shards", "Shards that wait for a worker.", []string{"class", "priority"}, nil)
	oldestDesc = prometheus.NewDesc("bakefarm_queue_oldest_seconds", "How long the shard that has waited longest has waited.", []string{"class", "priority"}, nil)
	ranDesc    = prometheus.NewDesc("bakefarm_running_shards", "Shards that a worker runs.", []string{"class"}, nil)
	slotsDesc  = prometheus.NewDesc("bakefarm_worker_slots", "Shards that the present workers run at a time, drained ones left out.", nil, nil)
	loadDesc   = prometheus.NewDesc("bakefarm_saturation", "Shards that run or wait, a slot: above 1 more workers would help.", nil, nil)
	asideDesc  = prometheus.NewDesc("bakefarm_unreadable_total", "Records and messages that this release can't read, passed over.", []string{"where"}, nil)
	hereDesc   = prometheus.NewDesc("bakefarm_workers", "Workers that are present.", []string{"state"}, nil)
)

// Metrics collects what the queue looks like now.
func (c *Coordinator) Metrics() prometheus.Collector { return (*queueMetrics)(c) }

type queueMetrics Coordinator

// Describe implements prometheus.Collector.
func (*queueMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{queuedDesc, oldestDesc, ranDesc, slotsDesc, loadDesc, hereDesc, asideDesc} {
		ch <- d
	}
}

// line is one queue: what waits in it.
type line struct {
	count  int
	oldest time.Duration
}

// Collect implements prometheus.Collector. Kinds of this release have their series from the start: an autoscaler takes a
// missing series for an error.
func (m *queueMetrics) Collect(ch chan<- prometheus.Metric) {
	c := (*Coordinator)(m)
	type queue struct{ class, priority string }
	queued, running := map[queue]line{}, map[string]int{}
	for _, kind := range farm.Kinds {
		class := farm.Class("any", kind)
		queued[queue{class, "normal"}], queued[queue{class, "background"}], running[class] = line{}, line{}, 0
	}
	now := time.Now()
	waiting, busy := 0, 0
	c.shards.visit(func(_ string, s *view[farm.Shard]) {
		switch s.rec.State {
		case farm.ShardClaimed:
			running[s.rec.Class]++
			busy++
		case farm.ShardQueued:
			priority := "background"
			for _, bake := range s.rec.Bakes {
				if b, _ := c.bakes.peek(bake); !b.Background {
					priority = "normal"
				}
			}
			q := queue{s.rec.Class, priority}
			was := queued[q]
			queued[q] = line{was.count + 1, max(was.oldest, now.Sub(s.changed))}
			waiting++
		}
	})
	slots := 0
	states := map[string]int{"ready": 0, "draining": 0}
	for _, w := range c.workers.pick(func(*view[farm.Worker]) bool { return true }) {
		if w.rec.Draining {
			states["draining"]++
			continue
		}
		states["ready"]++
		slots += w.rec.Slots
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for q, l := range queued {
		gauge(queuedDesc, float64(l.count), q.class, q.priority)
		gauge(oldestDesc, l.oldest.Seconds(), q.class, q.priority)
	}
	for class, n := range running {
		gauge(ranDesc, float64(n), class)
	}
	for state, n := range states {
		gauge(hereDesc, float64(n), state)
	}
	for where, n := range c.Bus.Unreadable() {
		ch <- prometheus.MustNewConstMetric(asideDesc, prometheus.CounterValue, float64(n), where)
	}
	gauge(slotsDesc, float64(slots))
	gauge(loadDesc, float64(waiting+busy)/float64(max(slots, 1)))
}
