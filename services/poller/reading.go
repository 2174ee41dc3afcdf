package poller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
)

// reading is the outcome of one call.
type reading struct {
	up         *upstream
	leave      permit
	kind       tickKind
	slot, sent time.Time
	took       time.Duration
	value      json.RawMessage
	digest     digest
	failure    *source.Failure // nil for a value
	abandoned  bool
}

// read makes one call. Whoever gets the reading must tell the circuit.
func (p *poll) read(ctx context.Context, up *upstream, leave permit, k tickKind, slot time.Time, prev lastGood) (r reading) {
	r = reading{up: up, leave: leave, kind: k, slot: slot}
	call, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	start := time.Now()
	r.sent = stamp(start)
	r.value, r.failure, r.abandoned = p.attempt(call, up)
	r.took = time.Since(start)
	if r.failure == nil && !r.abandoned {
		r.value, r.digest, r.failure = p.judge(r.value, prev)
	}
	return r
}

// tellCircuit ends the call for its circuit.
func (r reading) tellCircuit() {
	c := r.up.circuit
	switch f := r.failure; {
	case r.abandoned:
		c.end(r.leave, abandoned, false, "", 0)
	case f == nil:
		c.end(r.leave, success, false, "", 0)
	case f.Counts:
		c.end(r.leave, failure, f.Reason == event.Timeout, f.Detail, f.RetryAfter)
	default:
		// The request is wrong, or the value too long for NATS, but the upstream
		// is there and answers: for the circuit that is a success.
		c.end(r.leave, success, false, "", f.RetryAfter)
	}
}

// attempt calls the driver. A panic in it is this poll's failure.
func (p *poll) attempt(ctx context.Context, up *upstream) (value json.RawMessage, f *source.Failure, abandoned bool) {
	defer func() {
		if v := recover(); v != nil {
			p.panicked.Do(func() {
				p.log.Error("driver panicked; further panics of this poll show as failures only", "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
			})
			f = &source.Failure{Reason: event.BadResponse, Detail: up.detail(fmt.Sprintf("panic: %v", v)), Counts: true}
		}
	}()
	value, err := up.call(ctx, p.call)
	if err == nil {
		return value, nil, false
	}
	if f, ok := errors.AsType[*source.Failure](err); ok {
		return nil, f, false
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, nil, true
	}
	return nil, &source.Failure{Reason: event.UpstreamError, Detail: up.detail(err.Error()), Counts: true}, false
}

// judge makes the value compact, decides whether it can be published, and
// makes its digest.
func (p *poll) judge(raw json.RawMessage, prev lastGood) (json.RawMessage, digest, *source.Failure) {
	bad := func(detail string) (json.RawMessage, digest, *source.Failure) {
		return nil, digest{}, &source.Failure{Reason: event.BadResponse, Detail: event.Detail(detail)}
	}
	buf := bytes.NewBuffer(make([]byte, 0, len(raw)))
	if err := json.Compact(buf, raw); err != nil {
		return bad("the value is not JSON: " + err.Error())
	}
	value := buf.Bytes()
	if prev.value != nil && bytes.Equal(prev.value, value) {
		return prev.value, prev.digest, nil
	}
	if most := p.source.maxPayload(); most > 0 && int64(len(value)) > most {
		return bad(fmt.Sprintf("the value has %d bytes, NATS takes %d (max_payload)", len(value), most))
	}
	d, err := digestOf(value, p.ignore)
	if err != nil {
		return bad("the value is not JSON: " + err.Error())
	}
	return value, d, nil
}
