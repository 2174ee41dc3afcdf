package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/wire"
)

const (
	// requestTimeout is how long a gateway may take to answer a frame.
	requestTimeout = 15 * time.Second
	// sweepSpacing is the shortest time between two searches for silent polls.
	sweepSpacing = 100 * time.Millisecond
	never        = 100 * 365 * 24 * time.Hour
)

// loop is the one goroutine that changes a client: it connects, writes, takes in
// frames and delivers updates. Only readers and dials run beside it. It waits for
// them before it ends.
type loop struct {
	c   *Client
	log *slog.Logger
	wg  sync.WaitGroup
	err error // why the client ends by itself

	cur      *session    // nil while there is no connection
	dialing  chan dialed // nil while no dial is under way
	retryAt  time.Time   // when to dial, while there is no connection
	moveAt   time.Time   // when to dial another gateway, because the present one goes away
	attempt  int
	conn     *Connection // the last one delivered; nil before the first
	subs     []*Subscription
	requests map[uint64]*request
	lastID   uint64
	pinged   bool // a ping is under way
	sweepAt  time.Time

	out []delivery // what the next flush delivers, in order
}

type dialed struct {
	s   *session
	err error
}

// request is a frame that waits for its answer.
type request struct {
	at  time.Time
	sub *Subscription // nil for a ping
	// asked is the frame's position that the gateway must have reached.
	asked wire.Since
}

type delivery struct {
	sub *Subscription
	u   Update
}

func newLoop(c *Client) *loop {
	l := &loop{c: c, requests: map[uint64]*request{}}
	// The log shows the host only: the rest of the URL may hold secrets.
	u, _ := url.Parse(c.opts.URL)
	l.log = c.opts.Logger.With("gateway_host", u.Host)
	return l
}

