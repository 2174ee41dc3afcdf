package hostrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// addSpecMethods adds the methods of the examples in section 7 of the
// specification, and some that fail.
func addSpecMethods(s *Server) {
	number := func(name string) param { return param{Name: name, Type: typeInteger, Required: true} }
	add := func(name string, call func(context.Context, args) (any, error), params ...param) {
		s.methods[name] = &method{Name: name, Params: params, call: call}
	}
	add("subtract", func(_ context.Context, a args) (any, error) {
		return a["minuend"].(int) - a["subtrahend"].(int),
			nil
	},
		number("minuend"), number("subtrahend"))
	add("sum", func(_ context.Context, a args) (any, error) { return a["a"].(int) + a["b"].(int) + a["c"].(int), nil },
		number("a"), number("b"), number("c"))
	five := make([]param, 5)
	for i := range five {
		five[i] = param{Name: fmt.Sprint("p", i), Type: typeInteger}
	}
	nothing := func(context.Context, args) (any, error) { return nil, nil }
	add("update", nothing, five...)
	add("notify_hello", nothing, five[:1]...)
	add("notify_sum", nothing, five[:3]...)
	add("get_data", func(context.Context, args) (any, error) { return []any{"hello", 5}, nil })
	add("panics", func(context.Context, args) (any, error) { panic("secret detail") })
	add("fails", func(context.Context, args) (any, error) { return nil, errors.New("the disk is on fire") })
	add("unencodable", func(context.Context, args) (any, error) { return make(chan int), nil })
	add("markup", func(context.Context, args) (any, error) { return "<a&b>", nil })
}

// TestSpecExamples runs https://www.jsonrpc.org/specification#examples in the
// given order. data is this server's own and is removed before comparing.
func TestSpecExamples(t *testing.T) {
	s := start(t, Options{}, addSpecMethods)
	for _, c := range []struct{ name, send, want string }{
		{"positional", `{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}`,
			`{"jsonrpc":"2.0","result":19,"id":1}`},
		{"positional other order", `{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}`,
			`{"jsonrpc":"2.0","result":-19,"id":2}`},
		{"named", `{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}`,
			`{"jsonrpc":"2.0","result":19,"id":3}`},
		{"named other order", `{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, ` +
			`"id": 4}`, `{"jsonrpc":"2.0","result":19,"id":4}`},
		{"notification", `{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}`, ``},
		{"notification of no method", `{"jsonrpc": "2.0", "method": "foobar"}`, ``},
		{"no such method", `{"jsonrpc": "2.0", "method": "foobar", "id": "1"}`,
			`{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"},"id":"1"}`},
		{"no JSON", `{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]`,
			`{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"},"id":null}`},
		{"no request", `{"jsonrpc": "2.0", "method": 1, "params": "bar"}`,
			`{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid Request"},"id":null}`},
		{"batch no JSON", `[
			{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
			{"jsonrpc": "2.0", "method"
		]`, `{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"},"id":null}`},
		{"batch empty", `[]`, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid Request"},"id":null}`},
		{"batch of one that is none", `[1]`,
			`[{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid Request"},"id":null}]`},
		{"batch of what is none", `[1,2,3]`,
			`[{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid ` +
				`Request"},"id":null},{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid ` +
				`Request"},"id":null},{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid Request"},"id":null}]`},
		{"batch mixed", `[
			{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
			{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
			{"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
			{"foo": "boo"},
			{"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
			{"jsonrpc": "2.0", "method": "get_data", "id": "9"}
		]`, `[{"jsonrpc":"2.0","result":7,"id":"1"},{"jsonrpc":"2.0","result":19,"id":"2"},` +
			`{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid Request"},"id":null},` +
			`{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method not found"},"id":"5"},{"jsonrpc":"2.0","result":["hello",5],"id":"9"}]`},
		{"batch of notifications", `[
			{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
			{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}
		]`, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, have, header := s.post(c.send)
			if c.want == "" {
				if status != http.StatusNoContent || have != "" {
					t.Fatalf("have %d %q, want 204 and no body", status, have)
				}
				return
			}
			if status != http.StatusOK {
				t.Errorf("have status %d, want 200", status)
			}
			if kind := header.Get("Content-Type"); kind != "application/json" {
				t.Errorf("have Content-Type %q, want application/json", kind)
			}
			if have := withoutData(t, have); have != c.want {
				t.Errorf("have %s\nwant %s", have, c.want)
			}
		})
	}
}

