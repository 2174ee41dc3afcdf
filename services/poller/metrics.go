package poller

import (
	"fmt"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/runner"
	"github.com/prometheus/client_golang/prometheus"
)

// namespace is the first part of the names of all metrics.
const namespace = history.Namespace

// metrics are the counters and gauges of a poller. What is read when they are collected
// comes from collector. Labels hold only names from the configuration.
type metrics struct {
	runner     *runner.Metrics
	record     *record.Metrics
	reloads    *prometheus.CounterVec
	reloadOK   prometheus.Gauge
	reloadedAt prometheus.Gauge
	vecs       []vec // all that have labels
}

// vec is a metric with labels.
type vec interface {
	DeletePartialMatch(prometheus.Labels) int
}

// newMetrics makes the metrics and registers them and now, unless reg is nil. With an
// error none is registered.
func newMetrics(reg prometheus.Registerer, now *collector) (*metrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	}
	m := &metrics{
		runner: runner.NewMetrics(), record: record.NewMetrics(),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "reloads_total",
			Help: "Reloads of the configuration, by result: ok or refused.",
		}, []string{"result"}),
		reloadOK: gauge("config_last_reload_successful",
			"1 unless the last reload of the configuration was refused."),
		reloadedAt: gauge("config_last_reload_success_timestamp_seconds",
			"When the configuration in effect was loaded, in seconds since the Unix epoch."),
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
	for i, c := range all {
		if err := reg.Register(c); err != nil {
			for _, registered := range all[:i] {
				reg.Unregister(registered)
			}
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// collector reads the state of a poller when the metrics are collected.
type collector struct {
	sources func() []*supervisor
	group   func() *lease.Group  // nil before the poller runs
	stood   func() time.Duration // for how long the process has stood still
}

var (
	staleDesc = newDesc("stale",
		"1 while the poll's value is not being confirmed. Only on the poller that holds the source's lease.", "poll")
	ageDesc = newDesc("age_seconds",
		"Time since the request was sent that last confirmed the poll's value. "+
			"Only on the poller that holds the source's lease.", "poll")
	stateDesc = newDesc("breaker_state",
		"0 closed, 1 half open, 2 open. Only on the poller that holds the source's lease.", "source", "upstream")
	headDesc = newDesc("positions_behind",
		"Positions between the last one stored and the head, of polls that follow a sequence. "+
			"Only on the poller that holds the source's lease.", "poll")
	ownedDesc = newDesc("lease_owned", "1 while this poller holds the source's lease.", "source")
	stoodDesc = newDesc("standstill_seconds_total",
		"Time in which the process did not run: stopped, moved to another machine, or without a processor.")
	replicasDesc = newDesc("replicas", "Pollers that share the sources and are known to this one, itself included.")
)

// newDesc describes a metric of collector.
func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

var stateNumber = map[event.State]float64{event.Closed: 0, event.HalfOpen: 1, event.Open: 2}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{staleDesc, ageDesc, stateDesc, headDesc, ownedDesc, stoodDesc, replicasDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if g := c.group(); g != nil {
		all, _ := g.Members()
		gauge(replicasDesc, float64(len(all)))
	}
	ch <- prometheus.MustNewConstMetric(stoodDesc, prometheus.CounterValue, c.stood().Seconds())
	now := clock.Now()
	for _, source := range c.sources() {
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

// number is 1 for true.
func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// forget removes the label values of a runner's source, upstreams and polls, unless next
// has them too. next is nil for a source that was removed.
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
	remove := func(labels prometheus.Labels) {
		for _, v := range m.vecs {
			v.DeletePartialMatch(labels)
		}
	}
	for _, p := range old.Polls {
		if !keep["poll "+p.Topic] {
			remove(prometheus.Labels{"poll": p.Topic})
		}
	}
	for _, u := range old.Upstreams.List {
		if !keep["upstream "+u.Name] {
			remove(prometheus.Labels{"source": old.Name, "upstream": u.Name})
		}
	}
	if next == nil {
		remove(prometheus.Labels{"source": old.Name})
	}
}
