package api

import (
	"net/http"

	"bakefarm/farm"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics is what the API measures.
type metrics struct {
	own      *prometheus.Registry
	all      prometheus.Gatherers
	requests *prometheus.HistogramVec
}

func newMetrics(a *API) *metrics {
	m := &metrics{
		own: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bakefarm_http_request_duration_seconds", Help: "Time from a request's arrival to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"route", "status"}),
	}
	m.own.MustRegister(m.requests, &bakeCounts{a.bakes}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.all = prometheus.Gatherers{m.own}
	if a.Metrics != nil {
		m.all = append(m.all, a.Metrics)
	}
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 8})
}

// bakeCounts collects the number of bakes by state.
type bakeCounts struct{ bakes *index }

var bakesDesc = prometheus.NewDesc("bakefarm_bakes", "Bakes on record, by state.", []string{"state"}, nil)

// bakeStates are all states, so that each has a series from the start.
var bakeStates = []farm.BakeState{
	farm.BakeAccepted, farm.BakeResolving, farm.BakeBaking, farm.BakeCommitting, farm.BakeTesting, farm.BakeDone, farm.BakeFailed, farm.BakeCancelled,
}

// Describe implements prometheus.Collector.
func (*bakeCounts) Describe(ch chan<- *prometheus.Desc) { ch <- bakesDesc }

// Collect implements prometheus.Collector.
func (c *bakeCounts) Collect(ch chan<- prometheus.Metric) {
	counts := c.bakes.states()
	for _, s := range bakeStates {
		ch <- prometheus.MustNewConstMetric(bakesDesc, prometheus.GaugeValue, float64(counts[s]), string(s))
	}
}
