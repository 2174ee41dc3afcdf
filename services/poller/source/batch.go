package source

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
)

// JSON-RPC batches (section 6): calls that come together go out as one request.

const (
	// batchWindow is how long the first call waits for others of its tick.
	batchWindow = 5 * time.Millisecond
	// maxBatch bounds the calls of one request; more make another one.
	maxBatch = 100
	// singlyFor is how long an upstream that refused a batch is asked call by
	// call, before a batch is tried again.
	singlyFor = time.Hour
)

type batcher struct {
	*jsonrpc
	running sync.WaitGroup

	mu     sync.Mutex
	open   *party    // others may join; or nil
	singly time.Time // until when
	// blunt is until when a batch that is unauthorized, forbidden or not found as a
	// whole is taken for what it says: call by call it was the same.
	blunt time.Time
}

// party is the calls of one request.
type party struct {
	members []*member
	full    chan struct{}
	blamed  atomic.Bool
}

type member struct {
	ctx   context.Context
	call  Call
	id    uint64
	done  chan outcome // has room for it
	party *party
}

type outcome struct {
	value  json.RawMessage
	err    error
	shared bool // err is of the whole request
}

// shared is a failure of the whole request, as each call gets it: it is one
// failure of the upstream, however many calls it takes along. Whoever returns
// it asks, not whoever sends it: a call may be out of time and not listen.
func (p *party) shared(f *Failure) *Failure {
	own := *f
	own.Again = f.Counts && !p.blamed.CompareAndSwap(false, true)
	return &own
}

// ask makes a call as part of a batch.
func (b *batcher) ask(ctx context.Context, c Call) (json.RawMessage, error) {
	m := &member{ctx: ctx, call: c, id: b.lastID.Add(1), done: make(chan outcome, 1)}
	start := time.Now()
	if !b.join(m) {
		return b.call(ctx, c)
	}
	select {
	case o := <-m.done:
		if f, ok := errors.AsType[*Failure](o.err); ok && o.shared {
			return nil, m.party.shared(f)
		}
		return o.value, o.err
	case <-ctx.Done():
		if cancelled(ctx) {
			return nil, ctx.Err()
		}
		return nil, m.party.shared(&Failure{Reason: event.Timeout, Detail: "no answer within " + allowed(ctx, start), Counts: true})
	}
}

// join adds a call to the open party, or opens one. It returns false while the
// upstream takes no batches.
func (b *batcher) join(m *member) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Now().Before(b.singly) {
		return false
	}
	if b.open == nil {
		p := &party{full: make(chan struct{})}
		b.open = p
		b.running.Go(func() { b.run(p) })
	}
	m.party = b.open
	b.open.members = append(b.open.members, m)
	if len(b.open.members) == maxBatch {
		close(b.open.full)
		b.open = nil
	}
	return true
}

// run waits for the party to gather and makes its request. It ends when the
// last member's context does, if not before.
func (b *batcher) run(p *party) {
	select {
	case <-p.full:
	case <-time.After(batchWindow):
	}
	b.mu.Lock()
	if b.open == p {
		b.open = nil
	}
	b.mu.Unlock()
	var members []*member // nobody joins any more
	for _, m := range p.members {
		if m.ctx.Err() == nil {
			members = append(members, m)
		}
	}
	switch len(members) {
	case 0:
	case 1:
		_ = b.one(members[0]) // who waits for it is told
	default:
		ctx, cancel := together(members)
		defer cancel()
		if !b.batch(ctx, members) {
			b.each(members)
		}
	}
}

// together is a context that ends when those of all members have.
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

// each makes the calls one by one, side by side. It returns how many were
// answered with a value, and how many were rejected.
func (b *batcher) each(members []*member) (good, rejected int) {
	var wg sync.WaitGroup
	errs := make([]error, len(members))
	for i, m := range members {
		wg.Go(func() { errs[i] = b.one(m) })
	}
	wg.Wait()
	for _, err := range errs {
		if f, ok := errors.AsType[*Failure](err); ok && f.Reason == event.RequestRejected {
			rejected++
		} else if err == nil {
			good++
		}
	}
	return good, rejected
}

