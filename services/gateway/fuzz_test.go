package gateway

import (
	"net/url"
	"slices"
	"testing"

	"github.com/pollcast/pollcast/pkg/topic"
)

// Whatever stands behind the ?, the topics are few, different and not empty, or
// there is an error.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{"topics=a.b,c.>", "topics=", "topics=,,", "topics=a&topics=b,a", "topics=%00", "topics=a%2Cb", "x=1", "topics=%zz", "topics=a;topics=b"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, _ := url.ParseQuery(raw) // as net/http does: what is wrong is left out
		topics, err := topicsParam(q)
		if err != nil {
			return
		}
		if q.Has("topics") != (len(topics) > 0) {
			t.Errorf("%q: have %q, and no error", raw, topics)
		}
		sorted := slices.Sorted(slices.Values(topics))
		if len(slices.Compact(sorted)) != len(topics) || slices.Contains(topics, "") {
			t.Errorf("%q: have %q, with doubles or empty ones", raw, topics)
		}
		ok := true
		for _, p := range topics {
			ok = ok && topic.CheckPattern(p) == nil
		}
		if ok {
			topic.Canonical(topics) // takes whatever was checked
		}
	})
}
