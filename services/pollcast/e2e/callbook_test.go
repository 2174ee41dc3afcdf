package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// callbook is an upstream that records its calls with their times. Its answer to
// a method is the number of the method's calls, so that each answer is a change.
type callbook struct {
	addr  string
	mu    sync.Mutex
	calls map[string][]time.Time // by method
}

func newCallbook(t testing.TB) *callbook {
	t.Helper()
	b := &callbook{addr: freeAddr(t), calls: map[string][]time.Time{}}
	ln, err := net.Listen("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: b}
	go srv.Serve(ln) // ends with Close
	t.Cleanup(func() { srv.Close() })
	return b
}

func (b *callbook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	b.mu.Lock()
	b.calls[q.Method] = append(b.calls[q.Method], time.Now())
	n := len(b.calls[q.Method])
	b.mu.Unlock()
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%d}`, q.ID, n)
}

func (b *callbook) of(method string) []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.calls[method])
}

// extras counts the calls beyond one in each slot. Most calls come just after the
// beginning of their slot, which gives the slots.
func extras(calls []time.Time, interval time.Duration) (n int) {
	if len(calls) == 0 {
		return 0
	}
	const near = 20 * time.Millisecond
	at := make([]time.Duration, len(calls)) // time since the beginning of the interval
	for i, c := range calls {
		at[i] = time.Duration(c.UnixNano()) % interval
	}
	best, most := time.Duration(0), 0
	for _, a := range at {
		here := 0
		for _, b := range at {
			if (b-a+interval)%interval < near {
				here++
			}
		}
		if here > most {
			best, most = a, here
		}
	}
	seen := map[int64]bool{}
	for _, c := range calls {
		slot := (c.UnixNano() - int64(best) + int64(near)/4) / int64(interval)
		if seen[slot] {
			n++
		}
		seen[slot] = true
	}
	return n
}

// longest returns the longest time between two consecutive calls, and when it
// began.
func longest(calls []time.Time) (gap time.Duration, from time.Time) {
	for i := 1; i < len(calls); i++ {
		if d := calls[i].Sub(calls[i-1]); d > gap {
			gap, from = d, calls[i-1]
		}
	}
	return gap, from
}
