package poller

import (
	"errors"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/runner"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what happens; what is at scrape time comes from state.
// Labels hold names from the configuration only.
type metrics struct {
	runner     *runner.Metrics
	record     *record.Metrics
	reloads    *prometheus.CounterVec
	reloadOK   prometheus.Gauge
	reloadedAt prometheus.Gauge
	vecs       []vec // all with labels
}

// vec is a metric whose label values can be taken away.
type vec interface {
	DeletePartialMatch(prometheus.Labels) int
}

const Namespace = history.Namespace

func newMetrics(reg prometheus.Registerer, now *state) (*metrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: Namespace, Name: name, Help: help})
	}
	m := &metrics{
		runner: runner.NewMetrics(), record: record.NewMetrics(),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: Namespace, Name: "reloads_total", Help: "Times that the configuration was read again, by result: ok or refused.",
		}, []string{"result"}),
		reloadOK:   gauge("config_last_reload_successful", "1 unless the last reload of the configuration was refused."),
		reloadedAt: gauge("config_last_reload_success_timestamp_seconds", "When the configuration in effect was taken over, since the Unix epoch."),
	}
	m.reloadOK.Set(1)
	m.reloadedAt.SetToCurrentTime()
	for _, result := range []string{"ok", "refused"} {
		m.reloads.WithLabelValues(result)
	}
	all := append(m.runner.Collectors(), m.record.Collectors()...)
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
	others func() *lease.Group
	stood  func() time.Duration
}

var (
	staleDesc    = prometheus.NewDesc(Namespace+"_stale", "1 while the poll's value is not being confirmed. Only on the poller that owns the source.", []string{"poll"}, nil)
	ageDesc      = prometheus.NewDesc(Namespace+"_age_seconds", "Time since the request was sent that last confirmed the poll's value. Only on the poller that owns the source.", []string{"poll"}, nil)
	stateDesc    = prometheus.NewDesc(Namespace+"_breaker_state", "0 closed, 1 half open, 2 open. Only on the poller that owns the source.", []string{"source", "upstream"}, nil)
	headDesc     = prometheus.NewDesc(Namespace+"_positions_behind", "Positions between the last one stored and the head, of polls that follow a sequence. Only on the poller that owns the source.", []string{"poll"}, nil)
	ownedDesc    = prometheus.NewDesc(Namespace+"_lease_owned", "1 while this poller owns the source.", []string{"source"}, nil)
	stoodDesc    = prometheus.NewDesc(Namespace+"_standstill_seconds_total", "Time in which the process did not run: stopped, moved to another machine, or without a processor.", nil, nil)
	replicasDesc = prometheus.NewDesc(Namespace+"_replicas", "Pollers that share the sources, as far as this one hears of them, itself included.", nil, nil)
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
		all, _ := c.Members()
		gauge(replicasDesc, float64(len(all)))
	}
	ch <- prometheus.MustNewConstMetric(stoodDesc, prometheus.CounterValue, s.stood().Seconds())
	now := clock.Now()
	for _, source := range s.list() {
		owned, r := source.Owned(), source.runner.Load()
		gauge(ownedDesc, number(owned), source.name)
		if !owned {
			continue
		}
		for _, u := range r.Upstreams.List {
			gauge(stateDesc, stateNumber[u.Circuit.Snapshot().State], r.Name, u.Name)
		}
		for _, p := range r.Polls {
			st := p.Status()
			if st == nil {
				continue
			}
			gauge(staleDesc, number(st.Stale), p.Topic)
			if !st.AsOf.IsZero() {
				gauge(ageDesc, max(0, now.Sub(st.AsOf)).Seconds(), p.Topic)
			}
			if st.Head != nil && st.Position != nil {
				gauge(headDesc, float64(max(0, *st.Head-*st.Position)), p.Topic)
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
func (m *metrics) forget(old, next *runner.Runner) {
	keep := map[string]bool{}
	if next != nil {
		for _, u := range next.Upstreams.List {
			keep["upstream "+u.Name] = true
		}
		for _, p := range next.Polls {
			keep["poll "+p.Topic] = true
		}
	}
	away := func(labels prometheus.Labels) {
		for _, v := range m.vecs {
			v.DeletePartialMatch(labels)
		}
	}
	for _, p := range old.Polls {
		if !keep["poll "+p.Topic] {
			away(prometheus.Labels{"poll": p.Topic})
		}
	}
	for _, u := range old.Upstreams.List {
		if !keep["upstream "+u.Name] {
			away(prometheus.Labels{"source": old.Name, "upstream": u.Name})
		}
	}
	if next == nil {
		away(prometheus.Labels{"source": old.Name})
	}
}
