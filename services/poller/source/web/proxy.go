package web

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
)

// Upstreams may be behind a proxy, which HTTP_PROXY and HTTPS_PROXY name. A
// failure at the proxy is reported as the proxy's and not as the upstream's.

// errProxyAddress does not quote the address, which may hold a password.
var errProxyAddress = errors.New("HTTP_PROXY or HTTPS_PROXY is no URL")

// through returns choose without the texts of its errors.
func through(choose func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		u, err := choose(r)
		if err != nil {
			return nil, errProxyAddress
		}
		return u, nil
	}
}

// proxyAnswered makes an error of a proxy's answer to CONNECT, with the standard
// words for the status.
func proxyAnswered(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	return errors.New("the proxy answers HTTP " + statusText(answer))
}

// proxyDetail returns why there is no connection to a proxy; "" if err is about
// something else.
func proxyDetail(err error) string {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "proxyconnect" || op.Err == nil {
		return ""
	}
	return "the proxy: " + connectionDetail(op.Err)
}
