package pollertest

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/event"
)

// answers is an upstream's answer that a test changes.
type Answers struct{ atomic.Pointer[string] }

func (a *Answers) Set(s string) { a.Store(&s) }

func (a *Answers) Answer(context.Context, string, string) (string, error) { return *a.Load(), nil }

const Patience = 15 * time.Second

func Show(m bus.Message) string {
	data, _ := json.Marshal(struct {
		E *event.Event     `json:",omitempty"`
		F *event.Freshness `json:",omitempty"`
		B *event.Breaker   `json:",omitempty"`
	}{m.Event, m.Fresh, m.Breaker})
	return string(data)
}

// logLines collects log lines.
type LogLines struct {
	mu sync.Mutex
	b  strings.Builder
	On func(line string) // or nil; whoever logs waits for it
}

func (l *LogLines) Write(p []byte) (int, error) {
	if l.On != nil {
		l.On(string(p))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *LogLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(Patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}
