package gateway

import (
	"maps"
	"slices"
	"sync"
)

// A registry is the connections of a gateway and the places they take.
type registry struct {
	mu    sync.Mutex
	m     map[uint64]*session
	n     int           // places taken: with those on their way in
	empty chan struct{} // set when no more may come; closed when none is left
}

// reserve takes one of max places; false when all are taken.
func (r *registry) reserve(max int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n >= max || r.empty != nil {
		return false
	}
	r.n++
	return true
}

// release gives a place back.
func (r *registry) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n--; r.n == 0 && r.empty != nil {
		close(r.empty)
	}
}

// shut takes no more connections. The channel it returns is closed when the
// last one has gone.
func (r *registry) shut() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.empty = make(chan struct{})
	if r.n == 0 {
		close(r.empty)
	}
	return r.empty
}

// add fills a reserved place.
func (r *registry) add(c *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[uint64]*session{}
	}
	r.m[c.ID] = c
}

// remove frees the place of a connection that is gone.
func (r *registry) remove(c *session) {
	r.mu.Lock()
	delete(r.m, c.ID)
	r.mu.Unlock()
	r.release()
}

func (r *registry) all() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.m))
}

// each calls fn for every connection, under the registry's mutex.
func (r *registry) each(fn func(*session)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.m {
		fn(c)
	}
}
