package ask

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/breaker"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/prometheus/client_golang/prometheus"
)

// newUpstream makes an upstream with a circuit of its own, outside any bubble.
func newUpstream(t *testing.T, name string, call source.Func) *Upstream {
	t.Helper()
	rule := breaker.Rule{Failures: 3, OpenFor: time.Minute}
	c, err := breaker.New(t.Name(), name, rule, func(event.Breaker) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Free)
	u := &Upstream{
		Name: name, Circuit: c, Quota: new(breaker.Quota), Call: call, Calls: map[CallKind]prometheus.Counter{},
		Withheld: prometheus.NewCounter(prometheus.CounterOpts{}),
	}
	for _, kind := range CallKinds {
		u.Calls[kind] = prometheus.NewCounter(prometheus.CounterOpts{})
	}
	return u
}

// newAsker makes the Asker of a poll at these upstreams.
func newAsker(t *testing.T, s config.Source, p config.Poll, upstreams ...*Upstream) *Asker {
	t.Helper()
	for _, u := range upstreams {
		s.Upstreams = append(s.Upstreams, u.Name)
	}
	a := &Asker{
		Topic: "s.p", Config: p, Source: s, Upstreams: &Upstreams{List: upstreams}, Log: slog.New(slog.DiscardHandler),
		MaxPayload: func(int) int64 { return 0 }, Stood: func() time.Duration { return 0 },
	}
	question, problems := p.Question()
	shape, more := p.Shape()
	if len(problems)+len(more) > 0 {
		t.Fatal(problems, more)
	}
	a.Question, a.Shape = question, shape
	return a
}

// The time of a round is shared among the calls that it may still have to make.
func TestCallLimit(t *testing.T) {
	const timeout = 8 * time.Second
	// With two retries the pauses are at most 100 ms and 200 ms.
	retries := func(n int) config.Source { return config.Source{Retries: n} }
	attempts := config.Source{AttemptTimeout: 3 * time.Second}
	for name, tt := range map[string]struct {
		upstreams int // closed ones, the first of which is asked
		source    config.Source
		retries   int // made so far
		probe     bool
		only      bool
		elapsed   time.Duration
		want      time.Duration
	}{
		"alone":                       {upstreams: 1, want: timeout},
		"one of two":                  {upstreams: 2, want: timeout / 2},
		"one of two, time has passed": {upstreams: 2, elapsed: 2 * time.Second, want: 3 * time.Second},
		"two retries":                 {upstreams: 1, source: retries(2), want: (timeout - 300*time.Millisecond) / 3},
		"the second of two": {
			upstreams: 1, source: retries(2), retries: 1,
			want: (timeout - 200*time.Millisecond) / 2,
		},
		"the last retry":          {upstreams: 1, source: retries(2), retries: 2, want: timeout},
		"a retry and another":     {upstreams: 2, source: retries(1), want: (timeout - 100*time.Millisecond) / 3},
		"attemptTimeout":          {upstreams: 4, source: attempts, want: 3 * time.Second},
		"less than that is left":  {upstreams: 1, source: attempts, elapsed: 7 * time.Second, want: time.Second},
		"a probe is not repeated": {upstreams: 1, source: retries(2), probe: true, want: timeout - 300*time.Millisecond},
		"a probe leaves time":     {upstreams: 4, source: attempts, probe: true, want: 2 * time.Second},
		"only the probe":          {upstreams: 4, probe: true, only: true, want: timeout},
		"never below the minimum": {upstreams: 2, elapsed: timeout - config.MinTimeout, want: config.MinTimeout},
		"never beyond the end":    {upstreams: 2, elapsed: timeout - config.MinTimeout/2, want: config.MinTimeout / 2},
	} {
		t.Run(name, func(t *testing.T) {
			var upstreams []*Upstream
			for i := range tt.upstreams {
				upstreams = append(upstreams, newUpstream(t, fmt.Sprint("u", i), nil))
			}
			a := newAsker(t, tt.source, config.Poll{Timeout: timeout, Method: "m"}, upstreams...)
			synctest.Test(t, func(t *testing.T) {
				first := &contact{up: upstreams[0], permit: breaker.Permit{Probe: tt.probe}}
				rd := &round{
					a: a, probeOnly: tt.only, pace: config.NewPace(a.Source, a.Config), deadline: time.Now().Add(timeout),
					contacts: []*contact{first}, retries: tt.retries,
				}
				time.Sleep(tt.elapsed)
				if have := rd.limit(first); have != tt.want {
					t.Errorf("limit %v, want %v", have, tt.want)
				}
			})
		})
	}
}

