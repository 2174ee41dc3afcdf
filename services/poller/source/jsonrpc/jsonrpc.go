// Package jsonrpc is the driver jsonrpc: JSON-RPC 2.0
// (https://www.jsonrpc.org/specification) over HTTP POST. A request holds one call
// or, in batch.go, several.
package jsonrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"unicode/utf8"

	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/web"
)

// Driver is the driver jsonrpc.
var Driver = source.Driver{
	Open: open, Schemes: web.Schemes, Path: "/path", Batches: true, Check: source.CheckCalls(check),
}

// codeInvalidRequest to codeInvalidParams are the error codes that mean that the
// request is wrong (section 5.1).
const (
	codeInvalidRequest = -32600
	codeInvalidParams  = -32602
)

// upstream is an upstream that speaks JSON-RPC.
type upstream struct {
	*web.Client
	lastID atomic.Uint64
}

type request struct {
	Version string          `json:"jsonrpc"`
	ID      uint64          `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params,omitempty"`
}

type answer struct {
	Version *string         `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  json.RawMessage `json:"result"`
	Error   json.RawMessage `json:"error"`
}

type errorObject struct {
	Code    int64  `json:"code"`
	Message string `json:"message"`
}

// check reports the mistakes of a call.
func check(c source.Call, report source.Report) {
	if c.Method == "" {
		report("method", "it is missing", "write the RPC method to call, such as system.status")
	}
	if p := bytes.TrimSpace(c.Params); len(p) > 0 && p[0] != '[' && p[0] != '{' {
		report("params", "JSON-RPC takes a list or a map, not a single value", "write [value]")
	}
	for _, k := range []struct {
		key string
		set bool
	}{{"path", c.Path != ""}, {"query", len(c.Query) > 0}, {"headers", len(c.Header) > 0}, {"body", c.Body != nil}} {
		if k.set {
			report(k.key, "a JSON-RPC call has none of its own",
				"put parameters into params, headers into the source's headers, paths into its upstreams; or use driver http")
		}
	}
}

func open(e source.Endpoint) (source.Func, func(), error) {
	u := &upstream{Client: web.New(e)}
	if !e.Batch {
		return e.Scrub(u.call), u.Close, nil
	}
	b := &batcher{upstream: u}
	return e.Scrub(b.ask), func() { b.running.Wait(); u.Close() }, nil
}

func (u *upstream) call(ctx context.Context, c source.Call) (json.RawMessage, error) {
	id := u.lastID.Add(1)
	body, err := json.Marshal(request{Version: "2.0", ID: id, Method: c.Method, Params: c.Params})
	if err != nil {
		return nil, source.Rejected("parameters cannot be encoded")
	}
	a, err := u.post(ctx, body, u.MaxAnswer)
	if err != nil {
		return nil, err
	}
	return result(a, id)
}

// post sends one request and reads an answer of at most limit bytes.
func (u *upstream) post(ctx context.Context, body []byte, limit int64) (*web.Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.URL, bytes.NewReader(body))
	if err != nil {
		return nil, source.Rejected("request cannot be made")
	}
	req.Header["Content-Type"], req.Header["Accept"] = web.ApplicationJSON, web.ApplicationJSON
	return u.Do(ctx, req, nil, limit)
}

// result returns the value, or the failure, of the answer to the call with this id.
func result(a *web.Answer, id uint64) (json.RawMessage, error) {
	byStatus := a.Failure()
	r, f := decode(a, id)
	switch {
	case f == nil && isNull(r.Error) && byStatus == nil:
		return r.Result, nil
	case f == nil && !isNull(r.Error):
		f = errorFailure(r.Error)
		if byStatus != nil && (a.Status >= 400 && a.Status < 500) {
			byStatus.Detail += ", " + f.Detail
			return nil, byStatus
		}
		f.RetryAfter = a.RetryAfter
		return nil, f
	case byStatus != nil:
		return nil, byStatus
	}
	return nil, f
}

// decode checks that the body is the JSON-RPC answer to the call.
func decode(a *web.Answer, id uint64) (*answer, *source.Failure) {
	body := bytes.TrimSpace(a.Body)
	r := new(answer)
	switch err := json.Unmarshal(body, r); {
	case len(body) == 0:
		return nil, source.BadResponse("answer is empty")
	case err != nil:
		return nil, source.BadResponse(web.NotJSON(body, a.MediaType, err))
	case !utf8.Valid(body):
		// encoding/json accepts it, but a WebSocket text frame must not hold it.
		return nil, source.BadResponse("answer is not UTF-8")
	case r.Version != nil && *r.Version != "2.0":
		// An answer without a version is accepted: Bitcoin Core sends none.
		return nil, source.BadResponse(fmt.Sprintf("answer says jsonrpc %q, not 2.0", *r.Version))
	}
	failed := !isNull(r.Error)
	switch have := string(r.ID); {
	case have == strconv.FormatUint(id, 10):
	case isNull(r.ID) && failed: // the server could not read the request's id
	case r.ID == nil:
		return nil, source.BadResponse(fmt.Sprintf("answer has no id, %d expected", id))
	default:
		return nil, source.BadResponse(fmt.Sprintf("id %s answered, %d expected", web.Short(have), id))
	}
	if !failed && r.Result == nil {
		return nil, source.BadResponse("answer has neither result nor error")
	}
	return r, nil
}

// errorFailure returns the failure of an error object.
func errorFailure(object json.RawMessage) *source.Failure {
	var e errorObject
	if err := json.Unmarshal(object, &e); err != nil {
		return source.BadResponse("answer's error is no JSON-RPC error object")
	}
	detail := fmt.Sprintf("JSON-RPC error %d: %s", e.Code, e.Message)
	if e.Code <= codeInvalidRequest && e.Code >= codeInvalidParams {
		return source.Rejected(detail)
	}
	return source.UpstreamError(detail)
}

func isNull(m json.RawMessage) bool { return m == nil || string(m) == "null" }
