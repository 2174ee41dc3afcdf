// Package rest is the driver http: any HTTP request that is answered with JSON.
// etag.go remembers answers, so that an upstream need not send them again.
package rest

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

	"github.com/pollcast/pollcast/services/poller/source"
	"github.com/pollcast/pollcast/services/poller/source/web"
)

// Driver is the driver http.
var Driver = source.Driver{
	Open: open, Schemes: web.Schemes, Path: "/path", Check: source.CheckCalls(check),
}

// upstream is an upstream that answers HTTP requests with JSON.
type upstream struct {
	*web.Client
	base  *url.URL
	known etags
}

// check reports the mistakes of a call.
func check(c source.Call, report source.Report) {
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

func open(e source.Endpoint) (source.Func, func(), error) {
	base, err := url.Parse(e.URL)
	if err != nil {
		return nil, nil, errors.New("it is no URL") // the error would quote it
	}
	if base.Path == "" {
		base.Path = "/" // without it JoinPath would return a path without a leading slash
	}
	u := &upstream{Client: web.New(e), base: base}
	return e.Scrub(u.call), u.Close, nil
}

func (u *upstream) call(ctx context.Context, c source.Call) (json.RawMessage, error) {
	to := u.base
	if c.Path != "" {
		to = to.JoinPath(c.Path)
	}
	if len(c.Query) > 0 {
		with := *to
		with.RawQuery = strings.TrimPrefix(to.RawQuery+"&"+c.Query.Encode(), "&")
		to = &with
	}
	method, body := c.Method, io.Reader(nil)
	if method == "" {
		method = http.MethodGet
	}
	if c.Body != nil {
		body = bytes.NewReader(c.Body)
	}
	// The URL is set below: it need not be written and parsed again.
	req, err := http.NewRequestWithContext(ctx, method, "", body)
	if err != nil {
		return nil, source.Rejected("request cannot be made")
	}
	req.URL, req.Host = to, to.Host
	req.Header["Accept"] = web.ApplicationJSON
	if c.Body != nil {
		req.Header["Content-Type"] = web.ApplicationJSON
	}
	var id string
	var old remembered
	if method == http.MethodGet && u.known.any() {
		id = callID(to, c)
		if old = u.known.get(c.For, id); old.etag != "" {
			req.Header.Set("If-None-Match", old.etag)
		}
	}
	a, err := u.Do(ctx, req, c.Header, u.MaxAnswer)
	if err != nil {
		return nil, err
	}
	if a.Status == http.StatusNotModified && old.etag != "" {
		return old.value, nil
	}
	value, err := jsonValue(a)
	if err == nil && method == http.MethodGet && (id != "" || a.ETag != "") {
		u.known.put(c.For, callID(to, c), remembered{etag: a.ETag, value: value})
	}
	return value, err
}

// jsonValue returns the answer as a value: null for 204, which has none.
func jsonValue(a *web.Answer) (json.RawMessage, error) {
	if a.Status == http.StatusNoContent {
		return json.RawMessage("null"), nil
	}
	if f := a.Failure(); f != nil {
		return nil, f
	}
	body := bytes.TrimSpace(a.Body)
	switch {
	case len(body) == 0:
		return nil, source.BadResponse("answer is empty")
	case !json.Valid(body):
		var value json.RawMessage
		return nil, source.BadResponse(web.NotJSON(body, a.MediaType, json.Unmarshal(body, &value)))
	case !utf8.Valid(body):
		return nil, source.BadResponse("answer is not UTF-8")
	}
	return body, nil
}
