package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPollersTakenAway stops three pollers at random for a short while.
// TestChaosPollers does the same for long.
func TestPollersTakenAway(t *testing.T) {
	t.Parallel()
	newPollerChaos(t).run(12 * time.Second)
}

const (
	chaosSources  = 12
	chaosInterval = 250 * time.Millisecond
)

// pollerChaos is three pollers, each with its own network to NATS. It breaks and
// mends them.
type pollerChaos struct {
	*testing.T
	rng   *rand.Rand
	stack *stack
	book  *callbook
	live  *liveLog
	sites []*site
	all   []*service // also the ended ones
	begun time.Time
	at    []time.Time // when something was broken
	log   []string
	slow  bool // the file holds the slower of two configurations
}

// site is the place of a poller: its network and its present process.
type site struct {
	name   string
	net    *proxy
	poller *service
	mend   func()    // undoes what was broken; nil while nothing is
	mendAt time.Time // when it is called
}

// newPollerChaos starts everything.
func newPollerChaos(t *testing.T) *pollerChaos {
	t.Helper()
	r := &pollerChaos{T: t, rng: rand.New(rand.NewPCG(chaosSeed(t), 3)), book: newCallbook(t)}
	r.stack = newStack(t, r.sources())
	r.stack.nats.start()
	r.live = listenAll(t, r.stack.nats)
	for i := range 3 {
		p := &site{name: fmt.Sprint("poller ", i+1), net: newProxy(t, r.stack.nats.addr)}
		p.poller = r.newPoller(p)
		r.sites = append(r.sites, p)
	}
	t.Cleanup(r.keepLogs)
	return r
}

func (r *pollerChaos) sources() string {
	timeout := 200 * time.Millisecond
	if r.slow {
		timeout -= 10 * time.Millisecond
	}
	var b strings.Builder
	for i := range chaosSources {
		fmt.Fprintf(&b, "    s%02[1]d:\n      upstreams: [\"http://%[2]s/\"]\n      polls:\n        value: {method: "+
			"s%02[1]d, interval: %[3]v, timeout: %[4]v}\n",
			i, r.book.addr, chaosInterval, timeout)
	}
	return b.String()
}

func (r *pollerChaos) newPoller(p *site) *service {
	v := r.stack.poller("nats.url=nats://"+p.net.addr, "log.level=debug")
	r.all = append(r.all, v)
	return v
}

// keepLogs writes a failed test's actions, and the pollers' logs, to files.
func (r *pollerChaos) keepLogs() {
	if !r.Failed() {
		return
	}
	r.Logf("what was done:\n%s", strings.Join(r.log, "\n"))
	dir, err := os.MkdirTemp("", "pollcast-chaos-")
	if err != nil {
		r.Log(err)
		return
	}
	for i, v := range r.all {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("poller-%d.log", i)), []byte(v.logs()), 0o600); err != nil {
			r.Log(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "done.log"),
		[]byte(r.begun.Format(time.RFC3339Nano)+"\n"+strings.Join(r.log, "\n")), 0o600); err != nil {
		r.Log(err)
	}
	r.Logf("everything they wrote is kept in %s", dir)
}

func (r *pollerChaos) note(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf("%8.3fs  %s", time.Since(r.begun).Seconds(), fmt.Sprintf(format, args...)))
}

// run breaks and mends for a while, and then checks the result.
func (r *pollerChaos) run(length time.Duration) {
	r.begun = time.Now()
	for _, p := range r.sites {
		p.poller.ready()
	}
	r.wantOwners("in the beginning")
	for end := time.Now().Add(length); time.Now().Before(end); {
		pause := time.Duration(200+r.rng.IntN(2500)) * time.Millisecond
		r.breakOne()
		for until := time.Now().Add(pause); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
			r.mendDue(time.Now())
		}
	}
	r.mendDue(time.Now().Add(time.Hour))
	r.wantOwners("in the end")
	settled := time.Now()
	r.wantShares(4, 4, 4)
	r.note("the shares are even")
	r.Logf("%d times something was broken; even shares %v after the end", len(r.at),
		time.Since(settled).Round(100*time.Millisecond))
	r.judge()
}

func (r *pollerChaos) mendDue(now time.Time) {
	for _, p := range r.sites {
		if p.mend != nil && now.After(p.mendAt) {
			p.mend()
			p.mend = nil
			p.poller.ready()
			r.note("%s is well", p.name)
		}
	}
}

