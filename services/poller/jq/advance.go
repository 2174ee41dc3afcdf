package jq

import (
	"time"

	"github.com/itchyny/gojq"
)

// Progress watches the part of a poll's value that must advance. The caller guards it.
type Progress struct {
	Mark any       // the highest number, or the last text; nil: none seen yet
	at   time.Time // when it was first seen
}

// Observe takes a new mark and reports whether the value stands still: whether it has not
// advanced for longer than within. Text advances when it becomes another text. A number
// advances when it exceeds the highest so far, so that two upstreams of which one lags do
// not look like progress. A number below the highest, as after a reset, becomes the
// highest once the old one has stood still.
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

// Seed takes the mark of a value from before this process, unless there is one already.
func (a *Progress) Seed(mark any, since time.Time) {
	if a.Mark == nil && mark != nil {
		a.Mark, a.at = mark, since
	}
}
