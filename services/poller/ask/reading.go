package ask

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
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/source"
)

// reading is the outcome of one tick's calls.
type Reading struct {
	Up         *Upstream  // that answered, or failed last
	probe      bool       // its call was the probe
	contacts   []*contact // all that were asked
	Slot, Sent time.Time
	Took       time.Duration
	finished                   // nothing after a failure
	Failure    *source.Failure // nil for a value
	Abandoned  bool
	Starved    bool // abandoned, because the process stood still meanwhile
}

// finished is an answer as it can be published.
type finished struct {
	Value  json.RawMessage // of a poll without keys
	Digest jq.Digest
	Items  []finishedItem // of a poll with keys
	// mark is what must advance, seed what it was in the value before.
	Mark, Seed any
	Head       int64 // of a poll that follows
}

type finishedItem struct {
	jq.Item
	Digest jq.Digest
}

// before is what a new answer is compared with. It is a copy: the call runs
// beside the poll.
type Before struct {
	Last Earlier
	Keys map[string]Earlier // by token
	Seed bool               // the mark of last is wanted
}

// earlier is a value that a poll or a key had before; the zero value is none.
type Earlier struct {
	Value  json.RawMessage
	Digest jq.Digest
}

// answer is what one attempt brought.
type answer struct {
	Value     json.RawMessage
	Failure   *source.Failure // nil for a value
	Abandoned bool            // cut short by the poller: no word about the upstream
	Starved   bool            // abandoned, because the process stood still meanwhile
}

// attempt calls the driver. A panic in it is this poll's failure. With forgive, a
// failure during a standstill of the process is no failure.
func (a *Asker) Attempt(ctx context.Context, up *Upstream, call source.Call, forgive bool) (out answer) {
	defer func() {
		if v := recover(); v != nil {
			a.Panics(v)
			out = answer{Failure: &source.Failure{Reason: event.BadResponse, Detail: up.detail(PanicText(v)), Counts: true}}
		}
	}()
	start, stood := time.Now(), a.Stood()
	value, err := up.Call(ctx, call)
	if err == nil {
		return answer{Value: value}
	}
	f, ok := errors.AsType[*source.Failure](err)
	switch {
	case ok:
	case errors.Is(ctx.Err(), context.Canceled):
		return answer{Abandoned: true}
	default:
		f = &source.Failure{Reason: event.UpstreamError, Detail: up.detail(err.Error()), Counts: true}
	}
	if deadline, ok := ctx.Deadline(); ok && forgive && f.Counts && a.Stood()-stood >= deadline.Sub(start)/4 {
		return answer{Abandoned: true, Starved: true}
	}
	return answer{Failure: f}
}

// panicText says what panicked without the value, which may be anybody's.
func PanicText(v any) string {
	if err, ok := v.(runtime.Error); ok {
		return "panic: " + err.Error()
	}
	return fmt.Sprintf("panic: %T", v)
}

// panics logs the first panic of a driver or an expression.
func (a *Asker) Panics(v any) {
	a.panicked.Do(func() {
		a.Log.Error("driver or expression panicked; further panics of this poll show as failures only", "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
	})
}

// judge shapes an answer and decides whether it can be published. If not, that
// is a failure of the poll and not of the upstream, which did answer.
func (a *Asker) judge(ctx context.Context, raw json.RawMessage, prev Before, up *Upstream) (out finished, f *source.Failure) {
	bad := func(err error) (finished, *source.Failure) {
		return finished{}, up.Blame(event.BadResponse, "", err)
	}
	defer func() {
		if v := recover(); v != nil {
			a.Panics(v)
			out, f = bad(errors.New(PanicText(v)))
		}
	}()
	var err error
	if a.ReadHead != nil {
		if out.Head, err = a.ReadHead(ctx, raw); err != nil {
			return bad(err)
		}
		return out, nil
	}
	if a.Shape.PassesThrough() {
		if out.Value, out.Digest, err = a.Finish(raw, prev.Last); err != nil {
			return bad(err)
		}
		return out, nil
	}
	s, err := a.Shape.Apply(ctx, raw)
	if err != nil {
		return bad(err)
	}
	out.Mark = s.Mark
	if !a.Shape.Keyed() {
		if out.Value, out.Digest, err = a.Finish(s.Value, prev.Last); err != nil {
			return bad(err)
		}
		if prev.Seed && s.Mark != nil && prev.Last.Value != nil {
			// Of an earlier process, and perhaps of another configuration.
			if v, err := jq.Decode(prev.Last.Value); err == nil {
				out.Seed, _ = a.Shape.MarkOf(ctx, v)
			}
		}
		return out, nil
	}
	out.Items = make([]finishedItem, len(s.Items))
	for i, it := range s.Items {
		if err := topic.Check(a.KeyTopic(it.Token)); err != nil {
			return bad(ofKey(i, it, &jq.RedactedError{Public: "the key makes no topic", Full: err.Error()}))
		}
		o := finishedItem{Item: it}
		if o.Value, o.Digest, err = a.Finish(it.Value, prev.Keys[it.Token]); err != nil {
			return bad(ofKey(i, it, err))
		}
		out.Items[i] = o
	}
	return out, nil
}

// ofKey says of which item an error is.
func ofKey(i int, it jq.Item, err error) error {
	return &jq.RedactedError{Public: fmt.Sprintf("item %d: %v", i+1, err), Full: fmt.Sprintf("key %q: %s", jq.Short(it.Key), jq.FullText(err))}
}

// finish makes a value compact and its digest. What changed too little to be
// another value becomes the old one.
func (a *Asker) Finish(raw json.RawMessage, prev Earlier) (json.RawMessage, jq.Digest, error) {
	if prev.Value != nil && bytes.Equal(prev.Value, raw) { // compact, as most upstreams write
		return prev.Value, prev.Digest, nil
	}
	buf := bytes.NewBuffer(make([]byte, 0, len(raw)))
	if err := json.Compact(buf, raw); err != nil {
		return nil, jq.Digest{}, fmt.Errorf("the value is not JSON: %w", err)
	}
	value := buf.Bytes()
	if prev.Value != nil && bytes.Equal(prev.Value, value) {
		return prev.Value, prev.Digest, nil
	}
	if most := a.MaxPayload(); most > 0 && int64(len(value)) > most {
		return nil, jq.Digest{}, fmt.Errorf("the value has %d bytes, NATS takes %d (max_payload)", len(value), most)
	}
	d, err := jq.DigestOf(value, a.Ignore)
	if err != nil {
		return nil, jq.Digest{}, fmt.Errorf("the value is not JSON: %w", err)
	}
	if len(a.Bands) > 0 && prev.Value != nil && d != prev.Digest && jq.Within(value, prev.Value, a.Bands, a.Ignore) {
		return prev.Value, prev.Digest, nil
	}
	return value, d, nil
}

// ask makes the poll's call of a moment. That it cannot be made is the
// request's fault, and no word about the upstream, which was not asked.
func (a *Asker) Compose(ctx context.Context, q *jq.Question, m jq.Moment, up *Upstream) (c source.Call, f *source.Failure) {
	if q.Constant() {
		return q.Plain, nil
	}
	bad := func(err error) (source.Call, *source.Failure) {
		f := up.Blame(event.RequestRejected, "the request cannot be made: ", err)
		f.Again = true
		return source.Call{}, f
	}
	defer func() {
		if v := recover(); v != nil {
			a.Panics(v)
			c, f = bad(errors.New(PanicText(v)))
		}
	}()
	c, err := q.Call(ctx, m)
	if err != nil {
		return bad(err)
	}
	c.For = a.Topic
	return c, nil
}