// tryEach makes calls one by one whose batch was answered with a status that may
// be about batches, as of a provider that sells them, or about every call.
func (b *batcher) tryEach(a *answer, members []*member) {
	switch good, rejected := b.each(members); {
	case good > 0:
		b.refuse(a)
	case rejected == len(members):
		b.mu.Lock()
		b.blunt = time.Now().Add(singlyFor)
		b.mu.Unlock()
	}
}

// batch makes one request of all calls. It returns false, having told nobody
// anything, if the upstream takes no batches.
func (b *batcher) batch(ctx context.Context, members []*member) bool {
	all := func(err error) bool {
		for _, m := range members {
			m.done <- outcome{err: err, shared: true}
		}
		return true
	}
	calls := make([]rpcRequest, len(members))
	for i, m := range members {
		calls[i] = rpcRequest{Version: "2.0", ID: m.id, Method: m.call.Method, Params: m.call.Params}
	}
	body, err := json.Marshal(calls)
	if err != nil {
		return all(rejected("parameters cannot be encoded"))
	}
	limit := min(b.MaxAnswer*int64(len(members)), max(b.MaxAnswer, maxBatchAnswer))
	a, err := b.post(ctx, body, limit)
	if err != nil {
		return all(err)
	}
	answers, refused := a.batchAnswers()
	if refused {
		b.refuse(a)
		return false
	}
	if a.unclear() && !b.isBlunt() {
		b.tryEach(a, members)
		return true
	}
	if f := statusFailure(a); f != nil {
		return all(f)
	}
	if answers == nil {
		return all(badResponse(a.noBatch()))
	}
	b.sharpen()
	for _, m := range members {
		m.done <- b.pick(a, answers, m)
	}
	return true
}

// maxBatchAnswer bounds the answer to a batch, in bytes, beside one call's
// limit times their number.
const maxBatchAnswer = 64 << 20

// pick finds a call's answer among those to the batch.
func (b *batcher) pick(a *answer, answers map[uint64]json.RawMessage, m *member) outcome {
	own, ok := answers[m.id]
	if !ok {
		return outcome{err: badResponse(fmt.Sprintf("answer to the batch lacks id %d", m.id))}
	}
	if int64(len(own)) > b.MaxAnswer {
		return outcome{err: badResponse("answer is longer than " + size(b.MaxAnswer))}
	}
	v, err := (&answer{status: a.status, statusText: a.statusText, mediaType: a.mediaType, retryAfter: a.retryAfter, body: own}).rpcResult(m.id)
	return outcome{value: v, err: err}
}

// batchAnswers takes the answer to a batch apart, by id. refused says that the
// upstream takes no batches: it answers with one object instead of a list, with
// a status that says so, or calls every part an invalid request. No answers
// and no refusal is an answer that makes no sense.
func (a *answer) batchAnswers() (answers map[uint64]json.RawMessage, refused bool) {
	body := bytes.TrimSpace(a.body)
	var object struct {
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	switch a.status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusNotImplemented:
		return nil, true
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		return nil, false
	}
	if a.unclear() {
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
			ID    *uint64  `json:"id"`
			Error rpcError `json:"error"`
		}
		if json.Unmarshal(one, &r) != nil {
			continue // its call is missed
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

// unclear says that the status may be about batches or about each of the calls.
func (a *answer) unclear() bool {
	return a.status == http.StatusUnauthorized || a.status == http.StatusForbidden || a.status == http.StatusNotFound
}

// noBatch says what came instead of a list.
func (a *answer) noBatch() string {
	body := bytes.TrimSpace(a.body)
	var list []json.RawMessage
	err := json.Unmarshal(body, &list)
	switch {
	case len(body) == 0:
		return "answer is empty"
	case err == nil, bytes.HasPrefix(body, []byte("{")):
		return "answer to the batch is no list"
	}
	return notJSON(body, a.mediaType, err)
}

func (b *batcher) refuse(a *answer) {
	b.mu.Lock()
	b.singly = time.Now().Add(singlyFor)
	b.mu.Unlock()
	if b.Notice != nil {
		b.Notice("upstream takes no batches; it is asked call by call", "for", singlyFor, "answer", "HTTP "+a.statusText)
	}
}

func (b *batcher) isBlunt() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Before(b.blunt)
}

// sharpen: a batch was answered, so that the next status is worth a closer look.
func (b *batcher) sharpen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.blunt = time.Time{}
}
