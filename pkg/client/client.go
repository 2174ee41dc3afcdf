package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Client is a connection to Pollcast that reconnects by itself. Its methods may
// be called at any time from any goroutine.
type Client struct {
	opts   Options
	cancel context.CancelFunc
	done   chan struct{} // closed when the loop has ended
	wake   chan struct{} // wakes the loop to look at subs

	mu    sync.Mutex
	store store
	subs  []*Subscription
	ended bool
	err   error
}

// New returns a client that is connecting. It does not wait for the gateway,
// which may be started later. Close it when done.
func New(o Options) (*Client, error) {
	if err := o.normalise(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{
		opts: o, cancel: cancel, store: newStore(),
		done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	l := newLoop(c)
	go func() {
		defer close(c.done)
		l.run(ctx)
	}()
	return c, nil
}

// Close ends the client and its subscriptions, and waits until all its goroutines
// have ended, about half a second at most.
func (c *Client) Close() {
	c.cancel()
	<-c.done
}

// Done is closed when the client has ended, by Close or by itself.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the client ended by itself: a *CloseError. It is nil before,
// and after Close.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.err, ErrClosed) {
		return nil
	}
	return c.err
}

// Subscribe adds an interest in topics or patterns: "host.system.status",
// "eth.balance.*", "host.>". It does not wait for the gateway: Ready does, and
// a refusal ends the subscription. It lives until ctx ends, Close is called or
// the client ends.
//
// Subscriptions of one client share a connection, on which all have the same
// Delivery and MaxHz. They may overlap; then each gets every event that it
// matches. One with Since may overlap none.
func (c *Client) Subscribe(ctx context.Context, topics []string, o SubscribeOptions) (*Subscription, error) {
	patterns, err := checkPatterns(topics)
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	if err := o.normalise(); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	s := newSubscription(c, patterns, o)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil, fmt.Errorf("subscribe: %w", c.err)
	}
	for _, other := range c.subs {
		if other.closed() {
			continue
		}
		if o.Delivery != other.opts.Delivery || o.MaxHz != other.opts.MaxHz {
			return nil, fmt.Errorf("subscribe: all subscriptions of a client have the same Delivery and MaxHz "+
				"(others have %q and %v); use another client",
				other.opts.Delivery, other.opts.MaxHz)
		}
		if p, q, overlap := other.overlaps(patterns); overlap && o.Since != nil {
			return nil, fmt.Errorf("subscribe: %q overlaps %q of another subscription, which Since does not allow; "+
				"use another client",
				q, p)
		}
	}
	c.subs = append(c.subs, s)
	s.stop = context.AfterFunc(ctx, s.Close)
	c.poke()
	return s, nil
}

// Value returns the last value of a subscribed topic with its freshness at this
// moment. ok is false when none is known.
func (c *Client) Value(topic string) (value Event, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.store.topics[topic]
	if e == nil {
		return Event{}, false
	}
	return c.store.value(e, time.Now()), true
}

// Values returns the last value of every subscribed topic, sorted by topic, with
// its freshness at this moment.
func (c *Client) Values() []Event { return c.values(func(string) bool { return true }) }

func (c *Client) values(match func(string) bool) []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var out []Event
	for t, e := range c.store.topics {
		if match(t) {
			out = append(out, c.store.value(e, now))
		}
	}
	slices.SortFunc(out, func(a, b Event) int { return strings.Compare(a.Topic, b.Topic) })
	return out
}

// Freshness returns a poll's freshness at this moment; ok is false when nothing
// is known about the poll.
func (c *Client) Freshness(poll string) (f Freshness, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.store.polls[poll]
	if p == nil {
		return Freshness{}, false
	}
	return p.now(time.Now()), true
}

// poke makes the loop look at the subscriptions.
func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
