package jsonrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/sourcetest"
	"github.com/pollcast/pollcast/services/poller/source/web"
)

type batchCall struct {
	ID     int    `json:"id"`
	Method string `json:"method"`
}

// batchServer answers single calls with their method and gives batches to h. It
// counts both. With h nil it does not answer.
func batchServer(t *testing.T, h func(w http.ResponseWriter, calls []batchCall)) (url string, single,
	batches *atomic.Int64) {
	single, batches = new(atomic.Int64), new(atomic.Int64)
	return sourcetest.Serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !bytes.HasPrefix(body, []byte("[")) {
			var c batchCall
			_ = json.Unmarshal(body, &c)
			single.Add(1)
			_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%d,"result":%q}`, c.ID, c.Method)
			return
		}
		var calls []batchCall
		if err := json.Unmarshal(body, &calls); err != nil {
			t.Error(err)
		}
		batches.Add(1)
		if h == nil {
			<-r.Context().Done()
			return
		}
		h(w, calls)
	}), single, batches
}

func results(calls []batchCall) string {
	var all []string
	for _, c := range slices.Backward(calls) { // in any order
		all = append(all, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":%q}`, c.ID, c.Method))
	}
	return "[" + strings.Join(all, ",") + "]"
}

// askAll makes n calls at once, m0, m1, ...
func askAll(t *testing.T, call source.Func, n int, allowed time.Duration) ([]string, []*source.Failure) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), allowed)
	defer cancel()
	values, failures := make([]string, n), make([]*source.Failure, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			v, err := call(ctx, source.Call{Method: fmt.Sprint("m", i)})
			if err != nil {
				f, ok := errors.AsType[*source.Failure](err)
				if !ok {
					t.Errorf("call %d: %v", i, err)
				}
				failures[i] = f
			}
			values[i] = string(v)
		})
	}
	wg.Wait()
	return values, failures
}

func openBatch(t *testing.T, url string) (source.Func, *atomic.Int64) {
	notices := new(atomic.Int64)
	return openAt(t, url, func(e *source.Endpoint) {
		e.Batch, e.Notice = true, func(string, ...any) { notices.Add(1) }
	}), notices
}

func TestBatch(t *testing.T) {
	url, single, batches := batchServer(t, func(w http.ResponseWriter, calls []batchCall) {
		_,
			_ = io.WriteString(w, results(calls))
	})
	call, notices := openBatch(t, url)
	const n = 2*maxBatch + 30
	values, failures := askAll(t, call, n, 20*time.Second)
	for i, v := range values {
		if failures[i] != nil || v != fmt.Sprintf(`"m%d"`, i) {
			t.Errorf("call %d: %s, %v", i, v, failures[i])
		}
	}
	// How many calls share a batch depends on the machine. Each batch holds at
	// least two.
	if have := batches.Load(); have < 3 || have+single.Load() > n/2 {
		t.Errorf("%d batches and %d single calls for %d calls", have, single.Load(), n)
	}
	before := batches.Load()
	if v, err := ask(t, call); err != nil || v != `"m"` || batches.Load() != before {
		t.Errorf("a call alone: %s, %v, %d batches", v, err, batches.Load()-before)
	}
	if notices.Load() != 0 {
		t.Error("a notice about nothing")
	}
}

// TestBatchParts checks that every call gets its own outcome.
func TestBatchParts(t *testing.T) {
	p := &batch{}
	a := &web.Answer{Status: 200, Body: []byte(`[
		{"jsonrpc":"2.0","id":3,"error":{"code":-32000,"message":"busy"}}, 17,
		{"jsonrpc":"2.0","id":1,"result":"a"}, {"jsonrpc":"2.0","id":99,"result":"stray"},
		{"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"no such method"}},
		{"jsonrpc":"2.0","id":5,"result":"` + strings.Repeat("x", 100) + `"}]`)}
	answers, refused := batchAnswers(a)
	if refused {
		t.Fatal("refused")
	}
	b := &batcher{upstream: &upstream{Client: web.New(source.Endpoint{MaxAnswer: 100})}}
	for id, want := range map[uint64]string{
		1: `"a"`, 2: "request_rejected: JSON-RPC error -32601: no such method",
		3: "upstream_error: JSON-RPC error -32000: busy",
		4: "bad_response: answer to the batch lacks id 4", 5: "bad_response: answer is longer than 100 bytes",
	} {
		o := b.pick(a, answers, &member{id: id, batch: p})
		have := string(o.value)
		if o.err != nil {
			have = o.err.Error()
		}
		if have != want {
			t.Errorf("call %d: %s, want %s", id, have, want)
		}
	}
}

