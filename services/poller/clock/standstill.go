package clock

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/throttle"
)

const (
	// pulseInterval is how often Pulse notes that the process runs.
	pulseInterval = 50 * time.Millisecond
	// pulseSlack is how late that note may be. A longer delay is a standstill.
	pulseSlack = 20 * time.Millisecond
	// longStandstill is the shortest standstill that goes into the log.
	longStandstill = 500 * time.Millisecond
	// standstillLogInterval is the shortest time between two such log lines.
	standstillLogInterval = 30 * time.Second
)

// Pulse measures for how long the process stood still: stopped by a signal, moved to
// another machine, or without a processor because other processes used them all. All
// calls under way fail at the end of such a time, and five of them would open the
// circuit of an upstream that did answer. A failure in such a tick therefore counts as
// if the call had not been made, and the poll asks again once; the next failure counts.
//
// Its methods may be called from several goroutines. A nil Pulse reports no standstill.
type Pulse struct {
	mu     sync.Mutex
	last   time.Time     // when the process last ran; zero before the first beat
	paused time.Duration // all standstills up to last
}

// Run watches the process until ctx ends, and logs long standstills.
func (p *Pulse) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(pulseInterval)
	defer tick.Stop()
	var line throttle.Gate
	var times int // long standstills since the last log line
	var unlogged time.Duration
	for {
		if d := p.beat(time.Now()); d >= longStandstill {
			times++
			unlogged += d
		}
		if times > 0 && line.Pass(time.Now(), standstillLogInterval) > 0 {
			log.Warn("this process stood still; calls that failed meanwhile are made again and count as no failure",
				"for", unlogged.Round(time.Millisecond), "times", times)
			times, unlogged = 0, 0
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// beat notes that the process runs at now. It returns for how long the process stood
// still before now; 0 if it did not.
func (p *Pulse) beat(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.since(now)
	p.paused += d
	p.last = now
	return d
}

// since returns for how long the process stood still between last and now. The caller
// holds mu.
func (p *Pulse) since(now time.Time) time.Duration {
	if d := now.Sub(p.last) - pulseInterval; !p.last.IsZero() && d > pulseSlack {
		return d
	}
	return 0
}

// SetPaused makes total the sum of all standstills so far. Only tests of other packages
// call it, in the place of Run.
func (p *Pulse) SetPaused(total time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = total
}

// Paused returns for how long the process has stood still since Run began. It counts
// a standstill that has just ended also before Run notes it: the goroutine of the
// caller may run first.
func (p *Pulse) Paused() time.Duration {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paused + p.since(time.Now())
}
