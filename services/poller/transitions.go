package poller

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
)

// maxBreakers bounds the transitions that wait for NATS; the oldest go first.
const maxBreakers = 64

// breakerQueue holds a source's breaker transitions until they are published.
type breakerQueue struct {
	mu     sync.Mutex
	list   []event.Breaker
	last   time.Time
	told   *event.Breaker // the last that the stream holds, or held
	signal chan struct{}  // made at the first use
}

func (q *breakerQueue) init() {
	if q.signal == nil {
		q.signal = make(chan struct{}, 1)
	}
}

func (q *breakerQueue) push(b event.Breaker) {
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
func (q *breakerQueue) head() (b event.Breaker, ok bool, more <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	if len(q.list) == 0 {
		return b, false, q.signal
	}
	return q.list[0], true, q.signal
}

// drop removes the oldest if it still is b.
func (q *breakerQueue) drop(b event.Breaker) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.told = &b
	if len(q.list) > 0 && q.list[0].At.Equal(b.At) {
		q.list = q.list[1:]
	}
}

// again says the last one once more, unless another is to be said, which tells
// of all circuits, too.
func (q *breakerQueue) again() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.init(); q.told == nil || len(q.list) > 0 {
		return
	}
	q.list = append(q.list, *q.told)
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// streamAnew is called when the stream turns out to hold nothing of the source
// that it once held: while a circuit is not closed its readers have to know.
func (r *runner) streamAnew() {
	for _, c := range r.upstreams.circuits() {
		if c.State != event.Closed {
			r.breakers.again()
			return
		}
	}
}

// forget removes what is older than the last transition in the stream: another
// owner has told what came of it.
func (q *breakerQueue) forget(last *event.Breaker) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if last != nil {
		q.told = last
		q.list = slices.DeleteFunc(q.list, func(b event.Breaker) bool { return !b.At.After(last.At) })
	}
}

// publishBreakers says the transitions in their order until done is closed and
// all are said, or hard ends.
func (r *runner) publishBreakers(hard context.Context, done <-chan struct{}, t *tenure, pub *publisher, guard uint64) {
	var retry backoff
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
		guard, err = pub.putBreaker(hard, &b, guard, t, r.upstreams.circuits()...)
		switch now := time.Now(); {
		case err == nil:
			r.breakers.drop(b)
			retry = backoff{}
			continue
		case errors.Is(err, errFenced), errors.Is(err, errExpired):
			r.lose(err)
			return
		case errors.Is(err, errAgain):
			retry.stumble(now)
		default:
			retry.fail(now)
			r.complain(err)
		}
		if retry.failing() {
			select {
			case <-time.After(retry.left(time.Now())):
			case <-hard.Done():
			case <-done: // stopping: one more failure would not help
				return
			}
		}
	}
}

// inherit takes over the transitions that wait for NATS.
func (q *breakerQueue) inherit(old *breakerQueue) {
	old.mu.Lock()
	list, last, told := slices.Clone(old.list), old.last, old.told
	old.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.init()
	q.list, q.last, q.told = list, last, told
	if len(list) > 0 {
		select {
		case q.signal <- struct{}{}:
		default:
		}
	}
}
