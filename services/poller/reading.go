package poller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/services/poller/source"
)

// reading is the outcome of one tick's calls.
type reading struct {
	up         *upstream // that answered, or failed last
	probe      bool      // its call was the probe
	guests     []*guest  // all that were asked
	slot, sent time.Time
	took       time.Duration
	finished                   // nothing after a failure
	failure    *source.Failure // nil for a value
	abandoned  bool
	starved    bool // abandoned, because the process stood still meanwhile
}

// finished is an answer as it can be published.
type finished struct {
	value  json.RawMessage // of a poll without keys
	digest digest
	items  []finishedItem // of a poll with keys
	// mark is what must advance, seed what it was in the value before.
	mark, seed any
	head       int64 // of a poll that follows
}

type finishedItem struct {
	item
	digest digest
}

// before is what a new answer is compared with. It is a copy: the call runs
// beside the poll.
type before struct {
	last earlier
	keys map[string]earlier // by token
	seed bool               // the mark of last is wanted
}

// earlier is a value that a poll or a key had before; the zero value is none.
type earlier struct {
	value  json.RawMessage
	digest digest
}

// answer is what one attempt brought.
type answer struct {
	value     json.RawMessage
	failure   *source.Failure // nil for a value
	abandoned bool            // cut short by the poller: no word about the upstream
	starved   bool            // abandoned, because the process stood still meanwhile
}

// attempt calls the driver. A panic in it is this poll's failure. With forgive, a
// failure during a standstill of the process is no failure.
func (a *asker) attempt(ctx context.Context, up *upstream, call source.Call, forgive bool) (out answer) {
	defer func() {
		if v := recover(); v != nil {
			a.panics(v)
			out = answer{failure: &source.Failure{Reason: event.BadResponse, Detail: up.detail(panicText(v)), Counts: true}}
		}
	}()
	start, stood := time.Now(), a.stood()
	value, err := up.call(ctx, call)
	if err == nil {
		return answer{value: value}
	}
	f, ok := errors.AsType[*source.Failure](err)
	switch {
	case ok:
	case errors.Is(ctx.Err(), context.Canceled):
		return answer{abandoned: true}
	default:
		f = &source.Failure{Reason: event.UpstreamError, Detail: up.detail(err.Error()), Counts: true}
	}
	if deadline, ok := ctx.Deadline(); ok && forgive && f.Counts && a.stood()-stood >= deadline.Sub(start)/4 {
		return answer{abandoned: true, starved: true}
	}
	return answer{failure: f}
}

// panicText says what panicked without the value, which may be anybody's.
func panicText(v any) string {
	if err, ok := v.(runtime.Error); ok {
		return "panic: " + err.Error()
	}
	return fmt.Sprintf("panic: %T", v)
}

// panics logs the first panic of a driver or an expression.
func (a *asker) panics(v any) {
	a.panicked.Do(func() {
		a.log.Error("driver or expression panicked; further panics of this poll show as failures only", "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
	})
}

// judge shapes an answer and decides whether it can be published. If not, that
// is a failure of the poll and not of the upstream, which did answer.
func (a *asker) judge(ctx context.Context, raw json.RawMessage, prev before, up *upstream) (out finished, f *source.Failure) {
	bad := func(err error) (finished, *source.Failure) {
		return finished{}, up.blame(event.BadResponse, "", err)
	}
	defer func() {
		if v := recover(); v != nil {
			a.panics(v)
			out, f = bad(errors.New(panicText(v)))
		}
	}()
	var err error
	if a.readHead != nil {
		if out.head, err = a.readHead(ctx, raw); err != nil {
			return bad(err)
		}
		return out, nil
	}
	if a.shape.idle() {
		if out.value, out.digest, err = a.finish(raw, prev.last); err != nil {
			return bad(err)
		}
		return out, nil
	}
	s, err := a.shape.apply(ctx, raw)
	if err != nil {
		return bad(err)
	}
	out.mark = s.mark
	if !a.shape.keyed() {
		if out.value, out.digest, err = a.finish(s.value, prev.last); err != nil {
			return bad(err)
		}
		if prev.seed && s.mark != nil && prev.last.value != nil {
			// Of an earlier process, and perhaps of another configuration.
			if v, err := decode(prev.last.value); err == nil {
				out.seed, _ = a.shape.markOf(ctx, v)
			}
		}
		return out, nil
	}
	out.items = make([]finishedItem, len(s.items))
	for i, it := range s.items {
		if err := topic.Check(a.keyTopic(it.token)); err != nil {
			return bad(ofKey(i, it, &discreet{"the key makes no topic", err.Error()}))
		}
		o := finishedItem{item: it}
		if o.value, o.digest, err = a.finish(it.value, prev.keys[it.token]); err != nil {
			return bad(ofKey(i, it, err))
		}
		out.items[i] = o
	}
	return out, nil
}

// ofKey says of which item an error is.
func ofKey(i int, it item, err error) error {
	return &discreet{fmt.Sprintf("item %d: %v", i+1, err), fmt.Sprintf("key %q: %s", short(it.key), wholeText(err))}
}

// finish makes a value compact and its digest. What changed too little to be
// another value becomes the old one.
func (a *asker) finish(raw json.RawMessage, prev earlier) (json.RawMessage, digest, error) {
	if prev.value != nil && bytes.Equal(prev.value, raw) { // compact, as most upstreams write
		return prev.value, prev.digest, nil
	}
	buf := bytes.NewBuffer(make([]byte, 0, len(raw)))
	if err := json.Compact(buf, raw); err != nil {
		return nil, digest{}, fmt.Errorf("the value is not JSON: %w", err)
	}
	value := buf.Bytes()
	if prev.value != nil && bytes.Equal(prev.value, value) {
		return prev.value, prev.digest, nil
	}
	if most := a.maxPayload(); most > 0 && int64(len(value)) > most {
		return nil, digest{}, fmt.Errorf("the value has %d bytes, NATS takes %d (max_payload)", len(value), most)
	}
	d, err := digestOf(value, a.ignore)
	if err != nil {
		return nil, digest{}, fmt.Errorf("the value is not JSON: %w", err)
	}
	if len(a.bands) > 0 && prev.value != nil && d != prev.digest && within(value, prev.value, a.bands, a.ignore) {
		return prev.value, prev.digest, nil
	}
	return value, d, nil
}

// ask makes the poll's call of a moment. That it cannot be made is the
// request's fault, and no word about the upstream, which was not asked.
func (a *asker) ask(ctx context.Context, q *question, m moment, up *upstream) (c source.Call, f *source.Failure) {
	if q.constant() {
		return q.plain, nil
	}
	bad := func(err error) (source.Call, *source.Failure) {
		f := up.blame(event.RequestRejected, "the request cannot be made: ", err)
		f.Again = true
		return source.Call{}, f
	}
	defer func() {
		if v := recover(); v != nil {
			a.panics(v)
			c, f = bad(errors.New(panicText(v)))
		}
	}()
	c, err := q.call(ctx, m)
	if err != nil {
		return bad(err)
	}
	c.For = a.topic
	return c, nil
}

// blame makes the failure of a position that of the upstream that gave the
// head: of a tick it is one success or one failure.
func (r *reading) blame(f *source.Failure) {
	r.up.circuit.wait(f.RetryAfter)
	for _, g := range r.guests {
		if g.up == r.up {
			g.good, g.failure = false, f
		}
	}
}
