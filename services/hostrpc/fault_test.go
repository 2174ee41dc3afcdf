package hostrpc

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFaultMethods(t *testing.T) {
	s := start(t, faultsAllowed())
	state := result[faultState](s, "fault.set", `{"method":"system.status","kind":"slow"}`)
	want := []Fault{{Method: "system.status", Kind: FaultSlow, DelayMs: 2000}}
	if !state.Allowed || !slices.Equal(state.Active, want) {
		t.Errorf("have %+v, want active %v", state, want)
	}
	result[faultState](s, "fault.set", `["*","error"]`)
	result[faultState](s, "fault.set", `["system.status","slow",70]`)
	want = []Fault{{Method: "*", Kind: FaultError}, {Method: "system.status", Kind: FaultSlow, DelayMs: 70}}
	if have := result[faultState](s, "fault.list", ""); !slices.Equal(have.Active, want) {
		t.Errorf("have %v, want %v", have.Active, want)
	}
	result[faultState](s, "fault.set", `["system.status","none"]`)
	if have := s.Faults().List(); !slices.Equal(have, want[:1]) {
		t.Errorf("have %v, want %v", have, want[:1])
	}
	if have := result[map[string]int](s, "fault.clear", ""); have["cleared"] != 1 {
		t.Errorf("have %v, want 1 cleared", have)
	}
	if have := s.Faults().List(); have == nil || len(have) != 0 {
		t.Errorf("have %#v, want an empty list", have)
	}
	for _, params := range []string{``, `[]`, `["system.status"]`, `["fault.set","slow"]`, `["nope","slow"]`,
		`["*","fire"]`, `["*","slow",0]`, `["*","slow",300001]`, `["*","slow","2s"]`} {
		body := `{"jsonrpc":"2.0","method":"fault.set","id":1`
		if params != "" {
			body += `,"params":` + params
		}
		_, text, _ := s.post(body + `}`)
		if _, fail := failure(t, text); fail.Code != codeInvalidParams {
			t.Errorf("%s: have %s, want -32602", params, text)
		}
	}
	if have := strings.Count(s.logs.String(), "fault set"); have != 4 {
		t.Errorf("have %d lines about faults set, want 4", have)
	}
	if have := strings.Count(s.logs.String(), "faults cleared"); have != 1 {
		t.Errorf("have %d lines about faults cleared, want 1", have)
	}
}

