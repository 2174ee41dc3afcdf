package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// upstream is a JSON-RPC server that the test controls. Its value counts its good
// answers, so that each answer is a change.
type upstream struct {
	t    testing.TB
	addr string
	srv  *http.Server // nil while it is down

	mu       sync.Mutex
	answer   answer
	failNext int
	calls    []call
	good     int
}

// call is one request that reached the upstream.
type call struct {
	at   time.Time
	good bool
}

// answer answers the call with an id. result is the true result.
type answer func(w http.ResponseWriter, r *http.Request, id, result jsonText)

type jsonText = json.RawMessage

// newUpstream listens until the test ends.
func newUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{t: t, addr: freeAddr(t)}
	u.open()
	t.Cleanup(u.close)
	return u
}

func (u *upstream) url() string { return "http://" + u.addr + "/rpc" }

// open listens again at the same address. It tries again: a process that another
// test starts at this moment has a copy of the closed socket until it runs its
// own program.
func (u *upstream) open() {
	u.t.Helper()
	var ln net.Listener
	eventually(u.t, "the upstream listens", func() (err error) {
		ln, err = net.Listen("tcp", u.addr)
		return err
	})
	u.srv = &http.Server{Handler: http.HandlerFunc(u.serve)}
	go u.srv.Serve(ln) // ends with close
}

// close ends every connection. New ones are refused.
func (u *upstream) close() {
	if u.srv != nil {
		u.srv.Close()
		u.srv = nil
	}
}

// set changes how every further call is answered; nil: with the truth. It returns
// the number of calls so far.
func (u *upstream) set(a answer) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = a
	return len(u.calls)
}

// fail makes the next n calls fail.
func (u *upstream) fail(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failNext = n
}

// since returns the calls after the first n.
func (u *upstream) since(n int) []call {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]call(nil), u.calls[n:]...)
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	var req struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body) // or the server does not notice that the client has gone
	u.mu.Lock()
	a := u.answer
	if u.failNext > 0 {
		u.failNext--
		a = status(http.StatusInternalServerError)
	}
	if a == nil {
		u.good++
	}
	u.calls = append(u.calls, call{time.Now(), a == nil})
	result := json.RawMessage(fmt.Sprintf(`{"n":%d}`, u.good))
	u.mu.Unlock()
	if a == nil {
		a = truth
	}
	a(w, r, req.ID, result)
}

func truth(w http.ResponseWriter, _ *http.Request, id, result jsonText) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
}

func status(code int) answer {
	return func(w http.ResponseWriter, _ *http.Request, _, _ jsonText) {
		http.Error(w, "not now", code)
	}
}

func rpcError(code int, message string) answer {
	return func(w http.ResponseWriter, _ *http.Request, id, _ jsonText) {
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%q}}`, id, code, message)
	}
}

// body answers 200 with a text.
func body(contentType, text string) answer {
	return func(w http.ResponseWriter, _ *http.Request, _, _ jsonText) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, text) // fails if the poller has gone
	}
}

func wrongID(w http.ResponseWriter, r *http.Request, _, result jsonText) {
	truth(w, r, jsonText(`"somebody else's"`), result)
}

// hang does not answer until the client has gone.
func hang(_ http.ResponseWriter, r *http.Request, _, _ jsonText) { <-r.Context().Done() }

// trickle never finishes its answer.
func trickle(w http.ResponseWriter, r *http.Request, _, _ jsonText) {
	for _, err := io.WriteString(w, `{"jsonrpc":"2.0","result":[`); err == nil &&
		r.Context().Err() == nil; time.Sleep(20 * time.Millisecond) {
		_, err = io.WriteString(w, "1,")
		_ = http.NewResponseController(w).Flush() // the next write reports the error
	}
}

// flood answers 100 MB of JSON without a Content-Length.
func flood(w http.ResponseWriter, _ *http.Request, id, _ jsonText) {
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":"`, id)
	page := strings.Repeat("0123456789abcdef", 64<<10/16)
	for range 100 << 20 / len(page) {
		if _, err := io.WriteString(w, page); err != nil {
			return
		}
	}
	_, _ = io.WriteString(w, `"}`)
}

// bomb answers 100 MB that are 100 KB on the wire.
func bomb(w http.ResponseWriter, _ *http.Request, _, _ jsonText) {
	w.Header().Set("Content-Encoding", "gzip")
	var page bytes.Buffer
	z := gzip.NewWriter(&page)
	_, _ = z.Write(bytes.Repeat([]byte(" "), 1<<20)) // a Buffer returns no error
	_ = z.Close()
	for range 100 { // a gzip stream may have many members (RFC 1952, section 2.2)
		if _, err := w.Write(page.Bytes()); err != nil {
			return
		}
	}
}

func redirect(w http.ResponseWriter, r *http.Request, _, _ jsonText) {
	http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
}

// reset ends the connection with a TCP reset.
func reset(w http.ResponseWriter, _ *http.Request, _, _ jsonText) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0) // without it the connection would end in order
	}
	conn.Close()
}
