package config

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pollcast/pollcast/services/poller/breaker"
)

// PollTiming says what a poll's settings amount to at worst, while the poller itself and
// NATS are well. A Retry-After, which can hold calls off for up to 10 minutes, comes on top.
//
// The formulas repeat by hand what ask, poll and breaker do: pollcast check must answer
// without polling. A test of the runner compares them with what a real runner does.
type PollTiming struct {
	Poll              string // its topic
	Interval, Timeout time.Duration
	// Attempts is the most calls that a tick makes within the timeout, one to
	// each upstream and the retries.
	Attempts int
	// Attempt is the time that each of them has if all are made; with
	// attemptTimeout it is that.
	Attempt time.Duration
	// MaxAge is when readers call the value stale if the poller dies.
	MaxAge time.Duration
	// Stale is from the moment in which the upstream dies, that is, in which it
	// begins to take calls and not to answer them, until the record that says so.
	Stale time.Duration
	// Open is from that moment until the circuits of all upstreams are open.
	Open time.Duration
	// Probe is from the opening of a circuit until its probe.
	Probe time.Duration
	// Recovered is from the moment in which the upstream is well again, after
	// its circuit had opened, until the record that says fresh.
	Recovered time.Duration
	// CallsPerMinute is what the poll asks of an upstream that is well; at most,
	// for one that follows a sequence.
	CallsPerMinute float64
}

// UpstreamCalls is the load of one upstream.
type UpstreamCalls struct {
	Source   string
	Upstream string // scheme and host
	// PerMinute is for an upstream that is well and is asked by all polls of the
	// source: the first one, or another while those before it are out.
	PerMinute float64
	// PerMinuteMost is the most in any minute: with every retry, and none for
	// another upstream.
	PerMinuteMost int
	// Quota is maxCallsPerMinute; 0 for none.
	Quota int
	// PerMinuteOpen is while its circuit is open: the probes.
	PerMinuteOpen float64
	// Spare says that it is only asked while another is out.
	Spare bool
	// Hedge says that it is also asked while the first takes long.
	Hedge bool
}

// Feasibility returns the timing of every poll of a checked configuration,
// source by source in the order of their names.
func Feasibility(c Config) []PollTiming {
	var all []PollTiming
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		s := c.Sources[name].WithDefaults()
		polls := make([]pacedPoll, 0, len(s.Polls))
		longest, reach := time.Duration(0), MaxUpstreams
		for _, pollName := range slices.Sorted(maps.Keys(s.Polls)) {
			p := s.Polls[pollName].WithDefaults(s)
			c := NewPace(s, p)
			polls = append(polls, pacedPoll{p, c})
			longest, reach = max(longest, c.Tick()), min(reach, c.reach())
		}
		open := timeToOpen(requests(polls, s.Batch), s.Breaker.Failures, max(1, len(s.Upstreams)), reach)
		probe := s.Breaker.OpenFor + breaker.ProbeMargin + breaker.ProbeStagger
		for i, pollName := range slices.Sorted(maps.Keys(s.Polls)) {
			p := polls[i]
			// A probe that began before may still be out and fail; the next one
			// closes the circuit.
			recovered := longest + probe + longest
			if len(polls) > 1 { // it may have been another poll's
				recovered += min(p.Interval, MaxStart) + NearTick(p.Interval) + p.Tick()
			}
			all = append(all, PollTiming{
				Poll: name + "." + pollName, Interval: p.Interval, Timeout: p.Timeout, MaxAge: p.MaxAge,
				Attempts: p.Calls(), Attempt: p.share(),
				Stale: p.failureAt(1), Open: open, Probe: probe,
				Recovered:      max(recovered, p.failureAt(1)),
				CallsPerMinute: perMinute(p.Interval) * float64(p.callsPerTick()),
			})
		}
	}
	return all
}

// pacedPoll is a poll with its pace.
type pacedPoll struct {
	Poll
	Pace
}

// failureAt returns how long after the death of all upstreams the poll's n-th failure is
// known at the latest: the poll had just asked, each tick is late, every call hangs.
func (p pacedPoll) failureAt(n int) time.Duration {
	return time.Duration(n)*p.Interval + min(p.Interval/50, MaxJitter) + p.Tick()
}

// requests returns the polls whose failures count each: of the polls of one batch only
// the slowest.
func requests(polls []pacedPoll, batch bool) []pacedPoll {
	if !batch {
		return polls
	}
	slowest := map[time.Duration]pacedPoll{}
	for _, p := range polls {
		if p.Timeout > slowest[p.Interval].Timeout {
			slowest[p.Interval] = p
		}
	}
	return slices.Collect(maps.Values(slowest))
}

