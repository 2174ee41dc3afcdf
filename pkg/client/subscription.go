package client

import (
	"context"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/topic"
)

// Subscription is an interest in topics. Its methods may be called at any time
// from any goroutine.
type Subscription struct {
	client   *Client
	patterns []string
	opts     SubscribeOptions
	updates  chan Update
	done     chan struct{} // closed by Close
	once     sync.Once
	ready    chan struct{} // closed when the gateway has answered or err is set
	stop     func() bool   // stops the wait for the end of the context

	mu  sync.Mutex
	err error

	// The fields below belong to the loop.

	attached bool // join has taken it in
	accepted bool // a gateway has accepted it once: from then on it gets updates
	ended    bool
	conn     *Connection // the last one delivered before it was accepted
	request  uint64      // the unanswered subscribe frame; 0: none
	retryAt  time.Time   // when to ask again after a temporary refusal
	refusals int
	// answered, resumed and synced are about this connection: the gateway has
	// accepted, resumes after since, has sent everything that comes before live
	// events.
	answered, resumed, synced bool
	reason                    string // why it was not resumed
	barrier                   uint64 // the ping whose pong means that it is synced
	base                      uint64 // where live events begin
	// pos is the position to resume from after a lost connection, if posOK.
	pos    uint64
	posOK  bool
	epoch  string
	before bool // there was an earlier connection, or Since is set
	seen   map[string]seen
}

// seen is the last event of a topic that a subscription received.
type seen struct{ seq, version uint64 }

func newSubscription(c *Client, patterns []string, o SubscribeOptions) *Subscription {
	s := &Subscription{
		client: c, patterns: patterns, opts: o,
		updates: make(chan Update, o.Buffer),
		done:    make(chan struct{}),
		ready:   make(chan struct{}),
		seen:    map[string]seen{},
	}
	if o.Since != nil {
		s.pos, s.posOK, s.epoch, s.before = o.Since.Seq, true, o.Since.Epoch, true
	}
	return s
}

// Updates returns the channel of updates. It is closed when the subscription has
// ended. It must be read: see Bounds in the package's documentation.
func (s *Subscription) Updates() <-chan Update { return s.updates }

// Ready waits until the gateway has accepted the subscription. It returns why
// the subscription ended if it did, or ctx's error.
func (s *Subscription) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-s.done:
		if err := s.Err(); err != nil {
			return err
		}
		return ErrClosed
	default:
		return s.Err()
	}
}

// Err returns why the subscription ended: an *Error when the gateway refused it,
// a *CloseError when the client ended by itself, or ErrTooManyTopics. It is nil
// before, and when it was closed by Close, by its context or with its client.
func (s *Subscription) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the subscription. The channel is closed soon after; what it still
// holds can be read.
func (s *Subscription) Close() {
	s.once.Do(func() {
		close(s.done)
		s.client.poke()
	})
}

// Topics returns the topics and patterns subscribed to.
func (s *Subscription) Topics() []string { return append([]string(nil), s.patterns...) }

// Values returns the last value of every topic of the subscription, sorted by
// topic, with its freshness at this moment.
func (s *Subscription) Values() []Event { return s.client.values(s.matches) }

func (s *Subscription) matches(t string) bool {
	for _, p := range s.patterns {
		if topic.Match(p, t) {
			return true
		}
	}
	return false
}

func (s *Subscription) coversPoll(poll string) bool {
	for _, p := range s.patterns {
		if topic.CoversPoll(p, poll) {
			return true
		}
	}
	return false
}

func (s *Subscription) coversSource(source string) bool {
	for _, p := range s.patterns {
		if topic.CoversSource(p, source) {
			return true
		}
	}
	return false
}

func (s *Subscription) overlaps(patterns []string) (string, string, bool) {
	for _, p := range s.patterns {
		for _, q := range patterns {
			if topic.Overlap(p, q) {
				return p, q, true
			}
		}
	}
	return "", "", false
}

func (s *Subscription) closed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// end closes the channel. Only the loop calls it.
func (s *Subscription) end(err error) {
	if s.ended {
		return
	}
	s.ended = true
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	s.once.Do(func() { close(s.done) })
	s.stop()
	close(s.updates)
	if !s.accepted {
		close(s.ready)
	}
}

// disconnected clears the state of the connection. Only the loop calls it.
func (s *Subscription) disconnected() {
	if s.answered {
		s.before = true
	}
	s.answered, s.resumed, s.synced, s.request, s.barrier = false, false, false, 0, 0
	s.retryAt = time.Time{}
}
