package rest

import (
	"cmp"
	"encoding/json"
	"net/url"
	"strings"
	"sync"

	"github.com/pollcast/pollcast/services/poller/source"
)

// etags remembers the last answer to each call that had an entity tag (RFC 9110,
// 8.8.3). When the tag is sent with the call, the upstream may answer "304 Not
// Modified" instead of the value. There is one etags per upstream: another
// upstream may use the same tags for other answers.
type etags struct {
	mu    sync.Mutex
	calls map[string]remembered
	size  int
}

type remembered struct {
	etag  string
	value json.RawMessage
	id    string // callID of the call
}

// maxRemembered bounds what is remembered for one upstream, in bytes. Further
// answers are not remembered: the upstream sends them in full every time.
const maxRemembered = 32 << 20

// callID identifies a call.
func callID(u *url.URL, c source.Call) string {
	var b strings.Builder
	b.WriteString(u.String())
	b.WriteByte('\n')
	_ = c.Header.Write(&b) // sorted; a Builder returns no error
	b.WriteByte('\n')
	b.Write(c.Body)
	return b.String()
}

// any reports whether something is remembered.
func (e *etags) any() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.calls) > 0
}

// get returns the last answer to the call with this id. poll is Call.For: of a
// poll whose calls differ, only the last call is remembered.
func (e *etags) get(poll, id string) remembered {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.calls[cmp.Or(poll, id)]
	if r.id != id {
		return remembered{}
	}
	return r
}

// put remembers an answer. It replaces the last one of the call or, if poll is
// set, of the poll.
func (e *etags) put(poll, id string, r remembered) {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := cmp.Or(poll, id)
	if old, ok := e.calls[key]; ok {
		e.size -= old.bytes()
		delete(e.calls, key)
	}
	r.id = id
	if n := r.bytes(); r.etag != "" && e.size+n <= maxRemembered {
		if e.calls == nil {
			e.calls = map[string]remembered{}
		}
		e.calls[key] = r
		e.size += n
	}
}

func (r remembered) bytes() int { return len(r.id) + len(r.etag) + len(r.value) }
