package jsonrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/web"
)

// This file makes JSON-RPC batches (section 6): calls that come together are sent
// as one request.

const (
	// batchWindow is how long the first call waits for other calls of its tick.
	batchWindow = 5 * time.Millisecond
	// maxBatch bounds the calls of one request. More calls make another request.
	maxBatch = 100
	// singlyFor is how long an upstream that refused a batch is asked call by
	// call before a batch is tried again.
	singlyFor = time.Hour
)

type batcher struct {
	*upstream
	running sync.WaitGroup

	mu     sync.Mutex
	open   *batch    // that calls may still join; or nil
	singly time.Time // until when batches are not tried
	// trusted is until when a status 401, 403 or 404 of a whole batch is
	// believed: call by call the upstream answered the same.
	trusted time.Time
}

// batch is the calls of one request.
type batch struct {
	members []*member
	full    chan struct{}
	counted atomic.Bool
}

type member struct {
	ctx   context.Context
	call  source.Call
	id    uint64
	done  chan outcome // receives once; capacity 1
	batch *batch
}

type outcome struct {
	value  json.RawMessage
	err    error
	shared bool // err is the failure of the whole request
}

// shared returns a failure of the whole request for one of its calls. It is one
// failure of the upstream, however many calls share it: only the first one
// counts. The goroutine of the call asks for it, and not the sender: a call that
// is out of time does not listen any more.
func (p *batch) shared(f *source.Failure) *source.Failure {
	own := *f
	own.Again = f.Counts && !p.counted.CompareAndSwap(false, true)
	return &own
}

// ask makes a call as part of a batch.
func (b *batcher) ask(ctx context.Context, c source.Call) (json.RawMessage, error) {
	m := &member{ctx: ctx, call: c, id: b.lastID.Add(1), done: make(chan outcome, 1)}
	start := time.Now()
	if !b.join(m) {
		return b.call(ctx, c)
	}
	select {
	case o := <-m.done:
		if f, ok := errors.AsType[*source.Failure](o.err); ok && o.shared {
			return nil, m.batch.shared(f)
		}
		return o.value, o.err
	case <-ctx.Done():
		if web.Cancelled(ctx) {
			return nil, ctx.Err()
		}
		return nil, m.batch.shared(web.Timeout(ctx, start))
	}
}

// join adds a call to the open batch, or opens one. It returns false while the
// upstream takes no batches.
func (b *batcher) join(m *member) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Now().Before(b.singly) {
		return false
	}
	if b.open == nil {
		p := &batch{full: make(chan struct{})}
		b.open = p
		b.running.Go(func() { b.run(p) })
	}
	m.batch = b.open
	b.open.members = append(b.open.members, m)
	if len(b.open.members) == maxBatch {
		close(b.open.full)
		b.open = nil
	}
	return true
}

// run waits until the batch is complete and makes its request. It ends at the
// latest when the last member's context ends.
func (b *batcher) run(p *batch) {
	select {
	case <-p.full:
	case <-time.After(batchWindow):
	}
	b.mu.Lock()
	if b.open == p {
		b.open = nil
	}
	b.mu.Unlock()
	var members []*member // the batch is closed: no call can join it
	for _, m := range p.members {
		if m.ctx.Err() == nil {
			members = append(members, m)
		}
	}
	switch len(members) {
	case 0:
	case 1:
		_ = b.one(members[0]) // ask returns the error
	default:
		ctx, cancel := together(members)
		defer cancel()
		if !b.send(ctx, members) {
			b.each(members)
		}
	}
}

// together returns a context that ends when the contexts of all members have
// ended.
func together(members []*member) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	last, all := time.Time{}, true
	var left atomic.Int64
	left.Store(int64(len(members)))
	stops := make([]func() bool, len(members))
	for i, m := range members {
		stops[i] = context.AfterFunc(m.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		})
		deadline, ok := m.ctx.Deadline()
		if all = all && ok; deadline.After(last) {
			last = deadline
		}
	}
	end := cancel
	if all {
		ctx, end = context.WithDeadline(ctx, last)
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		end()
		cancel()
	}
}

func (b *batcher) one(m *member) error {
	v, err := b.call(m.ctx, m.call)
	m.done <- outcome{value: v, err: err}
	return err
}

// each makes the calls one by one, at the same time. It returns how many had a
// value, and how many were rejected.
func (b *batcher) each(members []*member) (good, rejected int) {
	var wg sync.WaitGroup
	errs := make([]error, len(members))
	for i, m := range members {
		wg.Go(func() { errs[i] = b.one(m) })
	}
	wg.Wait()
	for _, err := range errs {
		if f, ok := errors.AsType[*source.Failure](err); ok && f.Reason == event.RequestRejected {
			rejected++
		} else if err == nil {
			good++
		}
	}
	return good, rejected
}

