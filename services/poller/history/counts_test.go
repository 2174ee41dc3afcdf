package history

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
)

// TestPollCounts checks that the counts read as the metrics of client_golang do.
func TestPollCounts(t *testing.T) {
	t.Parallel()
	p := &PollCounts{by: map[string]*Counts{}}
	name := Namespace + "_poll_duration_seconds"
	library := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: "How long the calls of a tick took together, whatever their outcome.", Buckets: durationBounds[:],
	}, []string{"poll"})
	c := p.Of("s.p")
	for _, d := range []time.Duration{0, 5 * time.Millisecond, 5*time.Millisecond + 1000, 99 * time.Millisecond, time.Second, 10 * time.Second, time.Minute} {
		c.Duration(d)
		library.WithLabelValues("s.p").Observe(d.Seconds())
	}
	want, err := testutil.CollectAndFormat(library, expfmt.TypeTextPlain, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := testutil.CollectAndCompare(p, strings.NewReader(string(want)), name); err != nil {
		t.Error(err)
	}

	c.Outcome(OutcomeOK)
	c.Outcome(string(outcomes[2]))
	c.Outcome(string(outcomes[2]))
	c.Skipped.Add(3)
	if again := p.Of("s.p"); again != c {
		t.Error("a reload counts from 0")
	}
	p.Of("s.q")
	text := `
# HELP pollcast_poller_skipped_ticks_total Ticks that passed without a call: the last call was not over, the process stood still, the upstream had asked to wait, or maxCallsPerMinute was reached.
# TYPE pollcast_poller_skipped_ticks_total counter
pollcast_poller_skipped_ticks_total{poll="s.p"} 3
pollcast_poller_skipped_ticks_total{poll="s.q"} 0
`
	if err := testutil.CollectAndCompare(p, strings.NewReader(text), Namespace+"_skipped_ticks_total"); err != nil {
		t.Error(err)
	}
	for _, labels := range []prometheus.Labels{{"source": "s"}, {"poll": "s.q"}, {"poll": "none"}} {
		p.DeletePartialMatch(labels)
	}
	text = `
# HELP pollcast_poller_polls_total Polls by outcome: ok, or the reason of the failure.
# TYPE pollcast_poller_polls_total counter
pollcast_poller_polls_total{outcome="bad_response",poll="s.p"} 0
pollcast_poller_polls_total{outcome="breaker_open",poll="s.p"} 0
pollcast_poller_polls_total{outcome="not_advancing",poll="s.p"} 0
pollcast_poller_polls_total{outcome="ok",poll="s.p"} 1
pollcast_poller_polls_total{outcome="request_rejected",poll="s.p"} 0
pollcast_poller_polls_total{outcome="timeout",poll="s.p"} 2
pollcast_poller_polls_total{outcome="upstream_error",poll="s.p"} 0
`
	if err := testutil.CollectAndCompare(p, strings.NewReader(text), Namespace+"_polls_total"); err != nil {
		t.Error(err)
	}
}
