package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// The driver http: any request that is answered with JSON.

type rest struct {
	*httpEndpoint
	known etags
}

func checkREST(c Call, report func(key, problem, fix string)) {
	if strings.ContainsFunc(c.Method, func(r rune) bool { return r < 'A' || r > 'Z' }) ||
		c.Method == http.MethodConnect || c.Method == http.MethodTrace || c.Method == http.MethodHead {
		report("method", "it is none that gives a value", "write GET, POST or another in capitals")
	}
	if c.Params != nil {
		report("params", "an HTTP request has none", "use query for what goes into the URL, body for what is sent")
	}
	switch {
	case strings.ContainsAny(c.Path, "?#"):
		report("path", "it holds ? or #", "use query for parameters")
	case strings.Contains("/"+c.Path+"/", "/../"), strings.Contains("/"+c.Path+"/", "/./"):
		report("path", "it holds . or .. as a part", "write the whole path")
	default:
		if _, err := url.Parse("http://h/" + strings.TrimPrefix(c.Path, "/")); err != nil {
			report("path", "it is no path of a URL", "write %25 for a percent sign, %20 for a space")
		}
	}
}

func openREST(e Endpoint) (Func, func(), error) {
	base, err := url.Parse(e.URL)
	if err != nil {
		return nil, nil, errors.New("it is no URL") // the error would quote it
	}
	if base.Path == "" {
		base.Path = "/" // or JoinPath makes a path that does not begin with one
	}
	r := &rest{httpEndpoint: openHTTP(e)}
	call := func(ctx context.Context, c Call) (json.RawMessage, error) {
		value, err := r.call(ctx, base, c)
		if f, ok := errors.AsType[*Failure](err); ok {
			return nil, f.scrub(e.Secrets)
		}
		return value, err
	}
	return call, r.close, nil
}

func (r *rest) call(ctx context.Context, base *url.URL, c Call) (json.RawMessage, error) {
	u := base
	if c.Path != "" {
		u = base.JoinPath(c.Path)
	}
	if len(c.Query) > 0 {
		with := *u
		with.RawQuery = strings.TrimPrefix(u.RawQuery+"&"+c.Query.Encode(), "&")
		u = &with
	}
	method, body := c.Method, io.Reader(nil)
	if method == "" {
		method = http.MethodGet
	}
	if c.Body != nil {
		body = bytes.NewReader(c.Body)
	}
	// Without the URL, which need not be written out and read again.
	req, err := http.NewRequestWithContext(ctx, method, "", body)
	if err != nil {
		return nil, rejected("request cannot be made")
	}
	req.URL, req.Host = u, u.Host
	req.Header["Accept"] = applicationJSON
	if c.Body != nil {
		req.Header["Content-Type"] = applicationJSON
	}
	var id string
	var old remembered
	if method == http.MethodGet && r.known.any() {
		id = callID(u, c)
		if old = r.known.get(c.For, id); old.etag != "" {
			req.Header.Set("If-None-Match", old.etag)
		}
	}
	a, err := r.do(ctx, req, c.Header, r.MaxAnswer)
	if err != nil {
		return nil, err
	}
	if a.status == http.StatusNotModified && old.etag != "" {
		return old.value, nil
	}
	value, err := a.jsonValue()
	if err == nil && method == http.MethodGet && (id != "" || a.etag != "") {
		r.known.put(c.For, callID(u, c), remembered{etag: a.etag, value: value})
	}
	return value, err
}

// jsonValue is the answer as a value: null for 204, which has none.
func (a *answer) jsonValue() (json.RawMessage, error) {
	if a.status == http.StatusNoContent {
		return json.RawMessage("null"), nil
	}
	if f := statusFailure(a); f != nil {
		return nil, f
	}
	body := bytes.TrimSpace(a.body)
	switch {
	case len(body) == 0:
		return nil, badResponse("answer is empty")
	case !json.Valid(body):
		var value json.RawMessage
		return nil, badResponse(notJSON(body, a.mediaType, json.Unmarshal(body, &value)))
	case !utf8.Valid(body):
		return nil, badResponse("answer is not UTF-8")
	}
	return body, nil
}
