package clock

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/pollcast/pollcast/pkg/throttle"
)

// A process may stand still: stopped by a signal, moved to another machine,
// without a processor because others take it all. Then all calls that are under
// way fail at once, in time that nobody had, and five of them would open the
// circuit of an upstream that had answered. Such a failure says nothing of it:
// the call counts as if it had not been made, and the poll asks again. Once: a
// failure in the next tick counts, whatever the process did meanwhile.

const (
	// pulseBeat is how often the process is seen to run.
	pulseBeat = 50 * time.Millisecond
	// pulseSlack is how late that may be; anything longer is a standstill.
	pulseSlack = 20 * time.Millisecond
	// A standstill that is longer is in the log, which has a line of them in
	// pulseSaid at most.
	pulseLong, pulseSaid = 500 * time.Millisecond, 30 * time.Second
)

// pulse measures for how long the process stood still. A nil pulse says never.
type Pulse struct {
	Mu    sync.Mutex
	last  time.Time     // when the process was last seen to run; zero before run
	Still time.Duration // all standstills until then
}

// run watches until ctx ends.
func (p *Pulse) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(pulseBeat)
	defer tick.Stop()
	var line throttle.Gate
	var times int
	var unsaid time.Duration
	for {
		if d := p.beat(time.Now()); d >= pulseLong {
			times++
			unsaid += d
		}
		if times > 0 && line.Pass(time.Now(), pulseSaid) > 0 {
			log.Warn("this process stood still; calls that failed meanwhile are made again and count as no failure", "for", unsaid.Round(time.Millisecond), "times", times)
			times, unsaid = 0, 0
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// beat notes that the process runs at now, and returns for how long it did not.
func (p *Pulse) beat(now time.Time) time.Duration {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	d := p.since(now)
	p.Still += d
	p.last = now
	return d
}

// since is for how long the process stood still after it was last seen to run.
func (p *Pulse) since(now time.Time) time.Duration {
	if d := now.Sub(p.last) - pulseBeat; !p.last.IsZero() && d > pulseSlack {
		return d
	}
	return 0
}

// stood is for how long the process has stood still in all. It knows of a
// standstill that ended just now: whoever asks may run before the beat.
func (p *Pulse) Stood() time.Duration {
	if p == nil {
		return 0
	}
	p.Mu.Lock()
	defer p.Mu.Unlock()
	return p.Still + p.since(time.Now())
}
