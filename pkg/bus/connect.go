package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/throttle"
)

// Bounds of a Conn.
const (
	// redialMin and redialMax bound the pause before a closed connection is
	// replaced. It doubles while connections last less than redialGood.
	redialMin  = 250 * time.Millisecond
	redialMax  = 10 * time.Second
	redialGood = 10 * time.Second
	// reconnectWait is the pause after all servers were tried, plus up to half of
	// it at random.
	reconnectWait = 500 * time.Millisecond
	// logEvery is how often the same kind of failure is logged.
	logEvery = 30 * time.Second
)

// Options of Connect beyond Config.
type Options struct {
	Config
	// Role is "poller" or "gateway". It names the connection, with the host, in
	// `nats server report connections`, and its inboxes (_INBOX_<role>.>), so
	// that permissions can keep the roles apart.
	Role   string
	Logger *slog.Logger
	// InProcess, if set, connects to an embedded server without a socket.
	InProcess nats.InProcessConnProvider
	// OnState is called on every loss (false) and return (true) of the
	// connection, from goroutines of the client library, one call at a time.
	OnState func(connected bool)
}

// Conn is a connection to NATS that only Close and Drain end.
//
// The client library reconnects by itself after most failures, but it closes a
// connection for good when the server sends an -ERR that it does not know, such
// as "Maximum Payload Violation" or that of a later NATS. Conn replaces such a
// connection by a new one. Subscriptions made by Conn move to the new one. What
// NATS and JetStream return belongs to one connection: call them for each use.
//
// Conn may be used by several goroutines.
type Conn struct {
	opts    Options
	log     *slog.Logger
	often   *throttle.Logger
	choice  serverChoice
	storing storing

	current atomic.Pointer[link]
	why     atomic.Pointer[string] // there is no connection; nil: there is one
	stop    chan struct{}          // closed by Close and Drain
	tasks   sync.WaitGroup         // goroutines of redial and LearnLimits
	learnt  throttle.Gate          // of LearnLimits

	// dialling is held while a connection is made, until it is the current one.
	// Callbacks of the client library wait for that.
	dialling sync.Mutex
	pause    time.Duration // before the next redial; guarded by dialling

	mu       sync.Mutex
	stopped  bool
	subs     []*subscription
	watchers map[chan struct{}]bool
}

// link is one connection of the client library.
type link struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	since time.Time
}

// Connect returns a connection that keeps trying for ever: NATS may start after
// its services, go away and come back. It fails only on options that cannot
// work. While the connection is down, publishing fails at once instead of
// queueing what would be sent late.
func Connect(o Options) (*Conn, error) {
	if o.OnState == nil {
		o.OnState = func(bool) {}
	}
	c := &Conn{
		opts: o, log: o.Logger, often: throttle.New(o.Logger, logEvery), stop: make(chan struct{}),
		pause: redialMin, watchers: map[chan struct{}]bool{},
	}
	c.because("starting")
	if err := c.dial(); err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	if !c.IsConnected() {
		c.log.Warn("NATS is not there yet; trying until it is", "url", redact(o.URL))
	}
	return c, nil
}

// NATS returns the connection of the client library that is used now. It may be
// closed; its successor is returned as soon as there is one.
func (c *Conn) NATS() *nats.Conn { return c.current.Load().nc }

// JetStream returns JetStream on the connection that is used now.
func (c *Conn) JetStream() jetstream.JetStream { return c.current.Load().js }

// IsConnected reports whether there is a connection to a server now.
func (c *Conn) IsConnected() bool { return c.NATS().IsConnected() }

// Err returns nil while there is a connection, and otherwise why there is none.
func (c *Conn) Err() error {
	if why := c.why.Load(); why != nil && !c.IsConnected() {
		return errors.New(*why)
	}
	return nil
}

func (c *Conn) because(why string) { c.why.Store(&why) }

// dial makes a connection and moves everything to it.
func (c *Conn) dial() error {
	c.dialling.Lock()
	defer c.dialling.Unlock()
	opts, err := c.options()
	if err != nil {
		return err
	}
	nc, err := nats.Connect(c.opts.URL, opts...)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // it quotes the URL, which may hold a password
		}
		return err
	}
	js, err := c.opts.JetStream.of(nc)
	if err != nil {
		nc.Close()
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.subs {
		if err := s.move(nc); err != nil {
			c.log.Error("cannot subscribe on the new connection to NATS", "error", err)
		}
	}
	c.current.Store(&link{nc, js, time.Now()})
	if c.stopped {
		nc.Close()
	}
	return nil
}