// timeToOpen returns how long polls that fail together need to open the circuits of all
// upstreams, of as many at a time as a tick reaches. When these circuits open, each other
// poll may have a tick under way that no longer counts.
func timeToOpen(polls []pacedPoll, failures, upstreams, reach int) time.Duration {
	rounds := (upstreams + reach - 1) / reach
	need := rounds*failures + (rounds-1)*(len(polls)-1)
	if len(polls) == 0 {
		return 0
	}
	var at []time.Duration
	for _, p := range polls {
		// The fastest poll alone has this many failures by then.
		for n := 1; n <= need; n++ {
			at = append(at, p.failureAt(n))
		}
	}
	slices.Sort(at)
	return at[need-1]
}

func perMinute(interval time.Duration) float64 { return float64(time.Minute) / float64(interval) }

// Load returns how often each upstream will be asked.
func Load(c Config) []UpstreamCalls {
	var all []UpstreamCalls
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		s := c.Sources[name].WithDefaults()
		calls := 0.0
		for _, p := range s.Polls {
			calls += perMinute(p.WithDefaults(s).Interval) * float64(p.callsPerTick())
		}
		seen := map[string]int{}
		for i, address := range s.Upstreams {
			all = append(all, UpstreamCalls{
				Source: name, Upstream: DisplayName(address, seen), PerMinute: calls,
				PerMinuteMost: s.callsInAnyMinute(1), Quota: s.MaxCallsPerMinute,
				PerMinuteOpen: perMinute(s.Breaker.OpenFor), Spare: i > 0, Hedge: i > 0 && s.Hedge > 0,
			})
		}
	}
	return all
}

// WriteFeasibility writes both as tables for people.
func WriteFeasibility(w io.Writer, c Config) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) {
		_, _ = fmt.Fprintf(t, strings.ReplaceAll(format, " | ", "\t")+"\n", args...) // into memory
	}
	line("POLL | INTERVAL | TIMEOUT | ATTEMPTS | STALE WITHIN | OPEN WITHIN | PROBE AFTER | RECOVERED WITHIN | POLLER DEAD | CALLS/MIN")
	for _, p := range Feasibility(c) {
		attempts := "1"
		if p.Attempts > 1 {
			unit := time.Millisecond
			if p.Attempt >= time.Second {
				unit = 10 * time.Millisecond
			}
			attempts = fmt.Sprintf("%d x %v", p.Attempts, p.Attempt.Truncate(unit))
		}
		line("%s | %s | %s | %s | %s | %s | %s | %s | %s | %s", p.Poll, readable(p.Interval), readable(p.Timeout), attempts, readable(p.Stale),
			readable(p.Open), readable(p.Probe), readable(p.Recovered), readable(p.MaxAge), rate(p.CallsPerMinute))
	}
	_ = t.Flush()
	b.WriteByte('\n')
	line("SOURCE | UPSTREAM | CALLS/MIN | AT MOST | QUOTA | WHILE OPEN | ")
	for _, u := range Load(c) {
		note, quota := "", "none"
		switch {
		case u.Hedge:
			note = "only while those before it are out or slow"
		case u.Spare:
			note = "only while those before it are out"
		}
		if u.Quota > 0 {
			quota = strconv.Itoa(u.Quota)
		}
		line("%s | %s | %s | %d | %s | %s | %s", u.Source, u.Upstream, rate(u.PerMinute), u.PerMinuteMost, quota, rate(u.PerMinuteOpen), note)
	}
	_ = t.Flush()
	for l := range strings.Lines(b.String()) {
		if _, err := io.WriteString(w, strings.TrimRight(l, " \n")+"\n"); err != nil {
			return fmt.Errorf("write table: %w", err)
		}
	}
	return nil
}

// readable writes a duration short. It rounds up, because these are worst cases.
func readable(d time.Duration) string {
	unit := time.Millisecond
	switch {
	case d >= time.Minute:
		unit = time.Second
	case d >= 10*time.Second:
		unit = 100 * time.Millisecond
	case d >= time.Second:
		unit = 10 * time.Millisecond
	}
	s := ((d + unit - 1) / unit * unit).String()
	if strings.HasSuffix(s, "m0s") { // 5m, not 5m0s
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// rate writes a number of calls a minute with two significant digits or more.
func rate(perMinute float64) string {
	switch {
	case perMinute >= 10:
		return fmt.Sprintf("%.0f", perMinute)
	case perMinute >= 1:
		return fmt.Sprintf("%.1f", perMinute)
	}
	return fmt.Sprintf("%.2g", perMinute)
}
