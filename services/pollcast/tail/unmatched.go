package tail

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pollcast/pollcast/pkg/client"
	"github.com/pollcast/pollcast/pkg/topic"
)

// unmatchedAfter is the time from the connection until patterns without a match
// are reported: silence would look as if nothing happened.
const unmatchedAfter = 2 * time.Second

// unmatched are the patterns without a printed event. They are reported once; a
// topic may come later.
type unmatched struct {
	patterns []string
	timer    *time.Timer // runs from the first connection
}

func newUnmatched(patterns []string) *unmatched {
	u := &unmatched{patterns: slices.Clone(patterns), timer: time.NewTimer(time.Hour)}
	u.timer.Stop()
	return u
}

func (m *unmatched) see(u client.Update) {
	match := func(string) bool { return false }
	switch u := u.(type) {
	case *client.Event:
		match = func(p string) bool { return topic.Match(p, u.Topic) }
	case *client.Freshness:
		match = func(p string) bool { return u.Stale && topic.CoversPoll(p, u.Poll) }
	}
	m.patterns = slices.DeleteFunc(m.patterns, match)
}

// notice returns the report; it is called once.
func (m *unmatched) notice() string {
	if len(m.patterns) == 0 {
		return ""
	}
	return fmt.Sprintf("no topic matches %s yet; waiting (the gateway's /v1/topics lists what there is)",
		strings.Join(m.patterns, " "))
}
