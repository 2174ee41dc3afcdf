package bus

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// learnEvery is how often LearnLimits asks the server.
const learnEvery = 10 * time.Second

// MaxPayload is the longest message that the server takes, in bytes, as the
// server sent it when it was connected to. It is 0 while that is not known.
func (c *Conn) MaxPayload() int64 { return c.NATS().MaxPayload() }

// LearnLimits finds out, in the background and at most every 10 s, whether the
// server's limits have changed. A server sends its limits only when a client
// connects, so they change unseen when its configuration is reloaded. Call it when
// a message is longer than MaxPayload. (A lowered limit shows by itself: the
// server closes the connection of a client that exceeds it.)
func (c *Conn) LearnLimits() {
	if c.learnt.Pass(time.Now(), learnEvery) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	c.tasks.Go(func() {
		if err := c.learnLimits(); err != nil {
			c.log.Debug("cannot ask NATS for its limits", "error", err)
		}
	})
}

// learnLimits asks for the limits on a second connection, so that the first one is
// only disturbed when they have changed.
func (c *Conn) learnLimits() error {
	nc := c.NATS()
	known, url := nc.MaxPayload(), nc.ConnectedUrl()
	if url == "" {
		return nil // it learns them when it connects
	}
	opts, err := c.dialOptions("pollcast " + c.opts.Role + " limits")
	if err != nil {
		return err
	}
	opts = append(opts, nats.NoReconnect())
	if state, err := nc.TLSConnectionState(); err == nil && state.ServerName != "" {
		opts = append(opts, secure(state.ServerName)) // that of a discovered server is not in its URL
	}
	second, err := nats.Connect(url, opts...)
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer second.Close()
	if err := second.FlushTimeout(2 * time.Second); err != nil { // an account's limits come after the login
		return fmt.Errorf("ask NATS: %w", err)
	}
	if now := second.MaxPayload(); now != known {
		c.log.Info("NATS has another max_payload now; reconnecting to use it", "before", known, "now", now)
		return nc.ForceReconnect()
	}
	return nil
}
