package poller

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
)

// What many polls cost, beside what asking alone costs: bare GETs of the same
// bodies, as often, in the same process and run.
//
//	go test -run '^$' -bench Scale -benchtime 1x ./services/poller
//	SCALE_FOR=10m go test -run '^$' -bench 'Scale/5000' -benchtime 1x -timeout 30m ./services/poller
//
// cpu-ratio is the poller's CPU over that of the GETs; cores and rss-MB are the
// poller's; late-p99 and late-max say how long after its slot a poll's request
// reached the upstream, in percent of the interval. first-max is when the last
// poll had its first answer, in intervals; herd is the fullest 10 ms of the
// first interval over the mean. With a maxAge of 3 s, the default, every poll
// publishes a renewal each second, with 30 s one in ten seconds.
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
	}{{1000, 3 * time.Second}, {1000, 30 * time.Second}, {5000, 3 * time.Second}} {
		b.Run(fmt.Sprintf("%d polls a second, maxAge %v", row.polls, row.maxAge), func(b *testing.B) {
			child := startScaleChild(b)
			for range b.N {
				scale(b, child, row.polls, row.maxAge, lasts)
			}
		})
	}
}

func scale(b *testing.B, child childReady, polls int, maxAge, lasts time.Duration) {
	const sources = 50
	const interval = time.Second
	c := Config{Sources: map[string]Source{}}
	slots := map[string]schedule{} // by path
	for s := range sources {
		name := fmt.Sprintf("s%d", s)
		src := Source{Driver: "http", Upstreams: []string{child.Upstream}, Polls: map[string]Poll{}}
		for p := range polls / sources {
			poll, path := fmt.Sprintf("p%d", p), fmt.Sprintf("/%s/p%d", name, p)
			src.Polls[poll] = Poll{Interval: interval, MaxAge: maxAge, Path: path}
			slots[path] = newSchedule(name+"."+poll, interval)
		}
		c.Sources[name] = src
	}

	base := bareGets(b, child, slots, min(lasts, 10*time.Second))
	child.told(b)

	nats := bus.DefaultConfig()
	nats.URL = child.NATS
	p := run(b, c, nats)
	for p.Ready() != nil {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	first := map[string][]int64{}
	for len(first) < polls {
		if time.Since(began) > 30*interval {
			b.Fatalf("%d of %d polls were not asked for within 30 intervals: is the machine busy?", polls-len(first), polls)
		}
		time.Sleep(interval)
		for path, at := range child.told(b) {
			first[path] = append(first[path], at...)
		}
	}
	start(b, first, began, interval)
	from, at := cpu(b), time.Now()
	var late []float64
	var rss []float64
	for time.Since(at) < lasts {
		time.Sleep(min(15*time.Second, max(0, lasts-time.Since(at))+interval))
		late = append(late, lateness(b, child.told(b), slots, interval)...)
		rss = append(rss, rssMB(b))
	}
	took := time.Since(at)
	used := float64(cpu(b)-from) / float64(took)
	p.stop()
	base = (base + bareGets(b, child, slots, min(lasts, 10*time.Second))) / 2 // other processes come and go

	slices.Sort(late)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(used, "cores")
	b.ReportMetric(used/base, "cpu-ratio")
	b.ReportMetric(late[len(late)*99/100], "late-p99-%")
	b.ReportMetric(late[len(late)-1], "late-max-%")
	b.ReportMetric(rss[len(rss)-1], "rss-MB")
	if len(rss) > 3 {
		b.ReportMetric(rss[len(rss)-1]-rss[0], "rss-growth-MB")
	}
	b.ReportMetric(float64(len(late))/took.Seconds(), "polls/s")
}

// bareGets asks for every path once an interval, and returns the cores it takes.
func bareGets(b *testing.B, child childReady, slots map[string]schedule, lasts time.Duration) float64 {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 100
	client := &http.Client{Transport: t}
	defer t.CloseIdleConnections()
	var wg sync.WaitGroup
	from, at := cpu(b), time.Now()
	for path, s := range slots {
		wg.Go(func() {
			for slot := s.next(at); slot.Before(at.Add(lasts)); slot = slot.Add(s.interval) {
				time.Sleep(time.Until(slot))
				res, err := client.Get(child.Upstream + path)
				if err != nil {
					b.Errorf("bare GET: %v", err)
					return
				}
				_, err = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if err != nil {
					b.Errorf("bare GET: %v", err)
				}
			}
		})
	}
	wg.Wait()
	return float64(cpu(b)-from) / float64(time.Since(at))
}

// start reports how the first polls came.
func start(b *testing.B, at map[string][]int64, began time.Time, interval time.Duration) {
	b.Helper()
	bins := map[int64]int{}
	last := int64(0)
	for _, times := range at {
		last = max(last, times[0])
		if d := times[0] - began.UnixMicro(); d < interval.Microseconds() {
			bins[d/10_000]++
		}
	}
	b.ReportMetric(float64(last-began.UnixMicro())/float64(interval.Microseconds()), "first-max")
	total := 0
	for n := range maps.Values(bins) {
		total += n
	}
	b.ReportMetric(float64(slices.Max(slices.Collect(maps.Values(bins))))/(float64(total)/100), "herd")
}

// lateness is how long after its slot each request came, in percent of the
// interval.
func lateness(b *testing.B, at map[string][]int64, slots map[string]schedule, interval time.Duration) []float64 {
	b.Helper()
	var late []float64
	for path, s := range slots {
		if len(at[path]) == 0 {
			b.Fatalf("%s was not asked for", path)
		}
		for _, us := range at[path] {
			slot := s.next(time.UnixMicro(us).Add(-interval))
			late = append(late, 100*float64(time.UnixMicro(us).Sub(slot))/float64(interval))
		}
	}
	return late
}

func rssMB(b *testing.B) float64 {
	b.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	var kb float64
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		b.Fatal(err)
	}
	return kb / 1024
}
