package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// TestBreaker checks the breaker at an interval of 250 ms. The poller's own tests
// check 3 s and 12 s on a virtual clock.
func TestBreaker(t *testing.T) {
	t.Parallel()
	const (
		interval = 250 * time.Millisecond
		openFor  = 2 * time.Second
		// slack allows for a busy machine. Every bound below is otherwise exact.
		slack = 750 * time.Millisecond
	)
	up, other := newUpstream(t), newUpstream(t)
	s := newStack(t, fmt.Sprintf(`
    s:
      upstreams: [%q]
      breaker: {openFor: %v}
      polls: {p: {method: p, interval: %v}}
    other:
      upstreams: [%q]
      polls: {p: {method: p, interval: %v}}
`, up.url(), openFor, interval, other.url(), interval))
	poller, first := s.all()
	second := s.gateway()
	second.ready()

	viewers := []*client{dial(t, first.addr, "/v1/ws?topics=s.>"), dial(t, second.addr, "/v1/ws?topics=s.>")}
	bystander := dial(t, second.addr, "/v1/ws?topics=other.>")
	c := viewers[0]
	c.await("a fresh value", func(f frame) bool { return liveEvent("s.p")(f) && !f.Event.Stale })

	// 1. One failed poll, then a success: stale for that tick, never open.
	up.fail(1)
	failed := c.await("stale after one failure", isStale("s.p"))
	if f := failed.Fresh; f.Reason != "upstream_error" || f.Breaker != "closed" || f.ConsecutiveFailures != 1 ||
		f.Detail != "HTTP 500 Internal Server Error" {
		t.Errorf("after one failure: %s", failed.raw)
	}
	again := c.await("fresh after one failure", isFresh("s.p"))
	if d := again.at.Sub(failed.at); d > interval+slack {
		t.Errorf("stale for %v after one failure, the interval is %v", d, interval)
	}
	if f := again.Fresh; f.ConsecutiveFailures != 0 || f.Breaker != "closed" {
		t.Errorf("fresh again: %s", again.raw)
	}
	// Four failures after a success: still closed.
	up.fail(4)
	c.await("stale after four failures", func(f frame) bool {
		return isStale("s.p")(f) &&
			f.Fresh.ConsecutiveFailures == 4
	})
	c.await("fresh after four failures", isFresh("s.p"))
	for _, v := range append(viewers, bystander) {
		if b := v.seen(func(f frame) bool { return f.Breaker != nil }); len(b) > 0 {
			t.Fatalf("the breaker moved without five failures in a row: %s", b[0].raw)
		}
	}

	// 2. Five consecutive failures: open.
	n := up.set(status(http.StatusInternalServerError))
	opened := c.await("open after five failures", breakerTo("s", "open"))
	if b := opened.Breaker; b.From != "closed" || b.Failures != 5 || b.Cause != "HTTP 500 Internal Server Error" {
		t.Errorf("the breaker's frame: %s", opened.raw)
	}
	if calls := up.since(n); len(calls) != 5 {
		t.Errorf("%d calls reached the upstream before the breaker opened, want 5", len(calls))
	}
	probeAt := opened.Breaker.NextProbeAt
	lastCall := func() time.Time { calls := up.since(n); return calls[len(calls)-1].at }
	wantAbout(t, "the first probe after the opening", probeAt.Sub(lastCall()), openFor, slack)

	// 3. While open: no call. Old and new clients have the last good value, stale
	// and with its true age.
	lastGood := c.seen(anyEvent("s.p"))
	good := lastGood[len(lastGood)-1].Event
	for _, v := range viewers {
		v.await("a record with an open breaker", func(f frame) bool {
			return isStale("s.p")(f) &&
				f.Fresh.Breaker == "open"
		})
	}
	for _, gw := range []*service{first, second} {
		late := dial(t, gw.addr, "/v1/ws?topics=s.>")
		e := late.await("the last good value", anyEvent("s.p")).Event
		if e.Phase != "snapshot" || !e.Stale || e.Breaker != "open" || e.Version != good.Version ||
			string(e.Data) != string(good.Data) {
			t.Errorf("a new client got %+v %s\nwant version %d, stale, open", e, e.Data, good.Version)
		}
		if f := late.await("its freshness", isStale("s.p")); !f.Fresh.AsOf.Equal(e.AsOf) ||
			!f.Fresh.NextProbeAt.Equal(probeAt) {
			t.Errorf("a new client's freshness does not fit its value: asOf %v, next probe %v, have %s", e.AsOf, probeAt, f.raw)
		}
		// asOf is when the last good call was made, and not the time of the
		// answer or later. rules compare ageMs with it.
		wantAbout(t, "asOf before the first failed call", up.since(n)[0].at.Sub(e.AsOf), interval, slack)
		viewers = append(viewers, late)
	}
	sleepUntil(probeAt.Add(-100 * time.Millisecond))
	if calls := up.since(n); len(calls) != 5 {
		t.Errorf("%d calls reached the upstream while the breaker was open", len(calls)-5)
	}

	// 4. Then exactly one probe. Its failure keeps the breaker open for another
	// period.
	probe := c.await("half open for the probe", breakerTo("s", "half_open"))
	reopened := c.await("open after the failed probe", breakerTo("s", "open"))
	if before := probe.at.Sub(probeAt); before < -50*time.Millisecond {
		t.Errorf("the probe came %v before its time", -before)
	}
	if b := reopened.Breaker; b.From != "half_open" || b.Failures != 6 {
		t.Errorf("after the failed probe: %s", reopened.raw)
	}
	if calls := up.since(n); len(calls) != 6 {
		t.Errorf("%d calls as the probe, want 1", len(calls)-5)
	}
	wantAbout(t, "the second probe after the first", reopened.Breaker.NextProbeAt.Sub(lastCall()), openFor, slack)
	sleepUntil(reopened.Breaker.NextProbeAt.Add(-100 * time.Millisecond))
	if calls := up.since(n); len(calls) != 6 {
		t.Errorf("%d calls reached the upstream after the failed probe", len(calls)-6)
	}

	// 5. The upstream is back: closed by the next probe, fresh everywhere.
	places := make([]int, len(viewers))
	for i, v := range viewers {
		places[i] = v.skip()
	}
	n = up.set(nil)
	closed := c.await("closed by the probe", breakerTo("s", "closed"))
	if b := closed.Breaker; b.From != "half_open" || b.Cause != "recovered" {
		t.Errorf("after the probe that succeeded: %s", closed.raw)
	}
	recovered := up.since(n)[0].at
	if d := closed.at.Sub(recovered); d > slack {
		t.Errorf("closed %v after the upstream answered", d)
	}
	for i, v := range viewers {
		v.back(places[i])
		e := v.await("a fresh value after the recovery", func(f frame) bool { return liveEvent("s.p")(f) && !f.Event.Stale })
		if d := e.at.Sub(recovered); d > interval+slack {
			t.Errorf("viewer %d got a fresh value %v after the recovery, the interval is %v", i, d, interval)
		}
		if e.Event.Version != good.Version+1 {
			t.Errorf("viewer %d: version %d after %d", i, e.Event.Version, good.Version)
		}
		fresh := v.await("fresh after the recovery", isFresh("s.p"))
		if d := fresh.at.Sub(recovered); d > interval+slack {
			t.Errorf("viewer %d received it %v after the recovery, the interval is %v", i, d, interval)
		}
	}
	if st := poller.status().Sources; len(st) != 2 || st[1].Name != "s" || st[1].Breaker != "closed" ||
		st[1].Upstreams[0].Failures != 0 {
		t.Errorf("the poller's status after the recovery: %+v", st)
	}

	// Another source is not affected.
	if bad := bystander.seen(func(f frame) bool {
		return f.Breaker != nil || f.Fresh != nil && f.Fresh.Stale && !f.Fresh.AsOf.IsZero() || f.Event != nil &&
			f.Event.Stale
	}); len(bad) > 0 {
		t.Errorf("another source was touched: %s", bad[0].raw)
	}
	bystander.skip()
	bystander.await("live values of another source", liveEvent("other.p"))
}

func wantAbout(t *testing.T, what string, have, want, slack time.Duration) {
	t.Helper()
	if have < want-slack || have > want+slack {
		t.Errorf("%s: %v, want %v", what, have, want)
	}
}

// sleepUntil waits for a time until which something must not have happened.
func sleepUntil(at time.Time) { time.Sleep(time.Until(at)) }