func TestFaultsGo(t *testing.T) {
	closed := start(t, Options{})
	if err := closed.Faults().Set(Fault{Method: "*", Kind: FaultError}); !errors.Is(err, ErrFaultsNotAllowed) ||
		closed.Faults().Allowed() {
		t.Errorf("have %v, want ErrFaultsNotAllowed", err)
	}
	for _, name := range []string{"fault.set", "fault.list", "fault.clear"} {
		_, text, _ := closed.post(`{"jsonrpc":"2.0","method":"` + name + `","id":1}`)
		if _, fail := failure(t, text); fail.Code != codeMethodNotFound {
			t.Errorf("%s: have %s, want -32601", name, text)
		}
	}
	f := start(t, faultsAllowed()).Faults()
	for _, bad := range []Fault{{}, {Method: "*"}, {Kind: FaultError}, {Method: "x", Kind: FaultError},
		{Method: "fault.list", Kind: FaultError},
		{Method: "*", Kind: FaultSlow, DelayMs: -1}, {Method: "*", Kind: FaultSlow, DelayMs: 300_001}} {
		if err := f.Set(bad); !errors.Is(err, ErrBadFault) {
			t.Errorf("%+v: have %v, want ErrBadFault", bad, err)
		}
	}
	if have := f.List(); len(have) != 0 {
		t.Errorf("bad faults were kept: %v", have)
	}
	for _, name := range f.Methods() {
		if err := f.Set(Fault{Method: name, Kind: FaultHang, DelayMs: 5}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if have := f.Clear(); have != len(f.Methods()) || f.Clear() != 0 {
		t.Errorf("cleared %d, want %d, then none", have, len(f.Methods()))
	}
}

// TestFaultKinds checks every kind over a real connection, alone and as the
// middle call of a batch.
func TestFaultKinds(t *testing.T) {
	const rest = `{"jsonrpc":"2.0","method":"rpc.methods","id":0}`
	set := func(s *testServer, f Fault) {
		t.Helper()
		s.Faults().Clear()
		if err := s.Faults().Set(f); err != nil {
			t.Fatal(err)
		}
	}
	// No timeout of the server must end a delay.
	s := start(t, faultsAllowed(), func(s *Server) {
		s.http.ReadTimeout, s.http.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	})
	for _, body := range []string{timeCall, "[" + rest + "," + timeCall + "," + rest + "]"} {
		batch := body[0] == '['

		set(s, Fault{Method: "system.time", Kind: FaultSlow, DelayMs: 300})
		began := time.Now()
		status, text, _ := s.post(body)
		if took := time.Since(began); status != 200 || strings.Contains(text, `"error":{`) || took < 300*time.Millisecond {
			t.Errorf("slow: have %d %s after %s, want the right answer after 300ms", status, text, took)
		}

		set(s, Fault{Method: "*", Kind: FaultError})
		if err := s.Faults().Set(Fault{Method: "rpc.methods", Kind: FaultSlow, DelayMs: 1}); err != nil {
			t.Fatal(err)
		}
		status, text, _ = s.post(body)
		if n := strings.Count(text, `"error":{"code":-32000,"message":"Server error"`); status != 200 || n != 1 {
			t.Errorf("error: have %d %s, want 200 and one -32000", status, text)
		}
		if n := strings.Count(text, `"result"`); batch && n != 2 {
			t.Errorf("error: have %d results in %s, want those of the other calls", n, text)
		}

		set(s, Fault{Method: "system.time", Kind: FaultGarbage})
		var html, half bool
		for range 2 {
			status, text, header := s.post(body)
			if status != 200 || json.Valid([]byte(text)) || text == "" {
				t.Errorf("garbage: have %d %s, want 200 and no JSON", status, text)
			}
			html = html || strings.HasPrefix(header.Get("Content-Type"), "text/html")
			half = half || header.Get("Content-Type") == "application/json"
		}
		if !html || !half {
			t.Errorf("garbage: have HTML %t, half a document %t, want both in turn", html, half)
		}

		set(s, Fault{Method: "system.time", Kind: FaultHTTP500})
		if status, text, _ = s.post(body); status != 500 || json.Valid([]byte(text)) {
			t.Errorf("http500: have %d %s, want 500", status, text)
		}

		set(s, Fault{Method: "system.time", Kind: FaultHang})
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		status, text, _, err := s.do(ctx, http.MethodPost, "/", body, nil)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hang: have %d %s, %v, want no answer", status, text, err)
		}
		eventually(t, "the hanging request ends with its client", func() bool { return len(s.held) == 0 })

		// Other methods work meanwhile.
		if status, text, _ := s.post(rest); status != 200 || !strings.Contains(text, `"result"`) {
			t.Errorf("have %d %s of a method without fault", status, text)
		}
	}
	if len(s.slots) != 0 {
		t.Errorf("%d places were not given back", len(s.slots))
	}
}

// TestFaultAll checks that "*" affects notifications, but neither fault.*,
// because it could not be cleared then, nor bodies that hold no call.
func TestFaultAll(t *testing.T) {
	s := start(t, faultsAllowed())
	result[faultState](s, "fault.set", `["*","http500"]`)
	for body, want := range map[string]int{
		timeCall: 500,
		`{"jsonrpc":"2.0","method":"system.time"}`:                   500,
		`{"jsonrpc":"2.0","method":"nope","id":1}`:                   200,
		`{"jsonrpc":"2.0","method":"system.time","params":1,"id":1}`: 200, // not a request
		`{"jsonrpc":"2.0","method":"fault.list","id":1}`:             200,
		`[{"jsonrpc":"2.0","method":"fault.clear"},` + timeCall:      200, // not JSON
	} {
		if have, text, _ := s.post(body); have != want {
			t.Errorf("%s: have %d %s, want %d", body, have, text, want)
		}
	}
	// The faults at the start of a body count.
	if status, _, _ := s.post(`[{"jsonrpc":"2.0","method":"fault.clear","id":1},` + timeCall + `]`); status != 500 {
		t.Errorf("have %d, want 500", status)
	}
	s.Faults().Clear()
	if status, _, _ := s.post(timeCall); status != 200 {
		t.Errorf("have %d after clearing, want 200", status)
	}
}

// TestPlanDelay checks that a batch waits once, for its slowest call.
func TestPlanDelay(t *testing.T) {
	s := start(t, faultsAllowed())
	for _, f := range []Fault{{"system.time", FaultSlow, 100}, {"system.status", FaultSlow, 900},
		{"storage.list", FaultGarbage, 0}, {"network.list", FaultHTTP500, 0}} {
		if err := s.Faults().Set(f); err != nil {
			t.Fatal(err)
		}
	}
	have := s.Faults().plan([]request{{method: "system.time"}, {method: "network.list"}, {method: "system.status"},
		{method: "storage.list"}, {method: "nope"}})
	want := faultPlan{delay: 900 * time.Millisecond, spoil: FaultHTTP500,
		calls: []FaultKind{FaultSlow, FaultHTTP500, FaultSlow, FaultGarbage, ""}}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("have %+v\nwant %+v", have, want)
	}
}

// TestHeldLimit checks that delayed requests have their own places, and that one
// too many is cut.
func TestHeldLimit(t *testing.T) {
	s := start(t, faultsAllowed(), func(s *Server) { s.held = make(chan struct{}, 1) })
	result[faultState](s, "fault.set", `["system.time","hang"]`)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, _, _, err := s.do(ctx, http.MethodPost, "/", timeCall, nil)
		first <- err
	}()
	eventually(t, "the first request is held", func() bool { return len(s.held) == 1 })
	if status, text, _, err := s.do(t.Context(), http.MethodPost, "/", timeCall, nil); err == nil {
		t.Errorf("have %d %s, want a cut connection", status, text)
	}
	// Delayed requests do not keep others from being served.
	if len(s.slots) != 0 {
		t.Errorf("a held request keeps %d places", len(s.slots))
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("have %v, want the client's own cancel", err)
	}
}

// TestShutdownDuringFaults checks that neither a hang nor a long delay blocks
// Run.
func TestShutdownDuringFaults(t *testing.T) {
	for _, f := range []Fault{{"system.time", FaultHang, 0}, {"system.time", FaultSlow, 300_000}} {
		s := start(t, faultsAllowed())
		if err := s.Faults().Set(f); err != nil {
			t.Fatal(err)
		}
		answered := make(chan error, 1)
		go func() {
			_, _, _, err := s.do(context.WithoutCancel(t.Context()), http.MethodPost, "/", timeCall, nil)
			answered <- err
		}()
		eventually(t, "the request is held", func() bool { return len(s.held) == 1 })
		if err := s.stop(); err != nil {
			t.Errorf("%s: Run: %v", f.Kind, err)
		}
		if err := <-answered; err == nil {
			t.Errorf("%s: have an answer, want a cut connection", f.Kind)
		}
		if logs := s.logs.String(); strings.Contains(logs, "requests were cut") {
			t.Errorf("%s: shutdown waited for the fault:\n%s", f.Kind, logs)
		}
	}
}
