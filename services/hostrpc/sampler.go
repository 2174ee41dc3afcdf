package hostrpc

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"
)

const (
	sampleEvery = time.Second
	// firstWindow is the time from the start to the second sample, which is the
	// first with rates. Earlier calls wait for it.
	firstWindow = 200 * time.Millisecond
	// tooOld is the age from which the latest sample is not used.
	tooOld = 5 * time.Second
)

// unavailable is one reading that the host refuses, in an answer that is
// otherwise complete.
type unavailable struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// sample is one sample, as answers. It is never changed after it is stored, so
// that calls share it.
type sample struct {
	at      time.Time
	system  systemStatus
	network networkList
}

// sampler owns all counters. Only its own goroutine (before Run: New) uses the
// fields without a lock.
type sampler struct {
	log       *slog.Logger
	metrics   *metrics
	processes *processes

	latest   atomic.Pointer[sample]
	ready    chan struct{} // closed after the second sample, which has rates
	count    int
	identity *identity
	cpu      cpuCounters
	nics     nicCounters
	failing  map[string]bool // by reading; only changes are logged
}

func newSampler(log *slog.Logger, m *metrics) *sampler {
	s := &sampler{
		log:     log,
		metrics: m,
		ready:   make(chan struct{}),
		failing: make(map[string]bool),
	}
	s.processes = newProcesses(s.read)
	return s
}

// run samples until ctx ends. It alone owns the counters, so that rates are over
// its own second and not over the time between two callers.
func (s *sampler) run(ctx context.Context) {
	s.processes.sample(ctx) // the first process.top compares with it
	first := time.NewTimer(firstWindow)
	defer first.Stop()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-first.C:
			s.sample(ctx)
		case <-tick.C:
			s.sample(ctx)
			s.processes.tick(ctx)
		case <-s.processes.wake:
			s.processes.tick(ctx)
		}
	}
}

// sample takes one sample. Its time is that of the clock and not of the ticker: a
// late reading must not look as if it was in time.
func (s *sampler) sample(ctx context.Context) {
	now := time.Now()
	next := &sample{at: now, system: s.readSystem(ctx), network: s.readNetwork(ctx, now)}
	s.latest.Store(next)
	if s.count++; s.count == 2 {
		close(s.ready)
	}
}

// read runs one reading and adds its error, or its panic, to missing. The log has
// a line when a reading starts or stops to fail.
func (s *sampler) read(field string, missing *[]unavailable, f func() error) (ok bool) {
	err := guarded(f)
	if failing := err != nil; failing != s.failing[field] {
		s.failing[field] = failing
		if failing {
			s.log.Warn("host reading unavailable", "reading", field, "error", err)
		} else {
			s.log.Info("host reading available again", "reading", field)
		}
	}
	if err != nil {
		s.metrics.sampleErrors.WithLabelValues(field).Inc()
		*missing = append(*missing, unavailable{Field: field, Reason: err.Error()})
	}
	return err == nil
}

// guarded returns a panic as an error: the parsers of /proc meet untested
// kernels, and one bad line must cost one field only.
func guarded(f func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("reading panicked: %v", cause)
		}
	}()
	return f()
}

// current returns the latest sample. At first it waits for rates.
func (s *sampler) current(ctx context.Context) (*sample, error) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the first samples: %w", ctx.Err())
	}
	if err := s.healthy(); err != nil {
		return nil, err
	}
	return s.latest.Load(), nil
}

// healthy fails when samples are no longer taken: old numbers must not look new.
func (s *sampler) healthy() error {
	if age := time.Since(s.latest.Load().at); age > tooOld {
		return fmt.Errorf("the last sample is %s old: the host's counters do not answer", age.Round(time.Second))
	}
	return nil
}

func (s *sampler) status(ctx context.Context) (systemStatus, error) {
	now, err := s.current(ctx)
	if err != nil {
		return systemStatus{}, err
	}
	return now.system, nil
}

func (s *sampler) network(ctx context.Context) (networkList, error) {
	now, err := s.current(ctx)
	if err != nil {
		return networkList{}, err
	}
	if now.network.Interfaces == nil {
		return networkList{}, fmt.Errorf("read interfaces: %s", now.network.Unavailable[0].Reason)
	}
	return now.network, nil
}

// round1 rounds a percentage to one decimal: more is noise that would make every
// reading a change. NaN and infinity are null in the answer.
func round1(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return new(math.Round(v*10) / 10)
}

// perSecond returns a counter's rate in whole units; nil when the counter
// decreased, because it was reset and the sum since then is unknown.
func perSecond(before, after uint64, window time.Duration) *uint64 {
	if after < before || window <= 0 {
		return nil
	}
	return new(uint64(math.Round(float64(after-before) / window.Seconds())))
}
