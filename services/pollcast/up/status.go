package up

import (
	"net/http"
	"sync/atomic"

	"github.com/pollcast/pollcast/services/poller"
)

// pollerStatus serves what the poller is doing on the operations port, which is
// the gateway's and there before the poller is.
type pollerStatus struct{ handler atomic.Pointer[http.Handler] }

func (s *pollerStatus) show(p *poller.Poller) {
	h := p.StatusHandler()
	s.handler.Store(&h)
}

func (s *pollerStatus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := s.handler.Load()
	if h == nil {
		http.Error(w, "the poller is starting", http.StatusServiceUnavailable)
		return
	}
	(*h).ServeHTTP(w, r)
}
