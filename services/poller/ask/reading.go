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

// Reading is the result of one tick's calls: a value, a failure, or neither if it was
// abandoned.
type Reading struct {
	Up        *Upstream  // the one that gave the value, or failed last
	contacts  []*contact // all that were asked
	Slot      time.Time  // of the tick
	Sent      time.Time  // when the call was sent that gave the value; without a value, when the tick began
	Took      time.Duration
	finished                  // zero after a failure
	Failure   *source.Failure // nil for a value
	Abandoned bool            // the poller stopped it, or Starved; it says nothing about the upstream
	Starved   bool            // abandoned because the process stood still meanwhile
}

// finished is an answer as it can be published.
type finished struct {
	Value  json.RawMessage // compact; nil for a poll with keys
	Digest jq.Digest       // of Value
	Items  []FinishedItem  // of a poll with keys
	Mark   any             // what must advance from value to value; nil if nothing must
	Seed   any             // the mark of the value before, if Before asked for it
	Head   int64           // of a sequence that the poll follows
}

// FinishedItem is the value of one key.
type FinishedItem struct {
	jq.Item
	Digest jq.Digest // of its value
}

// Before is what a new answer is compared with. It is a copy, because calls run while
// the poll changes.
type Before struct {
	Last Earlier
	Keys map[string]Earlier // by token
	Seed bool               // the mark of Last is wanted
}

// Earlier is the value that a poll or a key had before. The zero value is none.
type Earlier struct {
	Value  json.RawMessage
	Digest jq.Digest
}

// answer is the result of one call.
type answer struct {
	Value     json.RawMessage
	Failure   *source.Failure // nil for a value
	Abandoned bool            // the poller cancelled it: it says nothing about the upstream
	Starved   bool            // abandoned because the process stood still meanwhile
}

// Attempt calls an upstream once. A panic in the driver is a failure of this poll. With
// forgive, a failure is none if the process stood still for a quarter of the call's
// time. The caller has taken the call from the quota.
func (a *Asker) Attempt(ctx context.Context, up *Upstream, call source.Call, forgive bool) (out answer) {
	defer func() {
		if v := recover(); v != nil {
			a.LogPanic(v)
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

// PanicText describes a recovered panic without its value, which may hold a secret.
func PanicText(v any) string {
	if err, ok := v.(runtime.Error); ok {
		return "panic: " + err.Error()
	}
	return fmt.Sprintf("panic: %T", v)
}

// LogPanic logs the poll's first panic in a driver or an expression, with its stack.
func (a *Asker) LogPanic(v any) {
	a.panicked.Do(func() {
		a.Log.Error("driver or expression panicked; further panics of this poll show as failures only",
			"panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
	})
}

// judge makes a value of an answer, and decides whether it can be published. If not,
// that is a failure of the poll and not of the upstream, which did answer.
func (a *Asker) judge(
	ctx context.Context, raw json.RawMessage, prev Before, up *Upstream,
) (out finished, f *source.Failure) {
	defer func() {
		if v := recover(); v != nil {
			a.LogPanic(v)
			out, f = finished{}, up.Blame(event.BadResponse, "", errors.New(PanicText(v)))
		}
	}()
	var err error
	switch {
	case a.ReadHead != nil:
		out.Head, err = a.ReadHead(ctx, raw)
	case a.Shape.PassesThrough():
		out.Value, out.Digest, err = a.Finish(raw, prev.Last)
	default:
		out, err = a.shape(ctx, raw, prev)
	}
	if err != nil {
		return finished{}, up.Blame(event.BadResponse, "", err)
	}
	return out, nil
}

// shape applies the poll's expressions to an answer.
func (a *Asker) shape(ctx context.Context, raw json.RawMessage, prev Before) (out finished, err error) {
	s, err := a.Shape.Apply(ctx, raw)
	if err != nil {
		return out, err
	}
	out.Mark = s.Mark
	if a.Shape.Keyed() {
		out.Items, err = a.finishItems(s.Items, prev.Keys)
		return out, err
	}
	if out.Value, out.Digest, err = a.Finish(s.Value, prev.Last); err != nil {
		return out, err
	}
	if prev.Seed && s.Mark != nil && prev.Last.Value != nil {
		// The value before is from an earlier process, perhaps with another configuration.
		// If it has no mark, this value is the first that has one.
		if v, err := jq.Decode(prev.Last.Value); err == nil {
			out.Seed, _ = a.Shape.MarkOf(ctx, v)
		}
	}
	return out, nil
}

// finishItems makes the values of all keys ready to publish.
func (a *Asker) finishItems(items []jq.Item, prev map[string]Earlier) ([]FinishedItem, error) {
	out := make([]FinishedItem, len(items))
	for i, it := range items {
		if err := topic.Check(a.KeyTopic(it.Token)); err != nil {
			return nil, inItem(i, it, &jq.RedactedError{Public: "the key makes no topic", Full: err.Error()})
		}
		out[i].Item = it
		var err error
		if out[i].Value, out[i].Digest, err = a.Finish(it.Value, prev[it.Token]); err != nil {
			return nil, inItem(i, it, err)
		}
	}
	return out, nil
}

// inItem adds to an error which item it is about: its number for everybody, its key
// for those who may see values.
func inItem(i int, it jq.Item, err error) error {
	return &jq.RedactedError{
		Public: fmt.Sprintf("item %d: %v", i+1, err),
		Full:   fmt.Sprintf("key %q: %s", jq.Short(it.Key), jq.FullText(err)),
	}
}

// Finish makes a value compact and makes its digest. If the value changed too little to
// count as another one, it returns prev.
func (a *Asker) Finish(raw json.RawMessage, prev Earlier) (json.RawMessage, jq.Digest, error) {
	if prev.Value != nil && bytes.Equal(prev.Value, raw) { // most upstreams write compact JSON
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
	if most := a.MaxPayload(len(value)); most > 0 && int64(len(value)) > most {
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

// Compose makes a call from a question. If it cannot be made, that is a failure of the
// request; the upstream was not asked.
func (a *Asker) Compose(
	ctx context.Context, q *jq.Question, m jq.Moment, up *Upstream,
) (c source.Call, f *source.Failure) {
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
			a.LogPanic(v)
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
