package gateway

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/event"
	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/pkg/wire"
)

// maxValues is how many values one answer of GET /v1/values may hold.
const maxValues = 10_000

// values is the answer of GET /v1/values: a snapshot, as a subscription would
// begin with.
type values struct {
	Epoch  string            `json:"epoch"`
	Seq    uint64            `json:"seq"`
	Values []*wire.Event     `json:"values"`
	Fresh  []event.Freshness `json:"fresh"`
}

// serveValues answers GET /v1/values?topics=. The ETag changes with every value
// and every freshness that the patterns cover; Age is that of the oldest value.
func (s *server) serveValues(w http.ResponseWriter, r *http.Request) {
	if !s.admit(w, r) {
		return
	}
	topics, err := topicsParam(r.URL.Query())
	if err == nil && len(topics) == 0 {
		err = fmt.Errorf("?topics= is missing; write ?topics=host.>")
	}
	if err == nil && len(topics) > s.cfg.MaxTopics {
		err = fmt.Errorf("%d topics are more than the %d of one request", len(topics), s.cfg.MaxTopics)
	}
	for _, t := range topics {
		if err == nil {
			err = topic.CheckPattern(t)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, tag, ok := s.hub.values(topic.Canonical(topics))
	if !ok {
		http.Error(w, fmt.Sprintf("more than %d values match; ask for fewer topics", maxValues), http.StatusRequestEntityTooLarge)
		return
	}
	cost := int64(len(answer.Fresh)) * frameCost
	for _, v := range answer.Values {
		cost += 2 * (int64(len(v.Data)) + frameCost)
	}
	done := s.budget.pass(cost)
	if done == nil {
		s.turnAway(w, "memory", errShort.Error())
		return
	}
	defer done()
	h := w.Header()
	h.Set("ETag", tag)
	h.Set("Cache-Control", "no-cache")
	h.Set("Vary", "Origin")
	if origin := r.Header.Get("Origin"); origin != "" {
		h.Set("Access-Control-Allow-Origin", origin)
	}
	oldest := int64(0)
	for _, v := range answer.Values {
		oldest = max(oldest, v.AgeMs)
	}
	h.Set("Age", strconv.FormatInt(oldest/1000, 10))
	if sameTag(r.Header.Get("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeJSON(w, answer)
}

// sameTag reports whether a list of entity tags holds tag, by weak comparison
// (RFC 9110, section 13.1.2). Our own tags hold no comma.
func sameTag(list, tag string) bool {
	for t := range strings.SplitSeq(list, ",") {
		if t = strings.TrimSpace(t); t == "*" || strings.TrimPrefix(t, "W/") == tag {
			return true
		}
	}
	return false
}

// values takes a snapshot of what the patterns match; false when it is too much.
func (h *hub) values(patterns []string) (values, string, bool) {
	h.mu.Lock()
	now := h.now()
	// A feed for the moment: it finds what matches as a subscription does.
	f := h.join(patterns, asJSON, 0, now)
	c := h.collect(f, nil, h.freshness(f), nil)
	h.leave(f)
	out := values{Epoch: h.epoch, Seq: h.seq, Values: []*wire.Event{}, Fresh: []event.Freshness{}}
	h.mu.Unlock()
	if len(c.events) > maxValues {
		return out, "", false
	}
	c.sort()
	last := uint64(0)
	for _, e := range c.events {
		out.Values = append(out.Values, eventFrame(e.e, e.seq, wire.Snapshot, e.fresh, now).Event)
		last = max(last, e.seq)
	}
	out.Fresh = append(out.Fresh, c.fresh...)
	// The same on every gateway: what is known, not when or by whom it was told.
	sum := fnv.New64a()
	for _, f := range c.fresh {
		f.CheckedAt, f.Fence = time.Time{}, 0
		_, _ = sum.Write(marshal(f)) // never fails
	}
	return out, fmt.Sprintf(`"%s.%d.%d.%x"`, out.Epoch, last, len(c.events), sum.Sum64()), true
}

// serveTopics lists the polls known, with their freshness, and their topics.
func (s *server) serveTopics(w http.ResponseWriter, r *http.Request) {
	if !s.admit(w, r) {
		return
	}
	done := s.budget.pass(s.hub.listCost())
	if done == nil {
		s.turnAway(w, "memory", errShort.Error())
		return
	}
	defer done()
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, s.hub.list())
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(30 * time.Second)) // not every writer has one
	_, _ = w.Write(append(marshal(v), '\n'))                                             // a client that left needs no answer
}
