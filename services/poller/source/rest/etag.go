package rest

import (
	"cmp"
	"encoding/json"
	"net/url"
	"strings"
	"sync"

	"github.com/pollcast/pollcast/services/poller/source"
)

// etags remembers, call by call, the last answer of an upstream that named it
// (RFC 9110, 8.8.3). Asked with that name, the upstream may say "304 Not
// Modified" instead of sending the answer again. What is remembered is this
// upstream's own: another one's answers may bear the same names.
type etags struct {
	mu    sync.Mutex
	calls map[string]remembered
	size  int
}

type remembered struct {
	etag  string
	value json.RawMessage
	id    string // of the call that was answered
}

// maxRemembered bounds what is remembered for one upstream, in bytes. What
// comes beyond is not remembered, and so sent whole every time.
const maxRemembered = 32 << 20

// callID tells calls apart.
func callID(u *url.URL, c source.Call) string {
	var b strings.Builder
	b.WriteString(u.String())
	b.WriteByte('\n')
	_ = c.Header.Write(&b) // sorted; a Builder takes all
	b.WriteByte('\n')
	b.Write(c.Body)
	return b.String()
}

// any says that there is something to remember.
func (e *etags) any() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.calls) > 0
}

// get returns the last answer to a call. Of those that who makes it is
// remembered only if no other was made since; who is Call.For.
func (e *etags) get(who, id string) remembered {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.calls[cmp.Or(who, id)]
	if r.id != id {
		return remembered{}
	}
	return r
}

// put remembers an answer instead of the call's, or who's, last one.
func (e *etags) put(who, id string, r remembered) {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := cmp.Or(who, id)
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