// A circuit gets one result of a round, however often Report is called, and a failure
// that is not the upstream's ends its streak.
func TestReport(t *testing.T) {
	fault := &source.Failure{Reason: event.UpstreamError, Counts: true}
	for name, tt := range map[string]struct {
		contact contact
		streak  int // afterwards, after a failure before
		eased   bool
	}{
		"value":          {contact{ended: true, good: true}, 0, true},
		"failure":        {contact{ended: true, failure: fault}, 2, false},
		"cancelled":      {contact{}, 1, false},
		"abandoned":      {contact{ended: true}, 1, false},
		"same as before": {contact{ended: true, failure: &source.Failure{Counts: true, Again: true}}, 1, false},
		"poll's failure": {contact{ended: true, failure: &source.Failure{Reason: event.BadResponse}}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t, "u", nil)
			permit := func() breaker.Permit {
				p, err := u.permit(time.Now())
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			before := &contact{up: u, permit: permit(), ended: true, failure: fault}
			before.report()
			c := tt.contact
			c.up, c.permit = u, permit()
			r := Reading{Up: u, contacts: []*contact{&c}}
			if eased := r.Report(); eased != tt.eased {
				t.Errorf("eased %v, want %v", eased, tt.eased)
			}
			if r.Report() {
				t.Error("the second report eased something")
			}
			if have := u.Circuit.Snapshot().Streak; have != tt.streak {
				t.Errorf("streak %d, want %d", have, tt.streak)
			}
		})
	}
}

// Blame makes the failure of a later call the result of the upstream that answered.
func TestBlameAfterValue(t *testing.T) {
	u := newUpstream(t, "u", func(context.Context, source.Call) (json.RawMessage, error) {
		return json.RawMessage(`1`), nil
	})
	a := newAsker(t, config.Source{}, config.Poll{Timeout: time.Second, Method: "m"}, u)
	up, permit, err := a.Upstreams.Pick(false)
	if err != nil {
		t.Fatal(err)
	}
	r := a.Read(t.Context(), Tick{Up: up, Permit: permit}, Before{})
	if r.Failure != nil || string(r.Value) != "1" {
		t.Fatalf("reading %+v", r)
	}
	r.Blame(&source.Failure{Reason: event.UpstreamError, Counts: true, RetryAfter: time.Minute})
	if !r.FailedOver() || r.Report() {
		t.Error("the failure is not the upstream's")
	}
	c := u.Circuit.Snapshot()
	if c.Streak != 1 || time.Until(c.NotBefore) <= 0 {
		t.Errorf("streak %d, not before %v", c.Streak, c.NotBefore)
	}
	if _, _, err := a.Upstreams.Pick(false); err == nil {
		t.Error("the upstream is asked although it asked for a pause")
	}
}

// The newest memo is that of the highest fence and then of the latest change. Times
// decide only between records of the same change.
func TestNewestMemo(t *testing.T) {
	now := time.Now()
	record := func(fence uint64, age time.Duration, changes uint64) Record {
		memo := event.Circuit{Upstream: "u", Changes: changes}
		return Record{Circuits: []event.Circuit{{Upstream: "other", Changes: 99}, memo}, Fence: fence, At: now.Add(-age)}
	}
	u := &Upstream{Name: "u"}
	transition := &event.Breaker{Fence: 2, At: now.Add(-time.Second)}
	for name, tt := range map[string]struct {
		fresh      []Record
		transition *event.Breaker
		circuits   []event.Circuit
		changes    uint64
		age        time.Duration
	}{
		"fence beats time":      {[]Record{record(1, 0, 3), record(2, time.Hour, 3)}, nil, nil, 3, time.Hour},
		"fence beats changes":   {[]Record{record(1, 0, 9), record(2, 0, 3)}, nil, nil, 3, 0},
		"changes beat time":     {[]Record{record(2, 0, 3), record(2, time.Hour, 4)}, nil, nil, 4, time.Hour},
		"time decides the rest": {[]Record{record(2, time.Hour, 3), record(2, time.Minute, 3)}, nil, nil, 3, time.Minute},
		"transition": {
			[]Record{record(2, 0, 3)}, transition, []event.Circuit{{Upstream: "u", Changes: 4}}, 4, time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // in either order
				m, at := u.newestMemo(tt.fresh, tt.transition, tt.circuits)
				if m.Changes != tt.changes || now.Sub(at) != tt.age {
					t.Errorf("change %d, %v old; want %d, %v old", m.Changes, now.Sub(at), tt.changes, tt.age)
				}
				for i, k := 0, len(tt.fresh)-1; i < k; i, k = i+1, k-1 {
					tt.fresh[i], tt.fresh[k] = tt.fresh[k], tt.fresh[i]
				}
			}
		})
	}
}
