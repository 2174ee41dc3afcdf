package poller

import "github.com/prometheus/client_golang/prometheus"

// runnerMetrics counts what the sources do.
type runnerMetrics struct {
	polls        *pollCounts
	calls        *prometheus.CounterVec
	withheld     *prometheus.CounterVec
	transitions  *prometheus.CounterVec
	leaseChanges *prometheus.CounterVec
}

// newRunnerMetrics makes the metrics of the sources. Nothing is registered.
func newRunnerMetrics() *runnerMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: Namespace, Name: name, Help: help}, labels)
	}
	return &runnerMetrics{
		polls:        newPollCounts(),
		calls:        counter("calls_total", "Calls to an upstream, by why they were made.", "source", "upstream", "kind"),
		withheld:     counter("calls_withheld_total", "Calls that were not made because of maxCallsPerMinute.", "source", "upstream"),
		transitions:  counter("breaker_transitions_total", "Changes of a circuit's state, by the new state.", "source", "upstream", "to"),
		leaseChanges: counter("lease_changes_total", "Leases acquired, released at a stop, given to another poller that owned fewer, and lost.", "source", "change"),
	}
}

func (m *runnerMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.polls, m.calls, m.withheld, m.transitions, m.leaseChanges}
}
