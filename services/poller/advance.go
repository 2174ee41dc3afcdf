package poller

import (
	"time"

	"github.com/itchyny/gojq"
)

// advancing watches the part of a poll's value that must advance.
type advancing struct {
	mark any       // the highest number, or the last text; nil: none seen yet
	at   time.Time // when it was first seen
}

// see takes a new mark and reports whether the value stands still, that is,
// has not advanced for within. Text advances by becoming another; a number by
// exceeding the highest so far, so that two upstreams of which one lags do not
// look like progress. A number that starts anew from below, as after a reset,
// is taken for the highest once the old one has stood still.
func (a *advancing) see(mark any, now time.Time, within time.Duration) (still bool) {
	still = now.Sub(a.at) > within
	order := 0
	if a.mark != nil {
		order = gojq.Compare(mark, a.mark)
	}
	_, text := mark.(string)
	switch {
	case a.mark == nil, order > 0, order < 0 && text:
		a.mark, a.at = mark, now
		return false
	case order < 0 && still:
		a.mark = mark
	}
	return still
}

// seed takes the mark of a value from before this process.
func (a *advancing) seed(mark any, since time.Time) {
	if a.mark == nil && mark != nil {
		a.mark, a.at = mark, since
	}
}
