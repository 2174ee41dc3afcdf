package hostrpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// The error codes of https://www.jsonrpc.org/specification#error_object.
// codeServer is the first of the codes for servers.
const (
	codeParse          = -32700
	codeInvalidRequest = -32600
	codeMethodNotFound = -32601
	codeInvalidParams  = -32602
	codeInternal       = -32603
	codeServer         = -32000
)

var codeNames = map[int]struct{ message, outcome string }{
	codeParse:          {"Parse error", "parse_error"},
	codeInvalidRequest: {"Invalid Request", "invalid_request"},
	codeMethodNotFound: {"Method not found", "method_not_found"},
	codeInvalidParams:  {"Invalid params", "invalid_params"},
	codeInternal:       {"Internal error", "internal_error"},
	codeServer:         {"Server error", "server_error"},
}

// rpcError is the error object of an answer. The message belongs to the code, as
// in the specification. data has the details.
type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    string `json:"data,omitempty"`
}

func (e *rpcError) Error() string { return fmt.Sprintf("%d %s: %s", e.Code, e.Message, e.Data) }

func (e *rpcError) outcome() string { return codeNames[e.Code].outcome }

func failf(code int, format string, values ...any) *rpcError {
	return &rpcError{Code: code, Message: codeNames[code].message, Data: fmt.Sprintf(format, values...)}
}

// request is one request object of a body.
type request struct {
	id     json.RawMessage // as sent; nil: a notification
	method string
	params json.RawMessage // nil, an array or an object
	err    *rpcError       // set if it is no valid request
}

// answered reports whether the specification requires an answer: a notification
// never has one.
func (r *request) answered() bool { return r.err != nil || r.id != nil }

// parseBody splits a body into its requests. An error concerns the whole body: no
// JSON, an empty batch, a batch above the limit.
func parseBody(body []byte, maxBatch int) (requests []request, batch bool, fail *rpcError) {
	// encoding/json replaces invalid UTF-8 and does not refuse it. An id would
	// come back changed.
	if !utf8.Valid(body) {
		return nil, false, failf(codeParse, "the body is not UTF-8")
	}
	var document json.RawMessage
	if err := json.Unmarshal(body, &document); err != nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, false, failf(codeParse, "%s at byte %d", syntax, syntax.Offset)
		}
		return nil, false, failf(codeParse, "%s", err)
	}
	document = bytes.TrimSpace(document)
	if document[0] != '[' {
		return []request{parseRequest(document)}, false, nil
	}
	// The entries are decoded one by one, so that a body of many tiny entries
	// stops at the limit.
	entries := json.NewDecoder(bytes.NewReader(document))
	_, _ = entries.Token() // the '[' seen above
	for entries.More() {
		if len(requests) == maxBatch {
			return nil, true, failf(codeInvalidRequest, "the batch has more than %d calls, the limit: send several batches",
				maxBatch)
		}
		var entry json.RawMessage
		if err := entries.Decode(&entry); err != nil {
			return nil, true, failf(codeParse, "%s", err)
		}
		requests = append(requests, parseRequest(entry))
	}
	if len(requests) == 0 {
		return nil, true, failf(codeInvalidRequest, "the batch is empty")
	}
	return requests, true, nil
}

// parseRequest reads one request object. It decodes into a map because a struct
// would accept "ID" for "id": member names are case-sensitive.
func parseRequest(raw json.RawMessage) request {
	var r request
	invalid := func(format string, values ...any) request {
		r.err = failf(codeInvalidRequest, format, values...)
		return r
	}
	var members map[string]json.RawMessage
	if raw[0] != '{' {
		return invalid("a request is an object")
	}
	if err := json.Unmarshal(raw, &members); err != nil {
		return invalid("%s", err)
	}
	// The id comes first, so that answers to other mistakes have it.
	if id, ok := members["id"]; ok {
		switch id[0] {
		case '{', '[', 't', 'f':
			return invalid("id must be a string, a number or null")
		}
		r.id = id
	}
	if version, ok := jsonString(members["jsonrpc"]); !ok || version != "2.0" {
		return invalid(`jsonrpc must be "2.0"`)
	}
	var ok bool
	if r.method, ok = jsonString(members["method"]); !ok {
		return invalid("method must be a string")
	}
	if params, ok := members["params"]; ok {
		if params[0] != '{' && params[0] != '[' {
			return invalid("params must be an object or an array; leave it out when there are none")
		}
		r.params = params
	}
	return r
}

// jsonString reads a string and refuses null, which json.Unmarshal takes for an
// empty string.
func jsonString(raw json.RawMessage) (value string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &value) != nil {
		return "", false
	}
	return value, true
}

// appendResponse appends one response object. The id is copied byte by byte: a Go
// value would round large numbers and change escapes.
func appendResponse(dst []byte, id, result json.RawMessage, fail *rpcError) []byte {
	dst = append(dst, `{"jsonrpc":"2.0",`...)
	if fail != nil {
		text, err := json.Marshal(fail)
		if err != nil { // an int and two strings always marshal
			panic(err)
		}
		dst = append(append(dst, `"error":`...), text...)
	} else {
		dst = append(append(dst, `"result":`...), result...)
	}
	dst = append(dst, `,"id":`...)
	if id == nil {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, id...)
	}
	return append(dst, '}')
}
