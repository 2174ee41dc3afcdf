package jq

import (
	"time"

	"github.com/itchyny/gojq"
)

// advancing watches the part of a poll's value that must advance.
type Progress struct {
	Mark any       // the highest number, or the last text; nil: none seen yet
	at   time.Time // when it was first seen
}

// see takes a new mark and reports whether the value stands still, that is,
// has not advanced for within. Text advances by becoming another; a number by
// exceeding the highest so far, so that two upstreams of which one lags do not
// look like progress. A number that starts anew from below, as after a reset,
// is taken for the highest once the old one has stood still.
func (a *Progress) Observe(mark any, now time.Time, within time.Duration) (still bool) {
	still = now.Sub(a.at) > within
	order := 0
	if a.Mark != nil {
		order = gojq.Compare(mark, a.Mark)
	}
	_, text := mark.(string)
	switch {
	case a.Mark == nil, order > 0, order < 0 && text:
		a.Mark, a.at = mark, now
		return false
	case order < 0 && still:
		a.Mark = mark
	}
	return still
}

// seed takes the mark of a value from before this process.
func (a *Progress) Seed(mark any, since time.Time) {
	if a.Mark == nil && mark != nil {
		a.Mark, a.at = mark, since
	}
}
