package poller

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/poll"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/runner"
	"github.com/prometheus/client_golang/prometheus"
)

// Options of a Poller. Only Config is required.
type Options struct {
	Config Config
	// NATS says where to publish. A field that is zero has its default.
	NATS bus.Config
	// InProcess, if set, connects to an embedded server without a socket.
	InProcess nats.InProcessConnProvider
	Logger    *slog.Logger
	// Registerer receives the metrics. Two pollers need two, or one that adds labels.
	Registerer prometheus.Registerer
	// Owner is this poller's name in leases. No other poller may have it. The default is
	// the host's name and a random suffix.
	Owner string
}

// Poller polls the sources of a configuration and publishes what changes. Its methods
// may be called by several goroutines.
type Poller struct {
	log     *slog.Logger
	metrics *metrics
	owner   string
	host    string // name of this machine
	link    *link
	pulse   clock.Pulse
	sources sources
	group   atomic.Pointer[lease.Group] // nil until Run knows the bucket of the leases

	reloading sync.Mutex // held while a reload is made: one after another
	reloads   reloadLog

	ran   atomic.Bool // Run was called
	ready atomic.Bool // Run has started the sources, and has not ended

	publishTimeout time.Duration // of one message to NATS; 0: record.PublishTimeout. Tests set it
	droppedEvery   time.Duration // between checks for dropped values; 0: droppedEvery. Tests set it
}

// ErrRan is returned by a second Run.
var ErrRan = errors.New("poller was run already")

// New checks the configuration and makes the sources. It connects to nothing. The
// error wraps ErrConfig if another configuration would avoid it. A Poller that is not
// Run must be Closed.
func New(_ context.Context, o Options) (*Poller, error) {
	if err := o.Config.Err(); err != nil {
		return nil, err
	}
	o.NATS = natsDefaults(o.NATS)
	var err error
	o.Config.CheckHistory(o.NATS.History, func(path, problem, fix string) {
		err = errors.Join(err, fmt.Errorf("%w: %s: %s; %s", config.ErrConfig, path, problem, fix))
	})
	if err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Poller{log: o.Logger, owner: o.Owner}
	if p.link, err = newLink(o.NATS, o.InProcess, p.log); err != nil {
		return nil, fmt.Errorf("%w: %w", config.ErrConfig, err)
	}
	p.host, _ = os.Hostname()
	if p.owner == "" {
		p.owner = p.host + "-" + randomSuffix()
	}
	now := &collector{sources: p.sources.list, group: p.group.Load, stood: p.pulse.Paused}
	if p.metrics, err = newMetrics(o.Registerer, now); err != nil {
		return nil, err
	}
	p.reloads.metrics = p.metrics
	for _, name := range slices.Sorted(maps.Keys(o.Config.Sources)) {
		s := newSupervisor(name, p.log, p.metrics)
		r, err := p.newRunner(s, o.Config.Sources[name])
		if err != nil {
			p.Close()
			return nil, err
		}
		s.runner.Store(r)
		p.sources.all = append(p.sources.all, s)
	}
	return p, nil
}

// Close frees a Poller that was never run. Run does it itself.
func (p *Poller) Close() {
	for _, s := range p.sources.list() {
		s.runner.Load().Close()
	}
}

// newRunner makes a runner that reports to this poller.
func (p *Poller) newRunner(s *supervisor, c config.Source) (*runner.Runner, error) {
	r, err := runner.New(s.name, c, p.log, s.log, p.metrics.runner)
	if err != nil {
		return nil, err
	}
	r.ComplainTo, r.Pulse = p.link.complain, &p.pulse
	return r, nil
}

