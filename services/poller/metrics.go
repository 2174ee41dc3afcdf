package poller

import (
	"errors"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what happens; what is at scrape time comes from state.
// Labels hold names from the configuration only.
type metrics struct {
	runner     *runnerMetrics
	record     *recordMetrics
	reloads    *prometheus.CounterVec
	reloadOK   prometheus.Gauge
	reloadedAt prometheus.Gauge
	vecs       []vec // all with labels
}

// vec is a metric whose label values can be taken away.
type vec interface {
	DeletePartialMatch(prometheus.Labels) int
}

const namespace = Namespace

func newMetrics(reg prometheus.Registerer, now *state) (*metrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	}
	m := &metrics{
		runner: newRunnerMetrics(), record: newRecordMetrics(),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "reloads_total", Help: "Times that the configuration was read again, by result: ok or refused.",
		}, []string{"result"}),
		reloadOK:   gauge("config_last_reload_successful", "1 unless the last reload of the configuration was refused."),
		reloadedAt: gauge("config_last_reload_success_timestamp_seconds", "When the configuration in effect was taken over, since the Unix epoch."),
	}
	m.reloadOK.Set(1)
	m.reloadedAt.SetToCurrentTime()
	for _, result := range []string{"ok", "refused"} {
		m.reloads.WithLabelValues(result)
	}
	all := append(m.runner.collectors(), m.record.collectors()...)
	all = append(all, m.reloads, m.reloadOK, m.reloadedAt, now)
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
