package poller

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/bus"
	"github.com/pollcast/pollcast/pkg/bus/bustest"
	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/config"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// tardy answers every second call only after the caller has given up, with a
// value that nobody may see.
type tardy struct {
	grpc_health_v1.UnimplementedHealthServer
	calls atomic.Int64
	sent  atomic.Int64 // late answers
}

const tardiness = 300 * time.Millisecond

func (u *tardy) late() (n int64, late bool) {
	n = u.calls.Add(1)
	if n%2 == 1 {
		return n, false
	}
	time.Sleep(tardiness)
	u.sent.Add(1)
	return n, true
}

// ServeHTTP answers JSON-RPC, single and in batches.
func (u *tardy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	type call struct{ ID int }
	body, _ := io.ReadAll(r.Body)
	n, late := u.late()
	answer := func(c call) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":{"n":%d,"late":%v}}`, c.ID, n, late)
	}
	var one call
	var many []call
	if json.Unmarshal(body, &one) == nil {
		_, _ = io.WriteString(w, answer(one))
		return
	}
	_ = json.Unmarshal(body, &many)
	var all []string
	for _, c := range many {
		all = append(all, answer(c))
	}
	_, _ = io.WriteString(w, "["+strings.Join(all, ",")+"]")
}

// Check answers gRPC: UNKNOWN is late, which says nobody of a health service.
func (u *tardy) Check(context.Context, *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	n, late := u.late()
	switch {
	case late:
		return &grpc_health_v1.HealthCheckResponse{}, nil
	case n%4 == 1:
		return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_NOT_SERVING}, nil
}

// An answer that comes after its deadline is no answer: it overwrites no newer
// value, confirms nothing, and the poll was stale meanwhile.
func TestLateAnswers(t *testing.T) {
	t.Parallel()
	single, batched, unary := new(tardy), new(tardy), new(tardy)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(g, unary)
	reflection.Register(g)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(ln) })
	t.Cleanup(func() { g.Stop(); serving.Wait() })
	s1, s2 := httptest.NewServer(single), httptest.NewServer(batched)
	t.Cleanup(func() { s1.Close(); s2.Close() })

	poll := config.Poll{Interval: 2 * tardiness, Timeout: tardiness / 2, Method: "m"}
	check := poll
	check.Method = "grpc.health.v1.Health/Check"
	s := bustest.Start(t)
	w := watch(t, s)
	run(t, config.Config{Sources: map[string]config.Source{
		"single":  {Upstreams: []string{s1.URL}, Polls: map[string]config.Poll{"p": poll}},
		"batched": {Upstreams: []string{s2.URL}, Batch: true, Polls: map[string]config.Poll{"p": poll, "q": poll}},
		"unary":   {Driver: "grpc", Upstreams: []string{"grpc://" + ln.Addr().String()}, Polls: map[string]config.Poll{"p": check}},
	}}, s.Config())

	events, timeouts, asOf := map[string]int{}, map[string]int{}, map[string]time.Time{}
	w.until("three values and two timeouts of each poll", func(m bus.Message) bool {
		if e := m.Event; e != nil {
			events[e.Topic]++
			if data := string(e.Data); strings.Contains(data, `"late":true`) || strings.Contains(data, "UNKNOWN") {
				t.Errorf("%s: a late answer became a value: %s", e.Topic, data)
			}
			if e.AsOf.Before(asOf[e.Topic]) {
				t.Errorf("%s: as of went back", e.Topic)
			}
			asOf[e.Topic] = e.AsOf
		}
		if f := m.Fresh; f != nil && f.Stale && f.Reason == event.Timeout {
			timeouts[f.Poll]++
			if f.AsOf.After(asOf[f.Poll]) {
				t.Errorf("%s: a timeout confirmed the value", f.Poll)
			}
		}
		for _, topic := range []string{"single.p", "batched.p", "batched.q", "unary.p"} {
			if events[topic] < 3 || timeouts[topic] < 2 {
				return false
			}
		}
		return true
	})
	for name, u := range map[string]*tardy{"single": single, "batched": batched, "unary": unary} {
		if u.sent.Load() == 0 {
			t.Errorf("%s: nothing was late", name)
		}
	}
}