// withoutData removes error.data from an answer and checks that it was there:
// every error of this server has details.
func withoutData(t *testing.T, text string) string {
	t.Helper()
	for {
		before, after, ok := strings.Cut(text, `,"data":`)
		if !ok {
			break
		}
		var data string
		dec := json.NewDecoder(strings.NewReader(after))
		if err := dec.Decode(&data); err != nil || data == "" {
			t.Fatalf("have data %q (%v) in %s, want a text", data, err, text)
		}
		text = before + after[dec.InputOffset():]
	}
	return text
}

// TestID sends ids that a conversion to Go values would change.
func TestID(t *testing.T) {
	s := start(t, Options{}, addSpecMethods)
	for _, id := range []string{
		`1`, `-7`, `0`, `1.50`, `1e3`, `1E+2`, `-0.0`, `123456789012345678901234567890`, `9007199254740993`,
		`null`, `""`, `"1"`, `"a<b>&\u003c"`, `"\u2028 ` + "\u2028" + `"`, `"\/\ud83d\ude00"`,
	} {
		_, have, _ := s.post(`{"id" : ` + id + ` ,"jsonrpc":"2.0","method":"get_data"}`)
		if want := `{"jsonrpc":"2.0","result":["hello",5],"id":` + id + `}`; have != want {
			t.Errorf("have %s\nwant %s", have, want)
		}
	}
	// An id is a string, a number or null.
	for _, id := range []string{`{}`, `[1]`, `true`, `false`} {
		_, text, _ := s.post(`{"jsonrpc":"2.0","method":"get_data","id":` + id + `}`)
		if have, fail := failure(t, text); have != "null" || fail.Code != codeInvalidRequest {
			t.Errorf("id %s: have %s", id, text)
		}
	}
}

func TestInvalidRequests(t *testing.T) {
	s := start(t, Options{}, addSpecMethods)
	for _, c := range []struct {
		send   string
		code   int
		id     string
		naming string
	}{
		{``, codeParse, `null`, "unexpected end"},
		{`   `, codeParse, `null`, "unexpected end"},
		{`{} {}`, codeParse, `null`, "byte 4"},
		{"\xff", codeParse, `null`, "UTF-8"},
		{`{"jsonrpc":"2.0","method":"x` + "\xc0" + `","id":1}`, codeParse, `null`, "UTF-8"},
		{`1`, codeInvalidRequest, `null`, "object"},
		{`null`, codeInvalidRequest, `null`, "object"},
		{`"x"`, codeInvalidRequest, `null`, "object"},
		{`{}`, codeInvalidRequest, `null`, "jsonrpc"},
		{`{"method":"get_data","id":1}`, codeInvalidRequest, `1`, "jsonrpc"},
		{`{"jsonrpc":"1.0","method":"get_data","id":1}`, codeInvalidRequest, `1`, "jsonrpc"},
		{`{"jsonrpc":2.0,"method":"get_data","id":1}`, codeInvalidRequest, `1`, "jsonrpc"},
		{`{"JSONRPC":"2.0","method":"get_data","id":1}`, codeInvalidRequest, `1`, "jsonrpc"},
		{`{"jsonrpc":"2.0","id":1}`, codeInvalidRequest, `1`, "method"},
		{`{"jsonrpc":"2.0","method":null,"id":1}`, codeInvalidRequest, `1`, "method"},
		{`{"jsonrpc":"2.0","method":"get_data","params":"x","id":1}`, codeInvalidRequest, `1`, "params"},
		{`{"jsonrpc":"2.0","method":"get_data","params":null,"id":1}`, codeInvalidRequest, `1`, "params"},
		{`{"jsonrpc":"2.0","method":"","id":1}`, codeMethodNotFound, `1`, "rpc.methods"},
		{`{"jsonrpc":"2.0","method":"fault.set","id":1}`, codeMethodNotFound, `1`, "fault.set"},
		{`{"jsonrpc":"2.0","method":"subtract","params":[1],"id":1}`, codeInvalidParams, `1`, "subtrahend"},
		{`{"jsonrpc":"2.0","method":"fails","id":1}`, codeInternal, `1`, "the disk is on fire"},
		{`{"jsonrpc":"2.0","method":"unencodable","id":1}`, codeInternal, `1`, "encode"},
	} {
		status, text, _ := s.post(c.send)
		id, fail := failure(t, text)
		if status != http.StatusOK || id != c.id || fail.Code != c.code || !strings.Contains(fail.Data, c.naming) {
			t.Errorf("sent %q\nhave %d %s\nwant 200, code %d, id %s, naming %q", c.send, status, text, c.code, c.id, c.naming)
		}
	}
	// "ID" is not "id": this is a notification.
	if status, text, _ := s.post(`{"jsonrpc":"2.0","method":"get_data","ID":1}`); status != http.StatusNoContent {
		t.Errorf("have %d %s, want 204", status, text)
	}
}