// tryEach makes the calls of a batch one by one. The batch was answered with a
// status that may be about batches, for example of a provider that sells them, or
// about every call.
func (b *batcher) tryEach(a *web.Answer, members []*member) {
	switch good, rejected := b.each(members); {
	case good > 0:
		b.refuse(a)
	case rejected == len(members):
		b.mu.Lock()
		b.trusted = time.Now().Add(singlyFor)
		b.mu.Unlock()
	}
}

// send makes one request of all calls. It returns false, and answers no call, if
// the upstream takes no batches.
func (b *batcher) send(ctx context.Context, members []*member) bool {
	all := func(err error) bool {
		for _, m := range members {
			m.done <- outcome{err: err, shared: true}
		}
		return true
	}
	calls := make([]request, len(members))
	for i, m := range members {
		calls[i] = request{Version: "2.0", ID: m.id, Method: m.call.Method, Params: m.call.Params}
	}
	body, err := json.Marshal(calls)
	if err != nil {
		return all(source.Rejected("parameters cannot be encoded"))
	}
	limit := min(b.MaxAnswer*int64(len(members)), max(b.MaxAnswer, maxBatchAnswer))
	a, err := b.post(ctx, body, limit)
	if err != nil {
		return all(err)
	}
	answers, refused := batchAnswers(a)
	if refused {
		b.refuse(a)
		return false
	}
	if unclear(a) && !b.isTrusted() {
		b.tryEach(a, members)
		return true
	}
	if f := a.Failure(); f != nil {
		return all(f)
	}
	if answers == nil {
		return all(source.BadResponse(noBatch(a)))
	}
	b.distrust()
	for _, m := range members {
		m.done <- b.pick(a, answers, m)
	}
	return true
}

// maxBatchAnswer bounds the answer to a batch, in bytes; so does one call's limit
// times the number of calls.
const maxBatchAnswer = 64 << 20

// pick returns a call's part of the answer to the batch.
func (b *batcher) pick(a *web.Answer, answers map[uint64]json.RawMessage, m *member) outcome {
	own, ok := answers[m.id]
	if !ok {
		return outcome{err: source.BadResponse(fmt.Sprintf("answer to the batch lacks id %d", m.id))}
	}
	if int64(len(own)) > b.MaxAnswer {
		return outcome{err: source.BadResponse("answer is longer than " + source.Size(b.MaxAnswer))}
	}
	part := *a // the status of the whole, the body of the part
	part.Body = own
	v, err := result(&part, m.id)
	return outcome{value: v, err: err}
}

// batchAnswers returns the parts of the answer to a batch, by id. refused means
// that the upstream takes no batches: it answers with one object instead of a
// list, with a status that means it, or calls every part an invalid request. An
// answer that makes no sense gives neither parts nor a refusal.
func batchAnswers(a *web.Answer) (answers map[uint64]json.RawMessage, refused bool) {
	body := bytes.TrimSpace(a.Body)
	var object struct {
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	switch a.Status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusNotImplemented:
		return nil, true
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		return nil, false
	}
	if unclear(a) {
		return nil, false
	}
	if bytes.HasPrefix(body, []byte("{")) {
		refused = json.Unmarshal(body, &object) == nil && (object.Result != nil || object.Error != nil)
		return nil, refused
	}
	var list []json.RawMessage
	if json.Unmarshal(body, &list) != nil || list == nil {
		return nil, false
	}
	answers = make(map[uint64]json.RawMessage, len(list))
	invalid := 0
	for _, one := range list {
		var r struct {
			ID    *uint64     `json:"id"`
			Error errorObject `json:"error"`
		}
		if json.Unmarshal(one, &r) != nil {
			continue // pick reports that the call has no answer
		}
		if r.Error.Code == codeInvalidRequest {
			invalid++
		}
		if r.ID != nil {
			answers[*r.ID] = one
		}
	}
	return answers, len(list) > 0 && invalid == len(list)
}

// unclear reports whether the status may be about batches or about each of the
// calls.
func unclear(a *web.Answer) bool {
	return a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden || a.Status == http.StatusNotFound
}

// noBatch describes an answer that is no list.
func noBatch(a *web.Answer) string {
	body := bytes.TrimSpace(a.Body)
	var list []json.RawMessage
	err := json.Unmarshal(body, &list)
	switch {
	case len(body) == 0:
		return "answer is empty"
	case err == nil, bytes.HasPrefix(body, []byte("{")):
		return "answer to the batch is no list"
	}
	return web.NotJSON(body, a.MediaType, err)
}

func (b *batcher) refuse(a *web.Answer) {
	b.mu.Lock()
	b.singly = time.Now().Add(singlyFor)
	b.mu.Unlock()
	if b.Notice != nil {
		b.Notice("upstream takes no batches; it is asked call by call", "for", singlyFor, "answer", "HTTP "+a.StatusText)
	}
}

func (b *batcher) isTrusted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Before(b.trusted)
}

// distrust must be called when a batch was answered: the next status 401, 403 or
// 404 may be about batches.
func (b *batcher) distrust() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trusted = time.Time{}
}
