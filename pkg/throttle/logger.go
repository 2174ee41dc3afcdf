package throttle

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// maxKeys bounds the keys of a Logger. At the bound, keys whose interval is over
// are forgotten first. If none is, the keys beyond the bound share one line per
// interval.
const maxKeys = 1000

// Logger writes at most one line per interval and key. The line that follows
// suppressed ones has their number in the attribute "suppressed". It may be used
// by several goroutines.
type Logger struct {
	log   *slog.Logger
	every time.Duration

	mu     sync.Mutex
	gates  map[string]*Gate
	shared Gate // of the keys beyond maxKeys
}

// New returns a Logger that writes to log, one line per interval every and key.
func New(log *slog.Logger, every time.Duration) *Logger {
	return &Logger{log: log, every: every, gates: map[string]*Gate{}}
}

// Debug logs at slog.LevelDebug unless the key was logged within the interval.
func (l *Logger) Debug(key, msg string, args ...any) { l.Log(slog.LevelDebug, key, msg, args...) }

// Info logs at slog.LevelInfo unless the key was logged within the interval.
func (l *Logger) Info(key, msg string, args ...any) { l.Log(slog.LevelInfo, key, msg, args...) }

// Warn logs at slog.LevelWarn unless the key was logged within the interval.
func (l *Logger) Warn(key, msg string, args ...any) { l.Log(slog.LevelWarn, key, msg, args...) }

// Error logs at slog.LevelError unless the key was logged within the interval.
func (l *Logger) Error(key, msg string, args ...any) { l.Log(slog.LevelError, key, msg, args...) }

// Log logs unless the key was logged within the interval. The key is what the
// line is about, such as a poll or a kind of failure. Lines of one key may
// differ; the interval holds for all of them.
func (l *Logger) Log(level slog.Level, key, msg string, args ...any) {
	ctx := context.Background()
	if !l.log.Enabled(ctx, level) {
		return
	}
	now := time.Now()
	n := l.gate(key, now).Pass(now, l.every)
	if n == 0 {
		return
	}
	if n > 1 {
		args = append(args[:len(args):len(args)], "suppressed", n-1)
	}
	l.log.Log(ctx, level, msg, args...)
}

// gate returns the gate of a key.
func (l *Logger) gate(key string, now time.Time) *Gate {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.gates[key]; g != nil {
		return g
	}
	if len(l.gates) >= maxKeys {
		maps.DeleteFunc(l.gates, func(_ string, g *Gate) bool { return !g.closed(now, l.every) })
	}
	if len(l.gates) >= maxKeys {
		return &l.shared
	}
	g := new(Gate)
	l.gates[key] = g
	return g
}
