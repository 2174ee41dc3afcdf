package runner

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/record"
)

// maxQueue bounds the transitions that wait for NATS. The oldest are dropped first.
const maxQueue = 64

// transitionQueue holds the transitions of a source's circuits until they are published.
type transitionQueue struct {
	mu        sync.Mutex
	list      []event.Breaker
	last      time.Time      // that of the newest
	published *event.Breaker // the last that the stream holds, or held
	signal    chan struct{}  // there is something in list; made at the first use
}

// notify signals that there is something in list, with mu held.
func (q *transitionQueue) notify() {
	select {
	case q.ready() <- struct{}{}:
	default:
	}
}

func (q *transitionQueue) ready() chan struct{} {
	if q.signal == nil {
		q.signal = make(chan struct{}, 1)
	}
	return q.signal
}

func (q *transitionQueue) push(b event.Breaker) {
	q.mu.Lock()
	defer q.mu.Unlock()
	// The time is part of the message id: two transitions of one millisecond would be one.
	if !b.At.After(q.last) && q.last.Sub(b.At) < time.Second {
		b.At = q.last.Add(time.Millisecond)
	}
	q.last = b.At
	if len(q.list) == maxQueue {
		q.list = q.list[1:]
	}
	q.list = append(q.list, b)
	q.notify()
}

// head returns the oldest, and the channel that says when there is more.
func (q *transitionQueue) head() (b event.Breaker, ok bool, more <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 {
		return b, false, q.ready()
	}
	return q.list[0], true, q.ready()
}

// drop removes the oldest, if it still is b, which is published.
func (q *transitionQueue) drop(b event.Breaker) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.published = &b
	if len(q.list) > 0 && q.list[0].At.Equal(b.At) {
		q.list = q.list[1:]
	}
}

// repeat has the last one published again, unless another one waits, which speaks of all
// circuits, too.
func (q *transitionQueue) repeat() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.published == nil || len(q.list) > 0 {
		return
	}
	q.list = append(q.list, *q.published)
	q.notify()
}

// forget removes what is older than the last transition in the stream: another lease
// holder has published what followed.
func (q *transitionQueue) forget(last *event.Breaker) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if last != nil {
		q.published = last
		q.list = slices.DeleteFunc(q.list, func(b event.Breaker) bool { return !b.At.After(last.At) })
	}
}

// inherit takes over what waits for NATS.
func (q *transitionQueue) inherit(old *transitionQueue) {
	old.mu.Lock()
	list, last, published := slices.Clone(old.list), old.last, old.published
	old.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.list, q.last, q.published = list, last, published; len(list) > 0 {
		q.notify()
	}
}

// publishTransitions publishes the transitions in their order until done is closed and the
// queue is empty, or the session is cut. last is the sequence number of the last one in
// the stream.
func (r *Runner) publishTransitions(s Session, done <-chan struct{}, last uint64) {
	var retry record.Backoff
	for s.Cut.Err() == nil {
		b, ok, more := r.queue.head()
		if !ok {
			select {
			case <-more:
				continue
			case <-s.Cut.Done():
				return
			case <-done:
				return
			}
		}
		var err error
		last, err = s.To.PutBreaker(s.Cut, &b, last, s.Tenure, r.Upstreams.Memos()...)
		switch now := time.Now(); {
		case err == nil:
			r.queue.drop(b)
			retry = record.Backoff{}
			continue
		case errors.Is(err, lease.ErrFenced), errors.Is(err, lease.ErrExpired):
			r.Lose(err)
			return
		case errors.Is(err, record.ErrAgain):
			retry.Repeat(now)
		default:
			retry.Fail(now)
			r.Complain(err)
		}
		if retry.Failing() {
			select {
			case <-time.After(retry.Wait(time.Now())):
			case <-s.Cut.Done():
			case <-done: // stopping: one more failure would not help
				return
			}
		}
	}
}
