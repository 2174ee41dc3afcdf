package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// errNotRead is why a gateway cannot serve anybody yet.
var errNotRead = errors.New("the stream has not been read yet")

// ready returns nil when the gateway can serve a snapshot and reads NATS.
func (s *server) ready() error {
	epoch, down, why := s.stream()
	switch {
	case s.drained.Load():
		return errors.New("draining")
	case epoch == "":
		return fmt.Errorf("%w: %s", errNotRead, why)
	case down:
		return errors.New(why)
	}
	return nil
}

// admit answers requests that cannot be served: of pages that may not connect,
// and while there is nothing to serve. It reports whether to go on.
func (s *server) admit(w http.ResponseWriter, r *http.Request) bool {
	if !s.originAllowed(r) {
		s.metrics.refused.WithLabelValues("origin").Inc()
		s.log.Info("refused a page of another site; add it to gateway.allowedOrigins if it is yours",
			"origin", r.Header.Get("Origin"), "host", r.Host)
		http.Error(w, "pages of "+r.Header.Get("Origin")+" may not connect here (gateway.allowedOrigins)",
			http.StatusForbidden)
		return false
	}
	if err := s.canServe(); err != nil {
		s.metrics.refused.WithLabelValues("not_open").Inc()
		w.Header().Set("Retry-After", "2")
		http.Error(w, "not now: "+err.Error(), http.StatusServiceUnavailable)
		return false
	}
	return true
}

// canServe returns nil when connections can be taken: also without NATS, once the
// stream was read, since stale values that say so are better than none.
func (s *server) canServe() error {
	if s.drained.Load() {
		return errors.New("the gateway is draining")
	}
	if epoch, _, why := s.stream(); epoch == "" {
		return fmt.Errorf("%w: %s", errNotRead, why)
	}
	return nil
}

// stream returns the stream's epoch, and whether and why it cannot be read.
func (s *server) stream() (epoch string, down bool, why string) {
	s.hub.With(func(v *hub.View) {
		epoch = v.Epoch()
		down, why = v.Down()
	})
	return epoch, down, why
}

// topicsParam reads ?topics=a,b and repeated ?topics=.
func topicsParam(q url.Values) ([]string, error) {
	var out []string
	for _, v := range q["topics"] {
		for t := range strings.SplitSeq(v, ",") {
			if t != "" && !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
	}
	if len(q["topics"]) > 0 && len(out) == 0 {
		return nil, errors.New("?topics= is empty; write ?topics=host.> or leave it out")
	}
	return out, nil
}

// retry is when a client that is turned away for a reason may come again.
func (s *server) retry(reason string) time.Duration {
	if reason == reasonQueue {
		return s.gate.again()
	}
	return retryAfter()
}

// turnAway answers a request that there is no room for.
func (s *server) turnAway(w http.ResponseWriter, reason, why string) {
	s.metrics.refused.WithLabelValues(reason).Inc()
	w.Header().Set("Retry-After", strconv.Itoa(int(s.retry(reason).Seconds())))
	http.Error(w, why, http.StatusServiceUnavailable)
}

// let waits until a client may connect, and takes a place for it. If it may not,
// let returns why: as the metric's label, and in words.
func (s *server) let(ctx context.Context) (reason, why string) {
	if err := s.gate.enter(ctx); err != nil {
		return reasonQueue, errQueueFull.Error()
	}
	if !s.budget.Room(memory.ConnectionCost) {
		return "memory", errShort.Error()
	}
	if !s.conns.reserve(s.cfg.MaxConnections) {
		return "full", "as many connections as this gateway holds"
	}
	s.budget.Grow(memory.ConnectionCost)
	return "", ""
}

// originAllowed keeps pages of other sites out: a browser sends its cookies
// with every WebSocket, whatever page opens it. Programs send no Origin.
func (s *server) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	for _, o := range s.cfg.AllowedOrigins {
		if o == "*" || strings.EqualFold(o, origin) {
			return true
		}
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}
