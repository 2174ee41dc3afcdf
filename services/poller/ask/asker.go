package ask

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/source"
)

// Asker asks the upstreams of one poll and judges their answers. Its fields do not
// change while the poll runs, so that its methods may be called by several goroutines.
type Asker struct {
	Topic     string // of the poll
	Index     int    // of the poll in its source, from 0
	Config    config.Poll
	Source    config.Source
	Upstreams *Upstreams
	Question  *jq.Question
	Shape     *jq.Shape
	// ReadHead reads the head of a sequence from an answer. It is nil unless the poll
	// follows a sequence.
	ReadHead func(context.Context, json.RawMessage) (int64, error)
	Ignore   []jq.Path // parts of a value that do not make it another value
	Bands    []jq.Band // numbers that may move within a band without making another value
	Log      *slog.Logger
	// MaxPayload returns the length of the longest value that NATS takes, in bytes, or
	// 0 while it is not known. size is that of the value in question.
	MaxPayload func(size int) int64
	// Stood returns for how long the process has stood still since it started.
	Stood func() time.Duration

	// Calls waits for the calls to upstreams. A call that lost against a hedge may end
	// after its tick.
	Calls    sync.WaitGroup
	panicked sync.Once // a panic was logged
}

// keyTopic returns the topic of a key, given by its token.
func (a *Asker) keyTopic(token string) string { return a.Topic + "." + token }

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
		if err := topic.Check(a.keyTopic(it.Token)); err != nil {
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
