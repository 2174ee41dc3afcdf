package runner

import (
	"github.com/pollcast/pollcast/services/poller/history"
	"github.com/prometheus/client_golang/prometheus"
)

// runnerMetrics counts what the sources do.
type Metrics struct {
	polls        *history.PollCounts
	calls        *prometheus.CounterVec
	withheld     *prometheus.CounterVec
	transitions  *prometheus.CounterVec
	LeaseChanges *prometheus.CounterVec
}

// newRunnerMetrics makes the metrics of the sources. Nothing is registered.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: history.Namespace, Name: name, Help: help}, labels)
	}
	return &Metrics{
		polls:        history.NewPollCounts(),
		calls:        counter("calls_total", "Calls to an upstream, by why they were made.", "source", "upstream", "kind"),
		withheld:     counter("calls_withheld_total", "Calls that were not made because of maxCallsPerMinute.", "source", "upstream"),
		transitions:  counter("breaker_transitions_total", "Changes of a circuit's state, by the new state.", "source", "upstream", "to"),
		LeaseChanges: counter("lease_changes_total", "Leases acquired, released at a stop, given to another poller that owned fewer, and lost.", "source", "change"),
	}
}

func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.polls, m.calls, m.withheld, m.transitions, m.LeaseChanges}
}