func (l *loop) run(ctx context.Context) {
	defer l.shutdown()
	timer := time.NewTimer(never)
	defer timer.Stop()
	for {
		now := time.Now()
		l.serve(ctx, now)
		if !l.flush(ctx) || l.err != nil {
			return
		}
		timer.Reset(l.wait(time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-l.c.wake:
		case <-timer.C:
			l.expire(time.Now())
		case d := <-l.dialing:
			l.dialing = nil
			l.dialed(d, time.Now())
		case r := <-l.in():
			if r.err != nil {
				l.lose(r.err, time.Now())
			} else {
				l.frame(r.frame, r.at)
			}
		}
	}
}

func (l *loop) in() chan received {
	if l.cur == nil {
		return nil
	}
	return l.cur.in
}

// serve does what is due: it takes in subscriptions that were added or closed,
// sends frames, and dials.
func (l *loop) serve(ctx context.Context, now time.Time) {
	l.leave()
	l.join()
	if l.cur != nil {
		if err := l.ask(now); err != nil {
			l.lose(err, now)
		}
	}
	due := l.cur == nil && !now.Before(l.retryAt) || l.cur != nil && !l.moveAt.IsZero() && !now.Before(l.moveAt)
	if due && l.dialing == nil && l.err == nil {
		ch := make(chan dialed, 1)
		l.dialing = ch
		l.wg.Go(func() {
			s, err := l.c.dial(ctx, &l.wg)
			ch <- dialed{s, err}
		})
	}
}

// wait returns the time until the loop has something to do.
func (l *loop) wait(now time.Time) time.Duration {
	next := now.Add(never)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	if l.dialing == nil {
		if l.cur == nil {
			sooner(l.retryAt)
		} else {
			sooner(l.moveAt)
		}
	}
	if l.cur != nil {
		sooner(l.sweepAt)
		for _, r := range l.requests {
			sooner(r.at.Add(requestTimeout))
		}
		for _, s := range l.subs {
			if !s.answered && s.request == 0 {
				sooner(s.retryAt)
			}
		}
	}
	return next.Sub(now)
}

// expire handles what time brings: silent polls and missing answers.
func (l *loop) expire(now time.Time) {
	if l.cur == nil {
		return
	}
	if !l.sweepAt.IsZero() && !now.Before(l.sweepAt) {
		l.sweep(now)
	}
	for _, r := range l.requests {
		if now.Sub(r.at) >= requestTimeout {
			l.lose(fmt.Errorf("gateway did not answer within %v", requestTimeout), now)
			return
		}
	}
}

// flush delivers the updates. It waits for readers as long as their subscriptions
// exist. false means that the client ends.
func (l *loop) flush(ctx context.Context) bool {
	start := time.Now()
	waited := false
	for i, d := range l.out {
		l.out[i] = delivery{}
		select {
		case d.sub.updates <- d.u:
			continue
		default:
		}
		waited = true
		select {
		case d.sub.updates <- d.u:
		case <-d.sub.done:
		case <-ctx.Done():
			l.out = nil
			return false
		}
	}
	l.out = l.out[:0]
	if cap(l.out) > 4096 {
		l.out = nil
	}
	if waited {
		// Answers that arrived meanwhile were not read: their requests get more
		// time.
		d := time.Since(start)
		for _, r := range l.requests {
			r.at = r.at.Add(d)
		}
		if d > time.Second {
			l.log.Warn("waited for a slow reader of updates", "seconds", d.Seconds())
		}
	}
	return true
}

func (l *loop) deliver(s *Subscription, u Update) {
	switch {
	case s.ended:
	case s.accepted:
		l.out = append(l.out, delivery{s, u})
	default:
		// A caller that waits for Ready does not read yet: the loop must not wait
		// for it. It gets the connection now if there is room, and otherwise
		// later.
		select {
		case s.updates <- u:
			s.conn, _ = u.(*Connection)
		default:
		}
	}
}

func (l *loop) deliverAll(u Update) {
	for _, s := range l.subs {
		l.deliver(s, u)
	}
}

// dialed handles the result of a dial.
func (l *loop) dialed(d dialed, now time.Time) {
	if d.err != nil {
		delay := l.delay(d.err)
		if l.cur != nil && l.err == nil {
			l.log.Warn("cannot reach another gateway yet", "error", d.err, "retry_seconds", delay.Seconds())
			l.moveAt = now.Add(delay)
			return
		}
		l.retryAt = now.Add(delay)
		l.log.Debug("cannot reach a gateway", "error", d.err, "retry_seconds", delay.Seconds())
		if l.conn == nil || l.conn.Connected || l.err != nil {
			l.disconnected(d.err, delay)
		}
		return
	}
	moved := l.cur != nil
	if moved {
		l.cur.close(&l.wg)
		l.forget()
	}
	l.cur, l.moveAt = d.s, time.Time{}
	w := d.s.welcome
	l.log.Info("connected", "gateway", w.Gateway, "connection", w.Connection, "moved", moved)
	l.c.mu.Lock()
	l.c.store.session++
	l.c.store.clock = newClock(d.s.since, d.s.took)
	for _, p := range l.c.store.polls {
		p.hold = true
	}
	l.c.mu.Unlock()
	l.conn = &Connection{Connected: true, Gateway: w.Gateway, ID: w.Connection, Moved: moved}
	l.deliverAll(l.conn)
}

// delay counts a failure and returns when to try again. A permanent one ends
// the client.
func (l *loop) delay(err error) time.Duration {
	if ce := permanent(err); ce != nil {
		l.err = ce
		return 0
	}
	var hint time.Duration
	overloaded := false
	if ra, ok := errors.AsType[*errRetryAfter](err); ok {
		hint, overloaded = ra.after, ra.overloaded
	}
	if ce, ok := errors.AsType[*CloseError](err); ok {
		if overloaded = ce.Code == wire.CloseOverloaded; overloaded {
			hint = min(wire.RetryHint(ce.Reason), maxHint)
		}
	}
	if overloaded {
		l.attempt = max(l.attempt, overloadAttempt)
	}
	d := l.c.opts.backoff(l.attempt)
	l.attempt++
	return max(d, hint)
}

// lose ends the connection. Everything is stale until another connection has
// confirmed it.
func (l *loop) lose(err error, now time.Time) {
	s := l.cur
	l.cur = nil
	s.drop()
	if now.Sub(s.since) >= stable {
		l.attempt = 0
	}
	hinted := l.moveAt
	delay := l.delay(err)
	if !hinted.IsZero() && l.err == nil { // the gateway gave the time
		delay = max(hinted.Sub(now), 0)
	}
	l.retryAt, l.moveAt = now.Add(delay), time.Time{}
	l.forget()
	l.log.Warn("lost the gateway", "error", err, "retry_seconds", delay.Seconds())
	l.disconnected(err, delay)
}

func (l *loop) disconnected(err error, delay time.Duration) {
	l.conn = &Connection{Err: err, RetryIn: delay}
	l.deliverAll(l.conn)
	l.lost(time.Now())
}

// forget clears the state of the connection.
func (l *loop) forget() {
	clear(l.requests)
	l.pinged = false
	for _, s := range l.subs {
		s.disconnected()
	}
}

// goAway plans the move to another gateway.
func (l *loop) goAway(g *wire.GoAway, now time.Time) {
	delay := min(time.Duration(min(max(g.ReconnectAfterMs, 0), maxHint.Milliseconds()))*time.Millisecond, maxHint)
	if now.Sub(l.cur.since) < stable {
		// If a balancer has no other gateway, the client would connect to this
		// one in a circle.
		delay = max(delay, l.c.opts.backoff(l.attempt))
		l.attempt++
	} else {
		l.attempt = 0
	}
	l.moveAt = now.Add(delay)
	l.log.Info("gateway will go away", "reason", g.Reason, "move_seconds", delay.Seconds())
}

// elsewhere plans the move to another gateway, because this one cannot serve any
// of the subscriptions: it may be behind what the client has seen for as long as
// its NATS server is cut off.
func (l *loop) elsewhere(delay time.Duration, now time.Time) {
	if !l.moveAt.IsZero() {
		return
	}
	l.moveAt = now.Add(max(delay, l.c.opts.backoff(l.attempt)))
	l.attempt++
}

// shutdown ends the subscriptions and the connection, and waits for all
// goroutines.
func (l *loop) shutdown() {
	c := l.c
	c.mu.Lock()
	c.ended, c.err = true, l.err
	if c.err == nil {
		c.err = ErrClosed
	}
	subs := slices.Clone(c.subs)
	c.subs = nil
	for _, p := range c.store.polls {
		p.lost, p.hold, p.staged = true, true, nil
	}
	c.mu.Unlock()
	c.cancel()
	for _, s := range subs {
		err := l.err
		if s.closed() {
			err = nil
		}
		s.end(err)
	}
	if l.cur != nil {
		l.cur.close(&l.wg)
	}
	if l.dialing != nil {
		if d := <-l.dialing; d.s != nil {
			d.s.close(&l.wg)
		}
	}
	l.wg.Wait()
}