// Run polls until ctx ends. Then it stops in this order: no more ticks; calls and
// publishes that are under way end within 2 s; leases are given back; the connection
// drains. NATS may come later than the poller, go away and return. Run fails only if
// no connection can be made with the settings, or on a second call.
func (p *Poller) Run(ctx context.Context) error {
	if !p.ran.CompareAndSwap(false, true) {
		return ErrRan
	}
	defer p.Close()
	if err := p.link.connect(p.onState); err != nil {
		return err
	}
	conn := p.link.conn.Load()
	defer conn.Drain(grace)
	var watches sync.WaitGroup
	defer watches.Wait()
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	prepared := make(chan struct{})
	dropped := &droppedValues{sources: p.sources.list, every: p.droppedEvery, log: p.log}
	watches.Go(func() { p.link.watchServer(watching, prepared, dropped.check) })
	watches.Go(func() { p.pulse.Run(watching, p.log) })
	if !p.link.prepare(ctx) {
		return nil
	}
	close(prepared)
	group := lease.NewGroup(lease.Options{
		KV: p.link.leases, Owner: p.owner, Host: p.host, TTL: p.link.config.LeaseTime, Log: p.log,
		Claimants: p.sources.claimants, Repair: p.link.repair, Complain: p.link.complain,
	})
	p.group.Store(group)
	if err := group.Listen(conn, p.link.names.LeaseBucket()); err != nil {
		return err
	}
	p.sources.start(ctx, group, p.publisher())
	p.ready.Store(true)
	p.log.Info("ready to poll each source that no other poller holds", "sources", len(p.sources.list()), "owner", p.owner)
	group.Run(ctx)
	p.sources.wait()
	p.ready.Store(false)
	return nil
}

// publisher makes the publisher that all sources share.
func (p *Poller) publisher() *record.Publisher {
	return &record.Publisher{
		Conn: p.link.conn.Load(), Names: p.link.names, Places: make(record.Places, record.MaxPlaces),
		Metrics: p.metrics.record, Repair: p.link.repair, Timeout: p.publishTimeout, KeepDeleted: poll.KeepDeleted,
	}
}

// Ready returns nil when the poller can do its work: it is connected to NATS, has the
// stream, and what it publishes is stored. It may hold sources or be a standby.
// Otherwise the error says why.
func (p *Poller) Ready() error {
	switch err := p.link.err(); {
	case err != nil:
		return err
	case !p.ready.Load():
		if err := p.link.problem.Load(); err != nil {
			return fmt.Errorf("%w: %w", errNoStream, *err)
		}
		return errNoStream
	}
	return p.link.conn.Load().StoreErr()
}

// Status returns what the poller does now.
func (p *Poller) Status() Status {
	s := p.summary()
	for _, source := range p.sources.list() {
		s.Sources = append(s.Sources, source.status(true))
	}
	return s
}

// summary is the Status without the sources.
func (p *Poller) summary() Status {
	s := Status{Owner: p.owner, Sources: []runner.Status{}, Reload: p.reloads.last.Load(), Pollers: []PollerStatus{}}
	if err := p.Ready(); err != nil {
		s.Problem = err.Error()
	} else {
		s.Ready = true
	}
	s.Connected = p.link.err() == nil
	if g := p.group.Load(); g != nil {
		all, set := g.Members()
		for _, m := range all {
			s.Pollers = append(s.Pollers, PollerStatus{m.Owner, m.Host, m.Since, m.Sources, m.Set != set})
		}
	}
	return s
}

// StatusHandler answers with Status: a page for browsers, otherwise JSON. ?format=html
// or json decides, ?source=name selects one source, and ?refresh=5 has the browser load
// the page again every 5 seconds.
func (p *Poller) StatusHandler() http.Handler {
	return &statusHandler{summary: p.summary, sources: p.sources.list}
}

// onState is called when the connection to NATS is lost or back.
func (p *Poller) onState(connected bool) {
	if g := p.group.Load(); g != nil {
		g.OnState(connected)
	}
	if connected {
		for _, s := range p.sources.list() {
			s.connectionBack()
		}
	}
}

// randomSuffix returns 8 random characters.
func randomSuffix() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