// TestPanic checks that a call's panic is its own error, and that only the log
// has the details.
func TestPanic(t *testing.T) {
	s := start(t, Options{}, addSpecMethods)
	_, have, _ := s.post(`[{"jsonrpc":"2.0","method":"panics","id":1},{"jsonrpc":"2.0","method":"panics"},` +
		`{"jsonrpc":"2.0","method":"get_data","id":2}]`)
	if want := `[{"jsonrpc":"2.0","error":{"code":-32603,"message":"Internal ` +
		`error"},"id":1},{"jsonrpc":"2.0","result":["hello",5],"id":2}]`; withoutData(t, have) != want {
		t.Errorf("have %s\nwant %s", have, want)
	}
	if strings.Contains(have, "secret detail") {
		t.Errorf("the panic's text is in the answer: %s", have)
	}
	if logs := s.logs.String(); strings.Count(logs, "method panicked") != 2 || !strings.Contains(logs, "secret detail") {
		t.Errorf("want both panics with their text in the log, have\n%s", logs)
	}
}

func TestResultIsNotEscaped(t *testing.T) {
	s := start(t, Options{}, addSpecMethods)
	_, have, _ := s.post(`{"jsonrpc":"2.0","method":"markup","id":1}`)
	if want := `{"jsonrpc":"2.0","result":"<a&b>","id":1}`; have != want {
		t.Errorf("have %s, want %s", have, want)
	}
}

func TestBatchLimit(t *testing.T) {
	o := Options{Config: DefaultConfig()}
	o.Config.MaxBatch = 3
	s := start(t, o, addSpecMethods)
	one := `{"jsonrpc":"2.0","method":"get_data","id":1}`
	batch := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]" }

	_, text, _ := s.post(batch(3))
	var answers []json.RawMessage
	if err := json.Unmarshal([]byte(text), &answers); err != nil || len(answers) != 3 {
		t.Errorf("have %s, want 3 answers", text)
	}
	_, text, _ = s.post(batch(4))
	if id, fail := failure(t, text); id != "null" || fail.Code != codeInvalidRequest ||
		!strings.Contains(fail.Data, "more than 3 calls") {
		t.Errorf("have %s, want one -32600 that names the limit", text)
	}
}

// FuzzParseBody checks that every body has an answer that is valid JSON.
func FuzzParseBody(f *testing.F) {
	for _, seed := range []string{`{"jsonrpc":"2.0","method":"m","id":1}`, `[]`, ` [1, {"id":"x"}]`, `{"id":{}}`, `nul`,
		"\xff", `{"params":[]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		requests, batch, fail := parseBody(bytes.Clone(body), 10)
		if n := len(requests); n > 10 || (fail == nil && n == 0) || (!batch && n > 1) {
			t.Fatalf("have %d requests, batch %t, error %v", n, batch, fail)
		}
		for _, r := range requests {
			if text := appendResponse(nil, r.id, json.RawMessage("1"), r.err); !json.Valid(text) {
				t.Fatalf("have answer %s", text)
			}
		}
	})
}
