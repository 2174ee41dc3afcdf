package poller

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/jq"
	"github.com/pollcast/pollcast/services/poller/lease"
	"github.com/pollcast/pollcast/services/poller/poll"
	"github.com/pollcast/pollcast/services/poller/record"
	"github.com/pollcast/pollcast/services/poller/runner"
	"github.com/prometheus/client_golang/prometheus"
)

// Options is what a Poller is made of. Only Config is required.
type Options struct {
	Config config.Config
	// NATS is where to publish; its zero fields mean the default.
	NATS bus.Config
	// InProcess, if set, connects to an embedded server without a socket.
	InProcess nats.InProcessConnProvider
	Logger    *slog.Logger
	// Registerer receives the metrics; two pollers need two, or one wrapped with
	// distinct labels.
	Registerer prometheus.Registerer
	// Owner names this poller in leases; it must be its own. Default: the host's
	// name and something random.
	Owner string
}

// Poller polls the sources of a configuration and publishes what changes.
type Poller struct {
	options Options
	names   bus.Names
	log     *slog.Logger
	metrics *metrics
	owner   string
	host    string

	// Guarded by mu, as a reload changes them while others look.
	mu      sync.Mutex
	sources []*supervisor     // by name
	ctx     context.Context   // of the sources, also of those that a reload adds; nil before they start
	ending  bool              // no more sources
	pub     *record.Publisher // these two from before the sources start
	crew    *lease.Group

	reloading sync.Mutex
	reloads   reloadLog

	ran   atomic.Bool
	nc    atomic.Pointer[bus.Conn]
	kv    *bus.Leases // from before the first runner starts
	ready atomic.Bool
	pulse clock.Pulse

	unmade    atomic.Pointer[error] // why the stream cannot be made
	repairing sync.Mutex
	repaired  time.Time
	timeout   time.Duration // of one message to NATS; 0: publishTimeout
	lookEvery time.Duration // between looks at what the stream dropped; 0: droppedEvery
	said      sync.Mutex
	saidAt    time.Time
}

// Errors of Ready and Run.
var (
	ErrRan          = errors.New("poller was run already")
	errNotRunning   = errors.New("not running")
	errDisconnected = errors.New("not connected to NATS")
	errNoStream     = errors.New("JetStream is not ready")
)

// New checks the configuration and makes the sources. It connects to nothing.
// The error wraps ErrConfig if a changed configuration would cure it. A Poller
// that is not Run must be Closed.
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
	p := &Poller{options: o, log: o.Logger, owner: o.Owner}
	if p.names, err = bus.NewNames(o.NATS.Prefix); err != nil {
		return nil, fmt.Errorf("%w: %w", config.ErrConfig, err)
	}
	p.host, _ = os.Hostname()
	if p.owner == "" {
		p.owner = p.host + "-" + random()
	}
	st := &state{list: p.list, others: p.others, stood: p.pulse.Stood}
	if p.metrics, err = newMetrics(o.Registerer, st); err != nil {
		return nil, err
	}
	for _, name := range jq.SortedKeys(o.Config.Sources) {
		s := newSupervisor(name, p.log, p.metrics)
		r, err := p.newRunner(s, o.Config.Sources[name])
		if err != nil {
			p.Close()
			return nil, err
		}
		s.runner.Store(r)
		p.sources = append(p.sources, s)
	}
	return p, nil
}

// Close frees a Poller that was never run; Run does it itself.
func (p *Poller) Close() {
	for _, s := range p.list() {
		s.runner.Load().Close()
	}
}

// newRunner makes a runner that reports to this poller.
func (p *Poller) newRunner(s *supervisor, c config.Source) (*runner.Runner, error) {
	r, err := runner.New(s.name, c, s.log, p.metrics.runner)
	if err != nil {
		return nil, err
	}
	r.ComplainTo, r.Pulse = p.complain, &p.pulse
	return r, nil
}

// list is the sources by name, at this moment.
func (p *Poller) list() []*supervisor {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sources)
}

// claimants are the sources as the pollers share them.
func (p *Poller) claimants() []lease.Claimant {
	var all []lease.Claimant
	for _, s := range p.list() {
		all = append(all, s)
	}
	return all
}

// others is what is known of other pollers; nil before Run knows the bucket.
func (p *Poller) others() *lease.Group {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crew
}

// startSources starts every source.
func (p *Poller) startSources(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx = ctx
	for _, s := range p.sources {
		p.startSource(s)
	}
}

// startSource starts a source, with mu held.
func (p *Poller) startSource(s *supervisor) {
	s.start(p.ctx, p.crew.Lease(s.name, s.log), p.pub)
}

// awaitSources waits for every source; no other is started any more.
func (p *Poller) awaitSources() {
	p.mu.Lock()
	p.ending = true
	p.mu.Unlock()
	for _, s := range p.list() {
		s.done.Wait()
	}
}

