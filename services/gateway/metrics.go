package gateway

import (
	"sync/atomic"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one gateway. Labels come from fixed sets only.
type metrics struct {
	connections   prometheus.Gauge
	accepted      prometheus.Counter
	refused       *prometheus.CounterVec
	closed        *prometheus.CounterVec
	frames        *prometheus.CounterVec
	bytes         prometheus.Counter
	draining      prometheus.Gauge
	conflations   prometheus.Counter
	compressed    prometheus.Counter
	records       prometheus.Counter
	behind        prometheus.Histogram
	polls         prometheus.Gauge
	pollsStale    prometheus.Gauge
	clockAhead    prometheus.Gauge
	topics        prometheus.Gauge
	topicsRefused prometheus.Counter
	feeds         prometheus.Gauge
	snapshots     prometheus.Counter
	resumes       *prometheus.CounterVec
	readbacks     prometheus.Counter
	ready         prometheus.Gauge
	memory        prometheus.Gauge
	memoryBudget  prometheus.Gauge
	evicted       prometheus.Counter
	evictions     atomic.Int64
	waiting       prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "pollcast", Subsystem: "gateway", Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts(opts(name, help)))
		reg.MustRegister(g)
		return g
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts(opts(name, help)))
		reg.MustRegister(c)
		return c
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), []string{label})
		reg.MustRegister(v)
		return v
	}
	m := &metrics{
		connections: gauge("connections", "WebSocket connections held now."),
		accepted:    counter("connections_accepted_total", "WebSocket connections accepted."),
		refused:     vec("connections_refused_total", "Connections refused, by why.", "reason"),
		closed: vec("connections_closed_total",
			"Connections ended, by close code; client: the client ended it.", "code"),
		frames:   vec("client_frames_total", "Frames from clients, by result.", "result"),
		bytes:    counter("sent_bytes_total", "Bytes written to WebSocket clients."),
		draining: gauge("connections_blocked", "Connections whose socket is full."),
		conflations: counter("conflations_total",
			"Times a connection with delivery latest left its feed because its socket was full."),
		compressed: counter("frames_compressed_total",
			"Live frames compressed; one is shared by all clients that have it compressed."),
		records:    counter("records_total", "Records taken in from the stream."),
		polls:      gauge("polls", "Polls known."),
		pollsStale: gauge("polls_stale", "Polls whose values are stale now."),
		clockAhead: gauge("clock_ahead_seconds",
			"By how much at least a poller's clock is ahead of this gateway's, the most of them; its values look that much too young."),
		topics:        gauge("topics", "Topics known or waited for."),
		topicsRefused: counter("topics_refused_total", "Events of topics beyond maxTopics, which are not served."),
		feeds:         gauge("feeds", "Different sets of subscriptions held now."),
		memory: gauge("memory_used_bytes",
			"What connections, feeds, values and history take of the memory budget."),
		memoryBudget: gauge("memory_budget_bytes", "The memory budget."),
		evicted: counter("memory_evictions_total",
			"Connections closed because the memory budget was nearly used up."),
		waiting: gauge("connections_waiting", "Clients that wait for their turn to connect."),
		snapshots: counter("snapshots_total",
			"Snapshots taken; clients that come to a feed within 100 ms share one."),
		resumes: vec("resumes_total", "Subscriptions with since, by result.", "result"),
		readbacks: counter("readbacks_total",
			"Times the stream was read back for clients that resume; those who come at the same time share one."),
		ready: gauge("ready", "1 while the gateway can serve a snapshot and reaches NATS."),
	}
	m.behind = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "pollcast", Subsystem: "gateway", Name: "record_delay_seconds",
		Help: "From storing a record in the stream to handing it to the clients' feeds; " +
			"includes the difference of the two machines' clocks.",
		Buckets:                        []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		NativeHistogramBucketFactor:    1.1,
		NativeHistogramMaxBucketNumber: 160,
	})
	reg.MustRegister(m.behind)
	return m
}

// hub returns those that the hub sets.
func (m *metrics) hub() hub.Metrics {
	return hub.Metrics{
		TopicsRefused: m.topicsRefused, Compressed: m.compressed, Snapshots: m.snapshots, Records: m.records,
		Polls: m.polls, PollsStale: m.pollsStale, Topics: m.topics, Feeds: m.feeds, ClockAhead: m.clockAhead,
		RecordDelay: m.behind,
	}
}

func (m *metrics) setReady(err error) {
	if err != nil {
		m.ready.Set(0)
		return
	}
	m.ready.Set(1)
}

// closeLabel bounds the label of closed: codes we send, or "client".
func closeLabel(code wire.CloseCode) string {
	if code == 0 {
		return "client"
	}
	return code.String()
}
