package bus

import (
	"errors"
	"slices"

	"github.com/nats-io/nats.go"
)

// subscription is one that moves to every new connection.
type subscription struct {
	attach  func(*nats.Conn) (*nats.Subscription, error)
	current *nats.Subscription // on the connection that is used now; nil: on none
}

// move makes the subscription on a connection.
func (s *subscription) move(nc *nats.Conn) (err error) {
	s.current, err = s.attach(nc)
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil // it moves to the next connection
	}
	return err
}

// Subscribe calls handle for every message on the subject, on this connection
// and on those that replace it. stop ends the subscription.
func (c *Conn) Subscribe(subject string, handle nats.MsgHandler) (stop func(), err error) {
	return c.subscribe(func(nc *nats.Conn) (*nats.Subscription, error) { return nc.Subscribe(subject, handle) })
}

// ChanSubscribe sends every message on the subject to the channel, on this
// connection and on those that replace it. When the channel is full, the client
// library drops messages. stop ends the subscription.
func (c *Conn) ChanSubscribe(subject string, to chan *nats.Msg) (stop func(), err error) {
	return c.subscribe(func(nc *nats.Conn) (*nats.Subscription, error) { return nc.ChanSubscribe(subject, to) })
}

func (c *Conn) subscribe(attach func(*nats.Conn) (*nats.Subscription, error)) (stop func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &subscription{attach: attach}
	if err := s.move(c.NATS()); err != nil {
		return nil, err
	}
	c.subs = append(c.subs, s)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.subs = slices.DeleteFunc(c.subs, func(other *subscription) bool { return other == s })
		if s.current != nil {
			_ = s.current.Unsubscribe() // it fails only on a closed connection, which ends the subscription
		}
	}, nil
}

// Changed returns a channel that receives a value after a loss or a return of the
// connection. One value stands for all changes since the last was received. stop
// ends that.
func (c *Conn) Changed() (changes <-chan struct{}, stop func()) {
	w := make(chan struct{}, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers[w] = true
	return w, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, w)
	}
}
