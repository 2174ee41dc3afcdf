package poll

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/source"
)

// trust is how far a poll's value can be trusted, and why.
type trust struct {
	known bool // there is something to publish
	verdict
	since time.Time // when it became stale
	// asOf is when the request was sent that last confirmed the value; zero: never.
	asOf          time.Time
	confirmedHere bool // this process has confirmed it since it got the lease
	failures      int  // ticks in a row that failed
	// checkedAt is when a tick last told something, by the wall clock.
	checkedAt time.Time
	full      jq.Detail // the operator's form of the last failure's detail
}

// verdict says whether a value is stale, and why. The zero verdict is fresh.
type verdict struct {
	stale  bool
	reason event.Reason
	detail string
}

var fresh verdict

func stale(reason event.Reason, detail string) verdict { return verdict{true, reason, detail} }

// set makes a verdict the one that holds.
func (t *trust) set(v verdict, now time.Time) {
	if v.stale && (!t.stale || !t.known) {
		t.since = now
	}
	t.known, t.verdict = true, v
}

// failed counts a tick that failed.
func (t *trust) failed(f *source.Failure) verdict {
	t.failures++
	t.full = jq.Detail{Public: f.Detail, Full: f.Whole}
	return stale(f.Reason, f.Detail)
}

// resume takes up the last holder's record, if it is later than what memory knows. It
// returns true when the value has become stale by silence.
func (t *trust) resume(f *event.Freshness, state event.State, maxAge time.Duration, now time.Time) (verdict, bool) {
	switch {
	case f != nil && f.CheckedAt.After(t.checkedAt):
		t.known, t.checkedAt, t.since = true, f.CheckedAt, f.CheckedAt
		t.verdict, t.failures = verdict{f.Stale, f.Reason, f.Detail}, f.ConsecutiveFailures
	case f == nil && !t.known && !t.asOf.IsZero():
		t.known, t.verdict, t.since = true, stale(event.PollerSilent, ""), t.asOf
	}
	if t.stale && t.reason == event.BreakerOpen && state == event.Closed {
		t.reason = event.UpstreamError // the circuit's memory is gone, as with a new URL
	}
	silence, unconfirmed := now.Sub(t.checkedAt), now.Sub(t.asOf)
	switch {
	case !t.known || t.stale:
		return t.verdict, false
	case silence > maxAge:
		// Readers take the value for stale since maxAge has passed without a record: the
		// first record must not say otherwise before the upstream does.
		t.since = t.checkedAt
		t.verdict = stale(event.PollerSilent, "no poller asked for "+silence.Round(time.Second).String())
	case silence < -maxAge:
		// The clock was set back: nobody knows how long that is.
		t.since = now
		t.verdict = stale(event.PollerSilent, "the clock was set back while no poller asked")
	case unconfirmed > maxAge && !t.asOf.IsZero():
		// It was asked for, and each call was cut short, as by one reload after the other.
		t.since = now
		t.verdict = stale(event.PollerSilent, "no call has ended for "+unconfirmed.Round(time.Second).String())
	default:
		return t.verdict, false
	}
	return t.verdict, true
}

// confirm notes that a request sent at a time confirmed the value.
func (t *trust) confirm(sent time.Time) { t.asOf, t.confirmedHere = sent, true }

// recover notes when the last holder confirmed the value, if that is later.
func (t *trust) recover(asOf, now time.Time) { t.asOf = clock.Later(t.asOf, clock.Anchor(asOf, now)) }