// breakOne breaks one poller, unless it is the last one that works.
func (r *pollerChaos) breakOne() {
	var well []*site
	for _, p := range r.sites {
		if p.mend == nil {
			well = append(well, p)
		}
	}
	if len(well) < 2 {
		return
	}
	p := well[r.rng.IntN(len(well))]
	d := time.Duration(200+r.rng.IntN(5000)) * time.Millisecond // the lease time is 2 s
	restart := func() { p.poller = r.newPoller(p) }
	what := ""
	switch r.rng.IntN(6) {
	case 0:
		what = "is killed"
		p.poller.kill()
		p.mend = restart
	case 1:
		what = "is frozen"
		p.poller.signal(syscall.SIGSTOP)
		p.mend = func() { p.poller.signal(syscall.SIGCONT) }
	case 2:
		what = "is stopped"
		if code := p.poller.end(syscall.SIGTERM); code != 0 {
			r.Errorf("%s ended with exit code %d", p.name, code)
		}
		p.mend = restart
	case 3:
		what = "receives nothing and sends nothing"
		p.net.hold()
		p.mend = p.net.let
	case 4:
		what = "is cut off"
		p.net.sever()
		p.mend = p.net.let
	default:
		r.slow = !r.slow
		r.stack.rewrite(r.sources())
		p.poller.signal(syscall.SIGHUP)
		r.at = append(r.at, time.Now())
		r.note("%s reloads", p.name)
		return
	}
	p.mendAt = time.Now().Add(d)
	r.at = append(r.at, time.Now())
	r.note("%s %s for %v", p.name, what, d)
}

// owned returns the number of sources that each poller holds.
func (r *pollerChaos) owned() (all []int) {
	for _, p := range r.sites {
		n := 0
		for _, s := range p.poller.status().Sources {
			if s.Owned {
				n++
			}
		}
		all = append(all, n)
	}
	return all
}

// wantOwners waits until each source has a lease holder.
func (r *pollerChaos) wantOwners(when string) {
	r.Helper()
	eventually(r, "every source is owned "+when, func() error {
		sum := 0
		for _, n := range r.owned() {
			sum += n
		}
		if sum != chaosSources {
			return fmt.Errorf("%d of %d are", sum, chaosSources)
		}
		return nil
	})
}

func (r *pollerChaos) wantShares(want ...int) {
	r.Helper()
	eventually(r, "the shares are even", func() error {
		if have := r.owned(); !slices.Equal(have, want) {
			return fmt.Errorf("they are %v", have)
		}
		return nil
	})
}

// judge compares the upstream's own record, the stream and a subscriber's events
// with the contract.
func (r *pollerChaos) judge() {
	for _, p := range r.sites { // nothing more must be published
		if code := p.poller.end(syscall.SIGTERM); code != 0 {
			r.Errorf("%s ended with exit code %d", p.name, code)
		}
	}
	stream := readStream(r, r.stack.nats)
	calls, events, moves := 0, 0, 0
	for i := range chaosSources {
		method := fmt.Sprintf("s%02d", i)
		topic := method + ".value"
		record := stream[topic]
		if record == nil || len(record.events) == 0 {
			r.Errorf("%s: nothing in the stream", topic)
			continue
		}
		asked := r.book.of(method)
		calls, events, moves = calls+len(asked), events+len(record.events), moves+len(record.fences)
		if n := extras(asked, chaosInterval); n > len(record.fences) {
			r.Errorf("%s was asked %d times beyond one a slot, with %d tenures", topic, n, len(record.fences))
		}
		gap, from := longest(asked)
		broken := 1
		for _, at := range r.at {
			if at.After(from.Add(-2*leaseTime)) && at.Before(from.Add(gap)) {
				broken++
			}
		}
		if gap > time.Duration(broken)*2*leaseTime {
			r.Errorf("%s was not asked for %v, %.3fs after the start", topic, gap, from.Sub(r.begun).Seconds())
		}
		last := 0
		for j, e := range record.events {
			var value int
			if err := json.Unmarshal([]byte(e.data), &value); err != nil || value <= last {
				r.Errorf("%s: value %s after %d: a late answer overwrote a newer one", topic, e.data, last)
			}
			last = value
			if e.version != uint64(j+1) {
				r.Errorf("%s: event %d of the stream has version %d", topic, j+1, e.version)
				break
			}
		}
		seen := r.live.of(topic)
		if len(seen) != len(record.events) {
			r.Errorf("%s: a subscriber saw %d events, the stream has %d", topic, len(seen), len(record.events))
		}
		for j := range min(len(seen), len(record.events)) {
			if seen[j] != record.events[j] {
				r.Errorf("%s: a subscriber saw %+v as event %d, the stream has %+v", topic, seen[j], j+1, record.events[j])
				break
			}
		}
	}
	r.Logf("%d polls, %d events, %d tenures of %d sources in %v", calls, events, moves, chaosSources,
		time.Since(r.begun).Round(time.Second))
	if moves < chaosSources+len(r.at)/2 {
		r.Error("hardly anything moved: the test did not test much")
	}
	if err := r.stack.nats.process.running(); !err {
		r.Error(errors.New("NATS is gone"))
	}
}
