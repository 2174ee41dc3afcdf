package poller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/throttle"
	"github.com/pollcast/pollcast/services/poller/record"
)

const (
	// prepareEvery is the pause between tries to create the stream at the start.
	prepareEvery = 250 * time.Millisecond
	// repairEvery is the shortest time between two repairs.
	repairEvery = time.Second
	// complainEvery is the shortest time between two log lines about one problem of NATS.
	complainEvery = 30 * time.Second
)

// Why a poller is not ready.
var (
	errNotRunning   = errors.New("not running")
	errDisconnected = errors.New("not connected to NATS")
	errNoStream     = errors.New("JetStream is not ready")
)

// link is a poller's connection to NATS, with the stream and the bucket of the leases.
// After connect its methods may be called by several goroutines.
type link struct {
	config    bus.Config
	names     bus.Names
	inProcess nats.InProcessConnProvider // nil: over a socket
	log       *slog.Logger
	problems  *throttle.Logger // what keeps NATS from taking records

	conn    atomic.Pointer[bus.Conn] // nil before connect
	leases  *bus.Leases              // bucket of the leases; set by connect, created by prepare
	problem atomic.Pointer[error]    // why prepare has not succeeded yet

	mu         sync.Mutex // guards repairedAt, and is held during a repair
	repairedAt time.Time
}

// newLink makes a link that is not connected. The error means that the prefix of the
// subjects is not valid.
func newLink(c bus.Config, inProcess nats.InProcessConnProvider, log *slog.Logger) (*link, error) {
	names, err := c.Names()
	return &link{config: c, names: names, inProcess: inProcess, log: log, problems: throttle.New(log, complainEvery)}, err
}

// natsDefaults replaces the fields of c that are zero by their defaults.
func natsDefaults(c bus.Config) bus.Config {
	d := bus.DefaultConfig()
	c.Manage = c.Manage || c.URL == "" // nothing is set
	c.URL, c.Prefix = cmp.Or(c.URL, d.URL), cmp.Or(c.Prefix, d.Prefix)
	c.Replicas, c.History = cmp.Or(c.Replicas, d.Replicas), cmp.Or(c.History, d.History)
	c.MaxBytes, c.LeaseTime = cmp.Or(c.MaxBytes, d.MaxBytes), cmp.Or(c.LeaseTime, d.LeaseTime)
	return c
}

// connect begins to connect, and returns before NATS is there. onState is called when
// the connection is lost or back.
func (l *link) connect(onState func(connected bool)) error {
	conn, err := bus.Connect(bus.Options{
		Config: l.config, Role: "poller", Logger: l.log, InProcess: l.inProcess, OnState: onState,
	})
	if err != nil {
		return err
	}
	l.leases = bus.NewLeases(conn, l.names, l.config)
	l.conn.Store(conn)
	return nil
}

// err returns nil while the connection stands. Otherwise it wraps errNotRunning or
// errDisconnected.
func (l *link) err() error {
	conn := l.conn.Load()
	switch {
	case conn == nil:
		return errNotRunning
	case conn.IsConnected():
		return nil
	}
	if why := conn.Err(); why != nil {
		return fmt.Errorf("%w: %w", errDisconnected, why)
	}
	return errDisconnected
}

// prepare creates the stream and the bucket of the leases as soon as NATS permits it.
// It returns false when ctx ends first.
func (l *link) prepare(ctx context.Context) bool {
	for {
		err := l.ensure(ctx)
		if err == nil {
			return true
		}
		if l.err() == nil && ctx.Err() == nil {
			err = explain(err)
			l.problem.Store(&err)
			l.problems.Warn("prepare", "JetStream is not ready; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(prepareEvery):
		}
	}
}

// explain returns why the stream or the bucket could not be created, in words that say
// what to look at.
func explain(err error) error {
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) {
		return errors.New("it does not answer: NATS runs without it (nats-server -js), or it has no leader")
	}
	return err
}

// ensure creates the stream and the bucket unless they are there.
func (l *link) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, record.PublishTimeout)
	defer cancel()
	conn := l.conn.Load()
	if !conn.IsConnected() {
		return errDisconnected
	}
	if _, err := bus.EnsureStream(ctx, conn.JetStream(), l.names, l.config); err != nil {
		return err
	}
	return l.leases.Ensure(ctx)
}

// repair creates the stream and the bucket again if they are gone. It does nothing
// within repairEvery of the last repair.
func (l *link) repair(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.repairedAt) < repairEvery {
		return nil
	}
	l.repairedAt = time.Now()
	return l.ensure(ctx)
}

// complain logs that records do not reach the stream. The loss of the connection itself
// is logged by pkg/bus.
func (l *link) complain(err error) {
	if l.err() == nil {
		l.problems.Warn("publish", "NATS does not take records; polling goes on, the newest values wait", "error", err)
	}
}
