package poller

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/services/poller/config"
)

// What many polls cost, beside what asking alone costs: bare GETs of the same
// bodies, as often, in the same process and run, with a client for each source as
// the poller has one.
//
//	go test -run '^$' -bench Scale -benchtime 1x ./services/poller
//	SCALE_FOR=10m go test -run '^$' -bench 'Scale/5000' -benchtime 1x -timeout 30m ./services/poller
//	SCALE_PROFILE=/tmp/p go test ... writes /tmp/p.cpu, .heap and .goroutines of a row's last round
//
// Where CPU is compared, bare GETs at their slots, polling, and bare GETs on the
// polls' beats take turns of ten seconds, so that what else the machine does hits
// all. cpu-ratio is that of polling to the first, the median of the rounds, with
// the lowest and the highest, cpu-ratio-beats that to the last; us/poll, us/GET and
// us/GET-beats are CPU time. cores, rss-MB (the median of looks 5 s apart, and the
// highest) and goroutines are the poller's; late-p99 and late-max say how long
// after its slot a poll's request reached the upstream, in percent of the interval,
// and late>10% how many of a hundred came after a tenth of it; ticker-late-max is
// how late a process was that does nothing but wait; fewest is how often the poll
// asked least was, over how often it should have been. first-max is when the last
// poll had its first answer, in intervals; herd is the fullest 10 ms of the first
// interval over the mean. With a maxAge of 3 s, the default, every poll publishes
// a renewal each second, with 30 s one in ten seconds.
func BenchmarkScale(b *testing.B) {
	lasts := 15 * time.Second
	if s := os.Getenv("SCALE_FOR"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			b.Fatalf("SCALE_FOR: %v", err)
		}
		lasts = d
	}
	for _, row := range []struct {
		polls  int
		maxAge time.Duration
		rounds int // beside bare GETs; 0: alone, for long
	}{{1000, 3 * time.Second, 5}, {1000, 30 * time.Second, 5}, {5000, 3 * time.Second, 0}} {
		b.Run(fmt.Sprintf("%d polls a second, maxAge %v", row.polls, row.maxAge), func(b *testing.B) {
			s := newScale(b, row.polls, row.maxAge)
			for range b.N {
				b.ReportMetric(0, "ns/op")
				if row.rounds > 0 {
					s.compare(row.rounds)
				} else {
					s.alone(lasts)
				}
			}
		})
	}
}

// scale is the polls of a row and whom they ask.
type scale struct {
	b      *testing.B
	child  childReady
	config config.Config
	slots  map[string]config.Schedule // by path
}

const (
	scaleSources  = 50
	scaleInterval = time.Second
	scaleRound    = 10 * time.Second // in which every value changes once
)

func newScale(b *testing.B, polls int, maxAge time.Duration) *scale {
	s := &scale{b: b, child: childReady{startScaleChild(b, scaleUpstreams), startScaleChild(b, b.TempDir()), startScaleChild(b, ticker)}, config: config.Config{Sources: map[string]config.Source{}}, slots: map[string]config.Schedule{}}
	for n := range scaleSources {
		name := fmt.Sprintf("s%d", n)
		// A machine that stands still for a second shall cost seconds, not minutes.
		src := config.Source{Driver: "http", Upstreams: []string{s.child.Upstream}, Polls: map[string]config.Poll{}, Breaker: config.Breaker{OpenFor: time.Second}}
		for p := range polls / scaleSources {
			poll := fmt.Sprintf("p%d", p)
			src.Polls[poll] = config.Poll{Interval: scaleInterval, MaxAge: maxAge, Path: "/" + name + "/" + poll}
			slot, _ := slotsOf(src.Polls[poll].Path)
			s.slots[src.Polls[poll].Path] = slot
		}
		s.config.Sources[name] = src
	}
	return s
}

// slotsOf is when the poll of a path is due.
func slotsOf(path string) (config.Schedule, bool) {
	source, poll, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return config.NewSchedule(source+"."+poll, scaleInterval), ok
}

// compare polls and makes bare GETs in turns.
func (s *scale) compare(rounds int) {
	clients := map[string]*http.Client{}
	for source := range s.config.Sources {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
		defer client.CloseIdleConnections()
		clients[source] = client
	}
	s.bareGets(clients, false) // the connections
	var polls, gets, meeting, ratios, toMeeting []float64
	for range rounds {
		get := s.bareGets(clients, false)
		p := s.start()
		used := s.measure(scaleRound, func() {})
		p.stop()
		meet := s.bareGets(clients, true)
		polls, gets, meeting = append(polls, used), append(gets, get), append(meeting, meet)
		ratios, toMeeting = append(ratios, used/get), append(toMeeting, used/meet)
	}
	each := 1e6 * scaleInterval.Seconds() / float64(len(s.slots))
	s.b.ReportMetric(median(ratios), "cpu-ratio")
	s.b.ReportMetric(slices.Min(ratios), "cpu-ratio-min")
	s.b.ReportMetric(slices.Max(ratios), "cpu-ratio-max")
	s.b.ReportMetric(median(polls)*each, "us/poll")
	s.b.ReportMetric(median(gets)*each, "us/GET")
	s.b.ReportMetric(median(toMeeting), "cpu-ratio-beats")
	s.b.ReportMetric(median(meeting)*each, "us/GET-beats")
}