// Run polls until ctx ends. Then it stops in the order of the walk: no more
// ticks, calls and publishes under way finish within 2 s, leases are given
// back, the connection drains. NATS may come after it, go away and return. It
// fails only on settings with which no connection can be made.
func (p *Poller) Run(ctx context.Context) error {
	if !p.ran.CompareAndSwap(false, true) {
		return ErrRan
	}
	defer p.Close()
	nc, err := bus.Connect(bus.Options{
		Config: p.options.NATS, Role: "poller", Logger: p.log, InProcess: p.options.InProcess, OnState: p.onState,
	})
	if err != nil {
		return err
	}
	p.nc.Store(nc)
	defer nc.Drain(grace)
	p.kv = bus.NewLeases(nc, p.names, p.options.NATS)
	var staying sync.WaitGroup
	defer staying.Wait()
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	made := make(chan struct{})
	staying.Go(func() { p.stay(watching, nc, made) })
	staying.Go(func() { p.pulse.Run(watching, p.log) })
	if !p.prepare(ctx) {
		return nil
	}
	close(made)
	crew := lease.NewGroup(lease.Options{
		KV: p.kv, Owner: p.owner, Host: p.host, TTL: p.options.NATS.LeaseTime, Log: p.log,
		Claimants: p.claimants, Repair: p.repair, Complain: p.complain,
	})
	p.mu.Lock()
	p.crew = crew
	p.mu.Unlock()
	if err := crew.Listen(nc, p.names.LeaseBucket()); err != nil {
		return err
	}
	p.pub = &record.Publisher{
		Conn: nc, Names: p.names, Places: make(record.Places, record.MaxPuts), Metrics: p.metrics.record,
		Repair: p.repair, Timeout: p.timeout, KeepDeleted: poll.KeepDeleted,
	}
	p.startSources(ctx)
	p.ready.Store(true)
	p.log.Info("ready to poll whatever no other poller owns", "sources", len(p.list()), "owner", p.owner)
	crew.Run(ctx)
	p.awaitSources()
	p.ready.Store(false)
	return nil
}

// Ready returns nil when the poller can do its work: it is connected to NATS,
// whether it owns a source or stands by.
func (p *Poller) Ready() error {
	nc := p.nc.Load()
	switch {
	case nc == nil:
		return errNotRunning
	case !nc.IsConnected():
		if why := nc.Err(); why != nil {
			return fmt.Errorf("%w: %w", errDisconnected, why)
		}
		return errDisconnected
	case !p.ready.Load():
		if err := p.unmade.Load(); err != nil {
			return fmt.Errorf("%w: %w", errNoStream, *err)
		}
		return errNoStream
	}
	return nil
}

// unmadeWhy is why the stream or the bucket could not be made, in words that
// say what to look at.
func unmadeWhy(err error) error {
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) {
		return errors.New("it does not answer: NATS runs without it (nats-server -js), or it has no leader")
	}
	return err
}

// prepare makes the stream and the bucket of the leases, as soon as NATS lets
// it. It returns false when ctx ends first.
func (p *Poller) prepare(ctx context.Context) bool {
	var said time.Time
	for {
		err := p.ensure(ctx)
		if err == nil {
			return true
		}
		if p.nc.Load().IsConnected() && ctx.Err() == nil {
			err = unmadeWhy(err)
			p.unmade.Store(&err)
			if time.Since(said) > 30*time.Second {
				said = time.Now()
				p.log.Warn("JetStream is not ready; trying again", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(250 * time.Millisecond):
		}
	}
}

func (p *Poller) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, record.PublishTimeout)
	defer cancel()
	nc := p.nc.Load()
	if !nc.IsConnected() {
		return errDisconnected
	}
	if _, err := bus.EnsureStream(ctx, nc.JetStream(), p.names, p.options.NATS); err != nil {
		return err
	}
	return p.kv.Ensure(ctx)
}

// repair makes the stream and the bucket again if they are gone, at most once
// a second.
func (p *Poller) repair(ctx context.Context) error {
	p.repairing.Lock()
	defer p.repairing.Unlock()
	if time.Since(p.repaired) < time.Second {
		return nil
	}
	p.repaired = time.Now()
	return p.ensure(ctx)
}

func (p *Poller) onState(connected bool) {
	if c := p.others(); c != nil {
		c.OnState(connected)
	}
	if connected {
		for _, s := range p.list() {
			s.natsBack()
		}
	}
}

// complain says that records do not reach the stream, at most every 30 s. The
// loss of the connection itself is said by pkg/bus.
func (p *Poller) complain(err error) {
	p.said.Lock()
	defer p.said.Unlock()
	if nc := p.nc.Load(); nc == nil || !nc.IsConnected() || time.Since(p.saidAt) < 30*time.Second {
		return
	}
	p.saidAt = time.Now()
	p.log.Warn("NATS does not take records; polling goes on, the newest values wait", "error", err)
}

func natsDefaults(c bus.Config) bus.Config {
	d := bus.DefaultConfig()
	set := func(dst *string, def string) {
		if *dst == "" {
			*dst = def
		}
	}
	set(&c.URL, d.URL)
	set(&c.Prefix, d.Prefix)
	if c.Replicas == 0 {
		c.Replicas = d.Replicas
	}
	if c.History == 0 {
		c.History = d.History
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = d.MaxBytes
	}
	if c.LeaseTime == 0 {
		c.LeaseTime = d.LeaseTime
	}
	return c
}

func random() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
