package record

import (
	"time"

	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/prometheus/client_golang/prometheus"
)

// recordMetrics counts what a publisher does.
type Metrics struct {
	publishedTotal *prometheus.CounterVec
	publishErrors  *prometheus.CounterVec
	publishSeconds prometheus.Histogram
}

// newRecordMetrics makes the metrics of publishers. Nothing is registered.
func NewMetrics() *Metrics {
	m := &Metrics{
		publishedTotal: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: history.Namespace, Name: "published_total", Help: "Records stored in the stream, by kind.",
		}, []string{"kind"}),
		publishErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: history.Namespace, Name: "publish_errors_total", Help: "Records that the stream did not take at the first attempt, by kind.",
		}, []string{"kind"}),
		publishSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: history.Namespace, Name: "publish_duration_seconds",
			Help:    "Time until the stream acknowledged a record.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}),
	}
	for _, kind := range []string{"event", "freshness", "breaker"} {
		m.publishedTotal.WithLabelValues(kind)
		m.publishErrors.WithLabelValues(kind)
	}
	return m
}

func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.publishedTotal, m.publishErrors, m.publishSeconds}
}

func (m *Metrics) failed(kind string) { m.publishErrors.WithLabelValues(kind).Inc() }

func (m *Metrics) published(kind string, took time.Duration) {
	m.publishedTotal.WithLabelValues(kind).Inc()
	m.publishSeconds.Observe(took.Seconds())
}
