package throttle

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestGatePassesOnePerIntervalAndCountsTheOthers(t *testing.T) {
	var g Gate
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, step := range []struct {
		after time.Duration
		want  int
	}{
		{0, 1}, {0, 0}, {10*time.Second - 1, 0}, {10 * time.Second, 3}, {11 * time.Second, 0},
		{5 * time.Second, 2}, // the clock was set back
		{time.Hour, 1},
	} {
		if n := g.Pass(start.Add(step.after), 10*time.Second); n != step.want {
			t.Errorf("step %d: have %d, want %d", i, n, step.want)
		}
	}
}

// stage returns a Logger and a function that returns the lines since its last call.
func stage(level slog.Level, every time.Duration) (*Logger, func() []string) {
	var out bytes.Buffer
	h := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})
	return New(slog.New(h), every), func() []string {
		defer out.Reset()
		return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	}
}

func TestLoggerWritesOneLinePerKeyAndInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, lines := stage(slog.LevelInfo, 30*time.Second)
		l.Warn("a", "cannot store", "n", 1)
		l.Warn("a", "cannot store", "n", 2)
		l.Info("b", "another key")
		l.Error("a", "another line of the same key")
		time.Sleep(30*time.Second - 1)
		l.Warn("a", "cannot store", "n", 3)
		want := []string{`level=WARN msg="cannot store" n=1`, `level=INFO msg="another key"`}
		if have := lines(); !slices.Equal(have, want) {
			t.Errorf("have %q, want %q", have, want)
		}
		time.Sleep(time.Nanosecond)
		l.Warn("a", "cannot store", "n", 4)
		l.Info("b", "another key")
		want = []string{`level=WARN msg="cannot store" n=4 suppressed=3`, `level=INFO msg="another key"`}
		if have := lines(); !slices.Equal(have, want) {
			t.Errorf("have %q, want %q", have, want)
		}
	})
}

func TestLoggerDoesNotCountWhatTheLevelHides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, lines := stage(slog.LevelInfo, time.Minute)
		l.Debug("a", "hidden")
		l.Info("a", "shown")
		if have := lines(); !slices.Equal(have, []string{"level=INFO msg=shown"}) {
			t.Errorf("have %q", have)
		}
	})
}

func TestLoggerBoundsItsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, lines := stage(slog.LevelInfo, time.Minute)
		for i := range maxKeys + 100 {
			l.Info(fmt.Sprint(i), "line")
		}
		if have := len(lines()); have != maxKeys+1 {
			t.Errorf("have %d lines, want %d: one per key, and one for those beyond the bound", have, maxKeys+1)
		}
		time.Sleep(time.Minute)
		l.Info("new", "line")
		if have := len(l.gates); have != 1 {
			t.Errorf("have %d keys after their interval, want the new one only", have)
		}
	})
}

func TestLoggerMayBeUsedByManyGoroutines(t *testing.T) {
	l, lines := stage(slog.LevelInfo, time.Hour)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				l.Info("same", "line")
			}
		})
	}
	wg.Wait()
	if have := lines(); len(have) != 1 {
		t.Errorf("have %d lines, want 1", len(have))
	}
}
