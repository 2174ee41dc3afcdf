package runner

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/record"
)

// maxBreakers bounds the transitions that wait for NATS; the oldest go first.
const maxBreakers = 64

// breakerQueue holds a source's breaker transitions until they are published.
type transitionQueue struct {
	mu        sync.Mutex
	list      []event.Breaker
	last      time.Time
	published *event.Breaker // the last that the stream holds, or held
	signal    chan struct{}  // made at the first use
}

func (q *transitionQueue) init() {
	if q.signal == nil {
		q.signal = make(chan struct{}, 1)
	}
}

func (q *transitionQueue) push(b event.Breaker) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	// The time is part of the message id: two transitions of one millisecond
	// would be one.
	if !b.At.After(q.last) && q.last.Sub(b.At) < time.Second {
		b.At = q.last.Add(time.Millisecond)
	}
	q.last = b.At
	if len(q.list) == maxBreakers {
		q.list = q.list[1:]
	}
	q.list = append(q.list, b)
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// head returns the oldest, and the channel that says when there is more.
func (q *transitionQueue) head() (b event.Breaker, ok bool, more <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	if len(q.list) == 0 {
		return b, false, q.signal
	}
	return q.list[0], true, q.signal
}

// drop removes the oldest if it still is b.
func (q *transitionQueue) drop(b event.Breaker) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.published = &b
	if len(q.list) > 0 && q.list[0].At.Equal(b.At) {
		q.list = q.list[1:]
	}
}

// again says the last one once more, unless another is to be said, which tells
// of all circuits, too.
func (q *transitionQueue) again() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.init(); q.published == nil || len(q.list) > 0 {
		return
	}
	q.list = append(q.list, *q.published)
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// streamAnew is called when the stream turns out to hold nothing of the source
// that it once held: while a circuit is not closed its readers have to know.
func (r *Runner) StreamAnew() {
	for _, c := range r.Upstreams.Memos() {
		if c.State != event.Closed {
			r.breakers.again()
			return
		}
	}
}

// forget removes what is older than the last transition in the stream: another
// owner has told what came of it.
func (q *transitionQueue) forget(last *event.Breaker) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if last != nil {
		q.published = last
		q.list = slices.DeleteFunc(q.list, func(b event.Breaker) bool { return !b.At.After(last.At) })
	}
}

// publishBreakers says the transitions in their order until done is closed and
// all are said, or hard ends.
func (r *Runner) publishBreakers(hard context.Context, done <-chan struct{}, t *lease.Tenure, pub *record.Publisher, guard uint64) {
	var retry record.Backoff
	for hard.Err() == nil {
		b, ok, more := r.breakers.head()
		if !ok {
			select {
			case <-more:
				continue
			case <-hard.Done():
				return
			case <-done:
				return
			}
		}
		var err error
		guard, err = pub.PutBreaker(hard, &b, guard, t, r.Upstreams.Memos()...)
		switch now := time.Now(); {
		case err == nil:
			r.breakers.drop(b)
			retry = record.Backoff{}
			continue
		case errors.Is(err, lease.ErrFenced), errors.Is(err, lease.ErrExpired):
			r.Lose(err)
			return
		case errors.Is(err, record.ErrAgain):
			retry.Stumble(now)
		default:
			retry.Fail(now)
			r.Complain(err)
		}
		if retry.Failing() {
			select {
			case <-time.After(retry.Left(time.Now())):
			case <-hard.Done():
			case <-done: // stopping: one more failure would not help
				return
			}
		}
	}
}

// inherit takes over the transitions that wait for NATS.
func (q *transitionQueue) inherit(old *transitionQueue) {
	old.mu.Lock()
	list, last, told := slices.Clone(old.list), old.last, old.published
	old.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	q.list, q.last, q.published = list, last, told
	if len(list) > 0 {
		select {
		case q.signal <- struct{}{}:
		default:
		}
	}
}
