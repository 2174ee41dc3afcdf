package web

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
)

// Upstreams may be asked through a proxy, which HTTP_PROXY and HTTPS_PROXY name.
// What goes wrong there is said of the proxy, and not of the upstream.

// errProxyAddress says nothing of the address, which may hold a password.
var errProxyAddress = errors.New("HTTP_PROXY or HTTPS_PROXY is no URL")

// through is the choice of a proxy without the words of its errors.
func through(choose func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		u, err := choose(r)
		if err != nil {
			return nil, errProxyAddress
		}
		return u, nil
	}
}

// proxyAnswered turns what a proxy says to CONNECT into an error, with the
// standard words for it.
func proxyAnswered(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	return errors.New("the proxy answers HTTP " + statusText(answer))
}

// proxyDetail says why there is no connection to a proxy; "" if that is not what
// err is about.
func proxyDetail(err error) string {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "proxyconnect" || op.Err == nil {
		return ""
	}
	return "the proxy: " + connectionDetail(op.Err)
}
