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
		b.one(members[0])
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

func (b *batcher) one(m *member) {
	v, err := b.call(m.ctx, m.call)
	m.done <- outcome{value: v, err: err}
}

func (b *batcher) each(members []*member) {
	var wg sync.WaitGroup
	for _, m := range members {
		wg.Go(func() { b.one(m) })
	}
	wg.Wait()
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
	if f := statusFailure(a); f != nil {
		return all(f)
	}
	if answers == nil {
		return all(badResponse(a.noBatch()))
	}
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
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
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
		b.Notice("upstream takes no batches; it is asked call by call for " + singlyFor.String() + " (HTTP " + a.statusText + ")")
	}
}
