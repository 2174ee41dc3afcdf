package trust

import (
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// AgeLimit bounds ages and maxAge. Only a wrong clock gives a longer one.
const AgeLimit = 100 * 365 * 24 * time.Hour

// Judge returns the record f as the reader must take it at the time now. cut is
// why the reader gets no news (event.BusDisconnected or event.ConnectionLost);
// empty while it does. until is when the record stops to hold (Until); zero: it
// holds for ever. judged reports whether the result is the reader's own judgement
// and not the record's.
func Judge(f event.Freshness, cut event.Reason, until, now time.Time) (out event.Freshness, judged bool) {
	switch {
	case cut != "":
		f.Reason = cut
	case !until.IsZero() && now.After(until):
		f.Reason = event.PollerSilent
	default:
		return f, false
	}
	f.Stale, f.Detail = true, ""
	return f, true
}

// Until returns the time until which a record holds. heard is when, on the
// reader's clock, the newest news of the poll was made. grace is the time that
// the reader allows for a record that is on its way.
func Until(heard time.Time, maxAge, grace time.Duration) time.Time {
	return heard.Add(min(maxAge, AgeLimit) + grace)
}