// alone polls for long, and looks at memory every now and then.
func (s *scale) alone(lasts time.Duration) {
	debug.FreeOSMemory()
	p := s.start()
	defer p.stop()
	var rss []float64
	used := s.measure(lasts, func() { rss = append(rss, rssMB(s.b)) })
	s.b.ReportMetric(used, "cores")
	s.b.ReportMetric(slices.Max(rss), "rss-max-MB")
	s.b.ReportMetric(median(rss), "rss-MB")
	if n := len(rss) / 4; n > 0 {
		s.b.ReportMetric(mean(rss[len(rss)-n:])-mean(rss[:n]), "rss-growth-MB")
	}
	s.b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
}

// start runs a poller until every poll has asked and a maxAge or two have passed,
// so that no round begins in the middle of that.
func (s *scale) start() *running {
	nats := bus.DefaultConfig()
	nats.URL = s.child.NATS
	s.child.seen(s.b)
	p := run(s.b, s.config, nats)
	for p.Ready() != nil {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	for {
		time.Sleep(scaleInterval / 4)
		seen := s.child.look(s.b)
		if seen.Paths == len(s.slots) {
			first, herd := seen.start(began)
			s.b.ReportMetric(first, "first-max")
			s.b.ReportMetric(herd, "herd")
			break
		}
		if time.Since(began) > 30*scaleInterval {
			s.b.Fatalf("%d of %d polls were not asked for within 30 intervals: is the machine busy?", len(s.slots)-seen.Paths, len(s.slots))
		}
	}
	time.Sleep(2 * scaleInterval)
	return p
}

// measure returns the cores that this process uses, and calls look every 15 s or
// so. What the upstreams saw it reports.
func (s *scale) measure(lasts time.Duration, look func()) float64 {
	s.child.seen(s.b)
	s.child.stalled(s.b)
	stop := profile(s.b)
	from, at := cpu(s.b), time.Now()
	for left := lasts; left > 0; left = lasts - time.Since(at) {
		time.Sleep(min(5*time.Second, left))
		look()
	}
	used, took := cpu(s.b)-from, time.Since(at)
	stop()
	seen := s.child.seen(s.b)
	s.b.ReportMetric(s.child.stalled(s.b), "ticker-late-max-%")
	s.b.ReportMetric(seen.late(0.99), "late-p99-%")
	s.b.ReportMetric(seen.late(1), "late-max-%")
	s.b.ReportMetric(100*seen.later(10), "late>10%-%")
	s.b.ReportMetric(float64(seen.Asked)/took.Seconds(), "polls/s")
	s.b.ReportMetric(float64(seen.Fewest)/(took.Seconds()/scaleInterval.Seconds()), "fewest")
	return float64(used) / float64(took)
}

// bareGets asks for every path once an interval, and returns the cores it takes.
// On beats those that are due about the same time ask at the same time, as polls
// do.
func (s *scale) bareGets(clients map[string]*http.Client, onBeats bool) float64 {
	var wg sync.WaitGroup
	from, at := cpu(s.b), time.Now()
	for path, slots := range s.slots {
		source, _, _ := strings.Cut(path[1:], "/")
		client := clients[source]
		wg.Go(func() {
			for slot := slots.Next(at); slot.Before(at.Add(scaleRound)); slot = slot.Add(slots.Interval) {
				due := slot
				if onBeats {
					due = slot.Add(slots.Delay(slot))
				}
				time.Sleep(time.Until(due))
				res, err := client.Get(s.child.Upstream + path)
				if err != nil {
					s.b.Errorf("bare GET: %v", err)
					return
				}
				_, err = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if err != nil {
					s.b.Errorf("bare GET: %v", err)
				}
			}
		})
	}
	wg.Wait()
	return float64(cpu(s.b)-from) / float64(time.Since(at))
}

// profile writes profiles if SCALE_PROFILE says where.
func profile(b *testing.B) (stop func()) {
	path := os.Getenv("SCALE_PROFILE")
	if path == "" {
		return func() {}
	}
	create := func(kind string) *os.File {
		f, err := os.Create(path + "." + kind)
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	used := create("cpu")
	if err := pprof.StartCPUProfile(used); err != nil {
		b.Fatal(err)
	}
	return func() {
		pprof.StopCPUProfile()
		used.Close()
		for kind, name := range map[string]string{"heap": "heap", "goroutines": "goroutine"} {
			f := create(kind)
			if err := pprof.Lookup(name).WriteTo(f, 0); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	}
}

func median(all []float64) float64 { return slices.Sorted(slices.Values(all))[len(all)/2] }

func mean(all []float64) (sum float64) {
	for _, v := range all {
		sum += v / float64(len(all))
	}
	return sum
}
