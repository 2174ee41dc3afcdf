package gateway

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/topic"
	"github.com/pollcast/pollcast/services/gateway/frame"
	"github.com/pollcast/pollcast/services/gateway/hub"
	"github.com/pollcast/pollcast/services/gateway/memory"
)

// maxValues is how many values one answer of GET /v1/values may hold.
const maxValues = 10_000

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
	answer, tag, ok := s.hub.Values(topic.Canonical(topics), maxValues)
	if !ok {
		http.Error(w, fmt.Sprintf("more than %d values match; ask for fewer topics", maxValues),
			http.StatusRequestEntityTooLarge)
		return
	}
	cost := int64(len(answer.Fresh)) * memory.FrameCost
	for _, v := range answer.Values {
		cost += 2 * (int64(len(v.Data)) + memory.FrameCost)
	}
	done := s.budget.Pass(cost)
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

// serveTopics lists the polls known, with their freshness, and their topics.
func (s *server) serveTopics(w http.ResponseWriter, r *http.Request) {
	if !s.admit(w, r) {
		return
	}
	cost := int64(0)
	s.hub.With(func(v *hub.View) { cost = v.ListCost() })
	done := s.budget.Pass(cost)
	if done == nil {
		s.turnAway(w, "memory", errShort.Error())
		return
	}
	defer done()
	w.Header().Set("Cache-Control", "no-store")
	var list hub.Listing
	s.hub.With(func(v *hub.View) { list = v.List() })
	writeJSON(w, list)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(30 * time.Second)) // not every writer has one
	_, _ = w.Write(append(frame.Marshal(v), '\n'))                                       // a client that left needs no answer
}
