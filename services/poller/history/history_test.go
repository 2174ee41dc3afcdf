package history

import (
	"log/slog"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/clock"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

func TestAttempts(t *testing.T) {
	t.Parallel()
	var a Attempts
	ups := []string{"http://one", "http://two"}
	start := time.Now()
	if have := a.List(ups); have == nil || len(have) != 0 {
		t.Errorf("of a new poll: %v", have)
	}
	for i := range 60 {
		a.Add(OutcomeOK, start.Add(time.Duration(i)*time.Second), 1500*time.Microsecond, i%2)
	}
	for i := range 1000 { // must not push out what opened the breaker
		a.Add(string(event.BreakerOpen), start.Add(time.Duration(60+i)*time.Second), 0, -1)
	}
	a.Add(string(event.Timeout), start.Add(time.Hour), time.Second, 0)
	have := a.List(ups)
	if len(have) != keptAttempts {
		t.Fatalf("%d attempts, want %d", len(have), keptAttempts)
	}
	if f := have[0]; f.Outcome != "timeout" || f.TookMs != 1000 || f.Upstream != "http://one" || !f.At.Equal(clock.Stamp(start.Add(time.Hour))) {
		t.Errorf("newest: %+v", f)
	}
	if f := have[1]; f.Outcome != "breaker_open" || f.Times != 1000 || f.Upstream != "" || !f.At.Equal(clock.Stamp(start.Add(time.Minute))) {
		t.Errorf("held back: %+v", f)
	}
	if f := have[2]; f.Outcome != "ok" || f.TookMs != 1.5 || f.Upstream != "http://two" || f.Times != 0 {
		t.Errorf("before: %+v", f)
	}
	var next Attempts // of a configuration in which the upstreams changed places
	next.Inherit(&a, func(i int8) int8 { return []int8{1, -1}[max(i, 0)] })
	if f := next.List([]string{ups[1], ups[0]})[0]; f.Upstream != "http://one" {
		t.Errorf("inherited: %+v", f)
	}
	// 5,000 polls need a few megabytes.
	if size := unsafe.Sizeof(a); size > 1300 {
		t.Errorf("%d bytes for each poll", size)
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	var all pollertest.LogLines
	kept := &Lines{Most: 3}
	log := Remember(slog.New(slog.NewTextHandler(&all, &slog.HandlerOptions{Level: slog.LevelWarn})).With("poll", "a.b"), kept)
	log.Debug("not at all")
	for i := range 5 {
		log.Info("line", "i", i)
	}
	log.With("reason", "timeout").Warn(strings.Repeat("ü", lineBytes))
	have := kept.List()
	if len(have) != 3 || !strings.Contains(have[0], "msg=line i=3") || !strings.Contains(have[1], "i=4") || strings.Contains(have[0], "a.b") {
		t.Errorf("kept %q", have)
	}
	if last := have[2]; !strings.Contains(last, "level=WARN") || len(last) > lineBytes+len("…") {
		t.Errorf("a long line: %d bytes", len(last))
	}
	if s := all.String(); strings.Contains(s, "msg=line") || !strings.Contains(s, "poll=a.b reason=timeout") {
		t.Errorf("the log itself: %s", s)
	}
}

func TestTransitions(t *testing.T) {
	t.Parallel()
	var transitions Transitions
	for i := range 30 {
		transitions.Add(event.Breaker{Upstream: "a", Failures: i})
	}
	transitions.Add(event.Breaker{Upstream: "b"})
	have := transitions.Of("a")
	if len(have) != keptTransitions || have[0].Failures != 29 ||
		len(transitions.Of("b")) != 1 || transitions.Of("c") == nil {
		t.Errorf("kept %+v", have)
	}
}
