package walk

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/ask"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/source"
)

// found is the answer for one position: a halt, or a value.
type found struct {
	position int64
	value    json.RawMessage // nil: the upstream does not have the position yet
	id       string          // empty if positions have none
	parent   string          // id of the position before, as this one names it
	halt
}

// ask asks for n positions beginning with first, all at once, so that they make one
// batch.
func (w *walking) ask(first int64, n int) []found {
	all := make([]found, n)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i] = w.askOne(first + int64(i)) })
	}
	wg.Wait()
	counts := slices.ContainsFunc(all, func(a found) bool {
		return a.failure != nil && a.failure.Counts && !a.failure.Again
	})
	for i := range all {
		if f := all[i].failure; f != nil {
			if counts || !f.Counts {
				f.Again = false // whichever failure is reported, the circuit must count one
			}
			f.Word(func(s string) string { return event.Detail(fmt.Sprintf("position %d: %s", all[i].position, s)) })
		}
	}
	return all
}

// askOne asks for one position. Several goroutines call it at once.
func (w *walking) askOne(position int64) found {
	a, now := found{position: position}, clock.Now()
	if !w.up.Quota.Take(now) {
		w.up.Withheld.Inc()
		a.withheld = true
		return a
	}
	var call source.Call
	m := jq.Moment{Now: now, Slot: w.slot, Position: position}
	if call, a.failure = w.Compose(w.ctx, w.position, m, w.up); a.failure != nil {
		return a
	}
	w.up.Calls[ask.PositionCall].Inc()
	got := w.Attempt(w.ctx, w.up, call, w.forgive)
	if a.failure, a.abandoned, a.starved = got.Failure, got.Abandoned, got.Starved; a.failure != nil || a.abandoned {
		return a
	}
	defer func() {
		if v := recover(); v != nil {
			w.LogPanic(v)
			a.failure = w.up.Blame(event.BadResponse, "", errors.New(ask.PanicText(v)))
		}
	}()
	if err := w.shape(&a, got.Value); err != nil {
		a.failure = w.up.Blame(event.BadResponse, "", err)
	}
	return a
}

// shape makes the value of an answer, and its ids. Without a value the upstream does not
// have the position.
func (w *walking) shape(a *found, raw json.RawMessage) error {
	if isNull(raw) {
		return nil
	}
	if !w.Shape.PassesThrough() {
		s, err := w.Shape.Apply(w.ctx, raw)
		if err != nil {
			return err
		}
		if raw = s.Value; isNull(raw) {
			return nil
		}
	}
	value, _, err := w.Finish(raw, ask.Earlier{})
	if err != nil {
		return err
	}
	if w.id != nil {
		if a.id, err = w.idOf(w.ctx, w.id, value); err != nil {
			return err
		}
		if a.parent, err = w.idOf(w.ctx, w.parent, value); err != nil {
			return err
		}
	}
	a.value = value
	return nil
}

// isNull reports whether a JSON value is null.
func isNull(raw json.RawMessage) bool { return strings.TrimSpace(string(raw)) == "null" }