func TestBatchRefused(t *testing.T) {
	reply := func(status int, body string) func(http.ResponseWriter, []batchCall) {
		return func(w http.ResponseWriter, _ []batchCall) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, h := range map[string]func(http.ResponseWriter, []batchCall){
		"object": reply(200, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batches are not `+
			`supported"}}`),
		"one answer": reply(200, `{"jsonrpc":"2.0","id":1,"result":1}`),
		"401":        reply(401, ""), "403": reply(403,
			`{"jsonrpc":"2.0","error":{"code":-32403,"message":"batches are for paid plans"}}`), "404": reply(404, ""),
		"400": reply(400, ""), "413": reply(413, ""), "501": reply(501, "<html>"),
		"all invalid": func(w http.ResponseWriter, calls []batchCall) {
			_, _ = io.WriteString(w, `[{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batch too large"}}]`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, single, batches := batchServer(t, h)
			call, notices := openBatch(t, url)
			const n = 8
			var first int64 // batches before the refusal was remembered
			for range 3 {
				first = max(first, batches.Load())
				values, failures := askAll(t, call, n, 20*time.Second)
				for i, v := range values {
					if failures[i] != nil || v != fmt.Sprintf(`"m%d"`, i) {
						t.Errorf("call %d: %s, %v", i, v, failures[i])
					}
				}
			}
			// Several batches may have been sent before the first refusal.
			if have := batches.Load(); have < 1 || have > n/2 || have != first || single.Load() != 3*n ||
				notices.Load() != have {
				t.Errorf("%d batches, %d at first, %d single calls, %d notices", have, first, single.Load(), notices.Load())
			}
		})
	}
}

// An upstream that rejects batches and single calls alike is not asked twice for
// each call, until it answers a batch again.
func TestBatchRejectedAsAll(t *testing.T) {
	for _, status := range []int{401, 403, 404} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			var single, batches atomic.Int64
			var well atomic.Bool
			url := sourcetest.Serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				var calls []batchCall
				if err := json.Unmarshal(body, &calls); err != nil {
					single.Add(1)
				} else {
					batches.Add(1)
				}
				if !well.Load() {
					w.WriteHeader(status)
					return
				}
				_, _ = io.WriteString(w, results(calls))
			})
			call, notices := openBatch(t, url)
			// A call may come too late for its batch. The test counts calls of
			// batches.
			round := func() (singly int64) {
				before, had := single.Load(), batches.Load()
				_, failures := askAll(t, call, 8, 20*time.Second)
				for i, f := range failures {
					if !well.Load() && (f == nil || f.Reason != event.RequestRejected ||
						!strings.Contains(f.Detail, fmt.Sprint("HTTP ", status))) {
						t.Errorf("call %d: %v", i, f)
					}
				}
				if batches.Load() == had {
					t.Error("no batch was tried")
				}
				return single.Load() - before
			}
			if n := round(); n != 8 {
				t.Errorf("%d single calls the first time, want 8", n)
			}
			if n := round(); n > 4 {
				t.Errorf("%d single calls the second time", n)
			}
			well.Store(true)
			round()
			well.Store(false)
			if n := round(); n != 8 {
				t.Errorf("%d single calls after the upstream was well, want 8", n)
			}
			if notices.Load() != 0 {
				t.Errorf("%d notices", notices.Load())
			}
		})
	}
}

// A failed request is one failure of the upstream, however many calls it held.
func TestBatchFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		h      func(http.ResponseWriter, []batchCall)
		reason event.Reason
	}{
		{"503", func(w http.ResponseWriter, _ []batchCall) { w.WriteHeader(503) }, event.UpstreamError},
		{"429", func(w http.ResponseWriter, _ []batchCall) { w.WriteHeader(429) }, event.UpstreamError},
		{"HTML", func(w http.ResponseWriter, _ []batchCall) { _, _ = io.WriteString(w, "<html>") }, event.BadResponse},
		{"empty", func(http.ResponseWriter, []batchCall) {}, event.BadResponse},
		{"odd object", func(w http.ResponseWriter, _ []batchCall) { _, _ = io.WriteString(w, `{"ok":true}`) },
			event.BadResponse},
		{"hang", nil, event.Timeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url, single, batches := batchServer(t, tt.h)
			call, notices := openBatch(t, url)
			allowed := 20 * time.Second
			if tt.reason == event.Timeout {
				allowed = 300 * time.Millisecond
			}
			_, failures := askAll(t, call, 8, allowed)
			first := 0
			for i, f := range failures {
				if f == nil { // the call came too late for the batch
					continue
				}
				if f.Reason != tt.reason || !f.Counts {
					t.Errorf("call %d: %v", i, f)
				}
				if !f.Again {
					first++
				}
			}
			if int64(first) != batches.Load() || first == 0 || notices.Load() != 0 {
				t.Errorf("%d failures count for %d batches and %d single calls; %d notices", first, batches.Load(), single.Load(),
					notices.Load())
			}
		})
	}
}

func TestBatchCancelled(t *testing.T) {
	url, _, batches := batchServer(t, nil)
	call, _ := openBatch(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := call(ctx, source.Call{Method: "m"}); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want the cancellation", err)
			}
		})
	}
	for limit := time.Now().Add(20 * time.Second); batches.Load() == 0 && time.Now().Before(limit); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	wg.Wait()
}
