package poller

import (
	"errors"
	"slices"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/prometheus/client_golang/prometheus"
)

// outcomeOK is the outcome label of a poll that gave a value; the others are
// reasons.
const outcomeOK = "ok"

// outcomes are the values of the outcome label.
var outcomes = [...]string{
	outcomeOK, string(event.UpstreamError), string(event.Timeout), string(event.BadResponse),
	string(event.RequestRejected), string(event.BreakerOpen), string(event.NotAdvancing),
}

// outcomeIndex is an outcome's place in outcomes.
func outcomeIndex(o string) int { return max(0, slices.Index(outcomes[:], o)) }

// metrics counts what happens; what is at scrape time comes from state.
// Labels hold names from the configuration only.
type metrics struct {
	polls          *pollCounts
	calls          *prometheus.CounterVec
	withheld       *prometheus.CounterVec
	transitions    *prometheus.CounterVec
	publishedTotal *prometheus.CounterVec
	publishErrors  *prometheus.CounterVec
	publishSeconds prometheus.Histogram
	leaseChanges   *prometheus.CounterVec
	reloads        *prometheus.CounterVec
	reloadOK       prometheus.Gauge
	reloadedAt     prometheus.Gauge
	vecs           []vec // all with labels
}

// vec is a metric whose label values can be taken away.
type vec interface {
	DeletePartialMatch(prometheus.Labels) int
}

const namespace = "pollcast_poller"

func newMetrics(reg prometheus.Registerer, now *state) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	}
	m := &metrics{
		polls:          &pollCounts{by: map[string]*counts{}},
		calls:          counter("calls_total", "Calls to an upstream, by why they were made.", "source", "upstream", "kind"),
		withheld:       counter("calls_withheld_total", "Calls that were not made because of maxCallsPerMinute.", "source", "upstream"),
		transitions:    counter("breaker_transitions_total", "Changes of a circuit's state, by the new state.", "source", "upstream", "to"),
		publishedTotal: counter("published_total", "Records stored in the stream, by kind.", "kind"),
		publishErrors:  counter("publish_errors_total", "Records that the stream did not take at the first attempt, by kind.", "kind"),
		publishSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "publish_duration_seconds",
			Help:    "Time until the stream acknowledged a record.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}),
		leaseChanges: counter("lease_changes_total", "Leases acquired, released at a stop, given to another poller that owned fewer, and lost.", "source", "change"),
		reloads:      counter("reloads_total", "Times that the configuration was read again, by result: ok or refused.", "result"),
		reloadOK:     gauge("config_last_reload_successful", "1 unless the last reload of the configuration was refused."),
		reloadedAt:   gauge("config_last_reload_success_timestamp_seconds", "When the configuration in effect was taken over, since the Unix epoch."),
	}
	m.reloadOK.Set(1)
	m.reloadedAt.SetToCurrentTime()
	for _, result := range []string{"ok", "refused"} {
		m.reloads.WithLabelValues(result)
	}
	for _, kind := range []string{"event", "freshness", "breaker"} {
		m.publishedTotal.WithLabelValues(kind)
		m.publishErrors.WithLabelValues(kind)
	}
	all := []prometheus.Collector{
		m.polls, m.calls, m.withheld, m.transitions, m.publishedTotal, m.publishErrors, m.publishSeconds, m.leaseChanges,
		m.reloads, m.reloadOK, m.reloadedAt, now,
	}
	for _, c := range all {
		if v, ok := c.(vec); ok {
			m.vecs = append(m.vecs, v)
		}
	}
	if reg == nil {
		return m, nil
	}
	var done []prometheus.Collector
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			for _, d := range done {
				reg.Unregister(d)
			}
			return nil, errors.Join(errors.New("register metrics"), err)
		}
		done = append(done, c)
	}
	return m, nil
}

func (m *metrics) published(kind string, took time.Duration) {
	m.publishedTotal.WithLabelValues(kind).Inc()
	m.publishSeconds.Observe(took.Seconds())
}

// state is the collector of what is so at scrape time.
type state struct {
	list   func() []*supervisor
	others func() *replicas
	stood  func() time.Duration
}

var (
	staleDesc    = prometheus.NewDesc(namespace+"_stale", "1 while the poll's value is not being confirmed. Only on the poller that owns the source.", []string{"poll"}, nil)
	ageDesc      = prometheus.NewDesc(namespace+"_age_seconds", "Time since the request was sent that last confirmed the poll's value. Only on the poller that owns the source.", []string{"poll"}, nil)
	stateDesc    = prometheus.NewDesc(namespace+"_breaker_state", "0 closed, 1 half open, 2 open. Only on the poller that owns the source.", []string{"source", "upstream"}, nil)
	headDesc     = prometheus.NewDesc(namespace+"_positions_behind", "Positions between the last one stored and the head, of polls that follow a sequence. Only on the poller that owns the source.", []string{"poll"}, nil)
	ownedDesc    = prometheus.NewDesc(namespace+"_lease_owned", "1 while this poller owns the source.", []string{"source"}, nil)
	stoodDesc    = prometheus.NewDesc(namespace+"_standstill_seconds_total", "Time in which the process did not run: stopped, moved to another machine, or without a processor.", nil, nil)
	replicasDesc = prometheus.NewDesc(namespace+"_replicas", "Pollers that share the sources, as far as this one hears of them, itself included.", nil, nil)
)

var stateNumber = map[event.State]float64{event.Closed: 0, event.HalfOpen: 1, event.Open: 2}

// Describe implements prometheus.Collector.
func (s *state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{staleDesc, ageDesc, stateDesc, headDesc, ownedDesc, stoodDesc, replicasDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *state) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if c := s.others(); c != nil {
		all, _ := c.all()
		gauge(replicasDesc, float64(len(all)))
	}
	ch <- prometheus.MustNewConstMetric(stoodDesc, prometheus.CounterValue, s.stood().Seconds())
	now := clock()
	for _, source := range s.list() {
		owned, r := source.Owned(), source.runner.Load()
		gauge(ownedDesc, number(owned), source.name)
		if !owned {
			continue
		}
		for _, u := range r.upstreams.list {
			gauge(stateDesc, stateNumber[u.circuit.look().state], r.name, u.name)
		}
		for _, p := range r.polls {
			st := p.look()
			if st == nil {
				continue
			}
			gauge(staleDesc, number(st.Stale), p.topic)
			if !st.AsOf.IsZero() {
				gauge(ageDesc, max(0, now.Sub(st.AsOf)).Seconds(), p.topic)
			}
			if st.Head != nil && st.Position != nil {
				gauge(headDesc, float64(max(0, *st.Head-*st.Position)), p.topic)
			}
		}
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// forget takes the label values of a runner's sources, upstreams and polls away
// that its successor, which may be nil, does not have.
func (m *metrics) forget(old, next *runner) {
	keep := map[string]bool{}
	if next != nil {
		for _, u := range next.upstreams.list {
			keep["upstream "+u.name] = true
		}
		for _, p := range next.polls {
			keep["poll "+p.topic] = true
		}
	}
	away := func(labels prometheus.Labels) {
		for _, v := range m.vecs {
			v.DeletePartialMatch(labels)
		}
	}
	for _, p := range old.polls {
		if !keep["poll "+p.topic] {
			away(prometheus.Labels{"poll": p.topic})
		}
	}
	for _, u := range old.upstreams.list {
		if !keep["upstream "+u.name] {
			away(prometheus.Labels{"source": old.name, "upstream": u.name})
		}
	}
	if next == nil {
		away(prometheus.Labels{"source": old.name})
	}
}
