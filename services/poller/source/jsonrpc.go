package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"unicode/utf8"
)

// JSON-RPC 2.0 (https://www.jsonrpc.org/specification) over HTTP POST: one call
// per request, or, by batch.go, several.

// Error codes by which a server says that the request is wrong (section 5.1).
const (
	codeInvalidRequest = -32600
	codeInvalidParams  = -32602
)

type jsonrpc struct {
	*httpEndpoint
	lastID atomic.Uint64
}

type rpcRequest struct {
	Version string          `json:"jsonrpc"`
	ID      uint64          `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params,omitempty"`
}

type rpcAnswer struct {
	Version *string         `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  json.RawMessage `json:"result"`
	Error   json.RawMessage `json:"error"`
}

type rpcError struct {
	Code    int64  `json:"code"`
	Message string `json:"message"`
}

func checkJSONRPC(c Call, report func(key, problem, fix string)) {
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
			report(k.key, "a JSON-RPC call has none of its own", "put parameters into params, headers into the source's headers, paths into its upstreams; or use driver http")
		}
	}
}

func openJSONRPC(e Endpoint) (Func, func(), error) {
	j := &jsonrpc{httpEndpoint: openHTTP(e)}
	ask, free := j.call, j.close
	if e.Batch {
		b := &batcher{jsonrpc: j}
		ask, free = b.ask, func() { b.running.Wait(); j.close() }
	}
	call := func(ctx context.Context, c Call) (json.RawMessage, error) {
		value, err := ask(ctx, c)
		if f, ok := errors.AsType[*Failure](err); ok {
			return nil, f.scrub(e.Secrets)
		}
		return value, err
	}
	return call, free, nil
}

func (j *jsonrpc) call(ctx context.Context, c Call) (json.RawMessage, error) {
	id := j.lastID.Add(1)
	body, err := json.Marshal(rpcRequest{Version: "2.0", ID: id, Method: c.Method, Params: c.Params})
	if err != nil {
		return nil, rejected("parameters cannot be encoded")
	}
	a, err := j.post(ctx, body, j.MaxAnswer)
	if err != nil {
		return nil, err
	}
	return a.rpcResult(id)
}

// post sends one request and reads an answer of at most limit bytes.
func (j *jsonrpc) post(ctx context.Context, body []byte, limit int64) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, j.URL, bytes.NewReader(body))
	if err != nil {
		return nil, rejected("request cannot be made")
	}
	req.Header["Content-Type"], req.Header["Accept"] = applicationJSON, applicationJSON
	return j.do(ctx, req, nil, limit)
}

// rpcResult takes an answer to the call with this id apart.
func (a *answer) rpcResult(id uint64) (json.RawMessage, error) {
	byStatus := statusFailure(a)
	r, f := a.rpcAnswer(id)
	switch {
	case f == nil && isNull(r.Error) && byStatus == nil:
		return r.Result, nil
	case f == nil && !isNull(r.Error):
		f = rpcFailure(r.Error)
		if byStatus != nil && (a.status >= 400 && a.status < 500) {
			byStatus.Detail += ", " + f.Detail
			return nil, byStatus
		}
		f.RetryAfter = a.retryAfter
		return nil, f
	case byStatus != nil:
		return nil, byStatus
	}
	return nil, f
}

// rpcAnswer checks that the body is the JSON-RPC answer to the call.
func (a *answer) rpcAnswer(id uint64) (*rpcAnswer, *Failure) {
	body := bytes.TrimSpace(a.body)
	r := new(rpcAnswer)
	switch err := json.Unmarshal(body, r); {
	case len(body) == 0:
		return nil, badResponse("answer is empty")
	case err != nil:
		return nil, badResponse(notJSON(body, a.mediaType, err))
	case !utf8.Valid(body):
		// encoding/json lets it pass, a WebSocket text frame may not hold it.
		return nil, badResponse("answer is not UTF-8")
	case r.Version != nil && *r.Version != "2.0":
		// Servers that answer without a version, as Bitcoin Core does, are taken.
		return nil, badResponse(fmt.Sprintf("answer says jsonrpc %q, not 2.0", *r.Version))
	}
	failed := !isNull(r.Error)
	switch have := string(r.ID); {
	case have == strconv.FormatUint(id, 10):
	case isNull(r.ID) && failed: // the server could not read the request's id
	case r.ID == nil:
		return nil, badResponse(fmt.Sprintf("answer has no id, %d expected", id))
	default:
		return nil, badResponse(fmt.Sprintf("id %s answered, %d expected", short(have), id))
	}
	if !failed && r.Result == nil {
		return nil, badResponse("answer has neither result nor error")
	}
	return r, nil
}

// rpcFailure classifies an error object.
func rpcFailure(object json.RawMessage) *Failure {
	var e rpcError
	if err := json.Unmarshal(object, &e); err != nil {
		return badResponse("answer's error is no JSON-RPC error object")
	}
	detail := fmt.Sprintf("JSON-RPC error %d: %s", e.Code, e.Message)
	if e.Code <= codeInvalidRequest && e.Code >= codeInvalidParams {
		return rejected(detail)
	}
	return upstreamError(detail)
}

// notJSON says what a body is that is not a JSON object.
func notJSON(body []byte, mediaType string, err error) string {
	switch {
	case mediaType == "text/html" || bytes.HasPrefix(body, []byte("<")) && !bytes.HasPrefix(body, []byte("<?xml")):
		return "answer is HTML, not JSON"
	case bytes.HasPrefix(body, []byte("<?xml")):
		return "answer is XML, not JSON"
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if e.Field != "" {
			return fmt.Sprintf("answer's %q is a JSON %s", e.Field, e.Value)
		}
		return "answer is a JSON " + e.Value + ", an object was expected"
	}
	if err.Error() == "unexpected end of JSON input" {
		return fmt.Sprintf("answer is cut off: its JSON ends early, after %d bytes", len(body))
	}
	return "answer is not JSON: " + err.Error()
}

func isNull(m json.RawMessage) bool { return m == nil || string(m) == "null" }

func short(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}
