package poller

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"github.com/pollcast/pollcast/services/poller/pollertest"
)

// Polls of one interval go out together, and a batch that fails is one failure
// for the circuit.
func TestBatchedPolls(t *testing.T) {
	s := bustest.Start(t)
	var batched, failed atomic.Int64
	var broken atomic.Bool
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if broken.Load() {
			failed.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		type call struct {
			ID     int
			Method string
		}
		answer := func(c call) string { return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":%q}`, c.ID, c.Method) }
		if !bytes.HasPrefix(body, []byte("[")) {
			var c call
			_ = json.Unmarshal(body, &c)
			_, _ = io.WriteString(w, answer(c))
			return
		}
		var calls []call
		_ = json.Unmarshal(body, &calls)
		batched.Add(int64(len(calls)))
		var all []string
		for _, c := range calls {
			all = append(all, answer(c))
		}
		_, _ = io.WriteString(w, "["+strings.Join(all, ",")+"]")
	}))
	t.Cleanup(u.Close)
	const n = 10
	polls := map[string]config.Poll{}
	for i := range n {
		polls[fmt.Sprint("p", i)] = config.Poll{Interval: 200 * time.Millisecond, Method: fmt.Sprint("m", i)}
	}
	w := watch(t, s)
	run(t, config.Config{Sources: map[string]config.Source{"s": {
		Upstreams: []string{u.URL}, Batch: true, Breaker: config.Breaker{Failures: 5, OpenFor: time.Hour}, Polls: polls,
	}}}, s.Config())
	seen := map[string]bool{}
	w.until("all values", func(m bus.Message) bool {
		if e := m.Event; e != nil {
			seen[e.Topic] = true
			if want := `"` + strings.Replace(strings.TrimPrefix(e.Topic, "s."), "p", "m", 1) + `"`; string(e.Data) != want {
				t.Errorf("%s is %s, want %s", e.Topic, e.Data, want)
			}
		}
		return len(seen) == n
	})
	pollertest.Eventually(t, "batches", func() bool { return batched.Load() > 10*n })
	broken.Store(true)
	open := w.until("open", func(m bus.Message) bool { return m.Breaker != nil && m.Breaker.To == event.Open }).Breaker
	if open.Failures != 5 || failed.Load() < 5 {
		t.Errorf("opened by %d failures after %d failed requests, want 5 of each", open.Failures, failed.Load())
	}
}