// options are those of a connection to the configured servers. Files are read
// again for each connection.
func (c *Conn) options() ([]nats.Option, error) {
	opts, err := c.dialOptions("pollcast " + c.opts.Role)
	if err != nil {
		return nil, err
	}
	return append(opts,
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(func(int) time.Duration {
			if link := c.current.Load(); link != nil {
				err := link.nc.LastError()
				c.refused(err) // no callback receives the -ERR that answers a login
				if errors.Is(err, errOther) {
					link.nc.Close() // closed replaces it
				}
			}
			return reconnectWait + rand.N(reconnectWait/2)
		}),
		nats.ReconnectBufSize(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(10*time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(func(nc *nats.Conn) { c.up("connected to NATS", nc) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { c.up("NATS is back", nc) }),
		nats.DisconnectErrHandler(c.down),
		nats.ClosedHandler(c.closed),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { c.refused(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			c.often.Warn(subject+" "+err.Error(), "NATS reports an error", "error", err, "subject", subject)
		}),
	), nil
}

// dialOptions are what any connection to the configured servers needs.
func (c *Conn) dialOptions(name string) ([]nats.Option, error) {
	host, _ := os.Hostname()
	opts, err := c.login()
	if err != nil {
		return nil, err
	}
	opts = append(opts, nats.Name(name+" "+host), nats.Timeout(2*time.Second),
		nats.CustomInboxPrefix("_INBOX_"+c.opts.Role))
	if c.opts.InProcess != nil {
		return append(opts, nats.InProcessServer(c.opts.InProcess)), nil
	}
	return append(opts, c.opts.TLS.options()...), nil
}

// settled waits until the connection of a callback is the current one.
func (c *Conn) settled() {
	c.dialling.Lock()
	c.dialling.Unlock() //lint:ignore SA2001 waiting is the purpose
}

func (c *Conn) up(msg string, nc *nats.Conn) {
	c.settled()
	c.why.Store(nil)
	c.log.Info(msg, "url", nc.ConnectedUrlRedacted())
	c.changed(true)
}

// refused reports that an attempt to connect failed.
func (c *Conn) refused(err error) {
	if err == nil {
		return
	}
	c.because(errText(err))
	c.often.Warn("reconnect", "NATS cannot be reached; trying again", "error", errText(err))
}

func (c *Conn) down(nc *nats.Conn, err error) {
	c.settled()
	c.because(errText(err))
	if !nc.IsClosed() && !nc.IsDraining() {
		c.often.Warn("lost", "lost NATS; trying again until it returns", "error", errText(err))
	}
	c.changed(false)
}

// changed publishes a loss or a return of the connection.
func (c *Conn) changed(connected bool) {
	c.choice.reset()
	c.opts.OnState(connected)
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watchers {
		select {
		case w <- struct{}{}:
		default: // the reader has not taken the last one yet
		}
	}
}

// closed replaces a connection that the client library has closed, unless Close
// or Drain did it.
func (c *Conn) closed(nc *nats.Conn) {
	c.settled()
	c.mu.Lock()
	defer c.mu.Unlock()
	if current := c.current.Load(); c.stopped || current == nil || current.nc != nc {
		return
	}
	err := nc.LastError()
	c.because(errText(err))
	c.often.Warn("closed "+errText(err), "NATS has closed the connection; connecting again", "error", errText(err))
	c.tasks.Go(c.redial)
}

// redial makes a new connection in place of a closed one.
func (c *Conn) redial() {
	lasted := time.Since(c.current.Load().since)
	for {
		c.dialling.Lock()
		if lasted >= redialGood {
			c.pause = redialMin
		}
		pause := c.pause + rand.N(c.pause)
		c.pause = min(2*c.pause, redialMax)
		c.dialling.Unlock()
		select {
		case <-c.stop:
			return
		case <-time.After(pause):
		}
		err := c.dial()
		if err == nil {
			return
		}
		lasted = 0
		c.because(err.Error())
		c.often.Warn("dial", "cannot connect to NATS; trying again", "error", err)
	}
}

// end begins the end of the connection. It returns false if that has begun.
func (c *Conn) end() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return false
	}
	c.stopped = true
	close(c.stop)
	return true
}

// Close ends the connection.
func (c *Conn) Close() {
	c.end()
	c.NATS().Close()
	c.tasks.Wait()
	c.NATS().Close() // that which a redial has made meanwhile
}

// Drain ends the connection after what it still has to send, or after the time
// limit.
func (c *Conn) Drain(limit time.Duration) {
	if c.end() {
		nc := c.NATS()
		if nc.Drain() == nil {
			for deadline := time.Now().Add(limit); !nc.IsClosed() && time.Now().Before(deadline); {
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	c.Close()
}

func errText(err error) string {
	if err == nil {
		return "connection closed"
	}
	if errors.Is(err, nats.ErrNoServers) {
		return "no server answers"
	}
	return err.Error()
}
